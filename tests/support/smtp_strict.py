"""What a strict mail server may refuse in the bytes of a client (RFC 5321, RFC 6152, RFC 6531)."""

from __future__ import annotations

import re

_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE_LF = re.compile(rb"(?<!\r)\n")


def body_faults(raw: bytes, options: list[str]) -> list[str]:
    """What is wrong with a mail as it came over the wire, before dots are unstuffed.

    :param options: the parameters of its MAIL command.
    """
    faults = []
    if _BARE_CR.search(raw):
        faults.append("bare CR")
    if _BARE_LF.search(raw):
        faults.append("bare LF")
    lines = raw.split(b"\r\n")
    if any(len(line.removeprefix(b".")) > 998 for line in lines):
        faults.append("a line is longer than 998 octets")
    if any(line.startswith(b".") and not line.startswith(b"..") for line in lines):
        faults.append("a leading dot was not doubled")
    if b"\0" in raw:
        faults.append("NUL")
    eight_bit = {option.upper() for option in options} & {"BODY=8BITMIME", "SMTPUTF8"}
    if not raw.isascii() and not eight_bit:
        faults.append("8-bit data without BODY=8BITMIME")
    head = raw.partition(b"\r\n\r\n")[0]
    if not head.isascii() and "SMTPUTF8" not in options:
        faults.append("8-bit header without SMTPUTF8")
    return faults


def command_faults(raw: bytes, *, smtputf8: bool) -> list[str]:
    """What is wrong with a command line, given without its final LF."""
    faults = []
    if not raw.endswith(b"\r"):
        faults.append("a command ended in a bare LF")
    if len(raw) > 1024:
        faults.append("a command line is too long")
    verb = raw[:4].upper()
    if not raw.isascii() and verb != b"RCPT" and not smtputf8:
        faults.append("8-bit command without SMTPUTF8")
    return faults
