"""A DNS server on 127.0.0.1 that knows what a test tells it, and answers over UDP.

    with DnsServer({("example.com", "MX"): ["10 mx.example.com."]}) as server:
        ... server.place

A name of which nothing is known does not exist. One in ``silent`` gets no answer at all, one in
``failing`` SERVFAIL.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping, Sequence

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


class DnsServer:
    """The server; starts on entering ``with``."""

    def __init__(
        self,
        zone: Mapping[tuple[str, str], Sequence[str]],
        *,
        silent: Sequence[str] = (),
        failing: Sequence[str] = (),
    ) -> None:
        self.zone = {(name.lower(), kind): list(lines) for (name, kind), lines in zone.items()}
        self.silent, self.failing = set(silent), set(failing)
        #: Name and kind of each question.
        self.asked: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="dns")

    @property
    def place(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> DnsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A datagram without content ends it: closing a socket wakes nobody who waits on it.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, who = self._socket.recvfrom(4096)
            if not data:
                return
            answer = self._answer(dns.message.from_wire(data))
            if answer is not None:
                with contextlib.suppress(OSError):
                    self._socket.sendto(answer.to_wire(), who)

    def _answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if name in self.silent:
            return None
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        lines = self.zone.get((name, kind))
        if name in self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif lines:
            answer.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, lines))
        elif not any(known == name for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer


def txt(text: str) -> str:
    """A TXT record's content: strings of at most 255 characters, as long keys need them."""
    return " ".join(f'"{text[i : i + 255]}"' for i in range(0, len(text), 255))
