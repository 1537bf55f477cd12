"""One mail over an open connection: MAIL, RCPT, DATA, the body, the dot, and what came of it.

The line that matters runs right before the final dot. Until then a break is harmless: the server
throws the half away. From then on, without an answer, nobody knows. And the answer to MAIL parts
what the transport pays for from what the mail does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .. import crashpoints
from ..deadline import Deadline
from ..mime import address_needs_utf8, header_needs_utf8
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote, TransportFault
from .base import Call
from .smtp_connection import Broken, SmtpConnection
from .smtp_opening import Endpoint
from .smtp_replies import Judgement, Reply, Stage, judge, queue_id, too_many_recipients

#: What may stand between the angle brackets of MAIL and RCPT; the message was checked before,
#: this is the last door (RFC 5321 4.1.2, RFC 6531 3.3; quoted local parts are not accepted).
_PATH = re.compile(r"[^\s<>\x00-\x20\x7f-\x9f]*")
#: Answers to MAIL that an old connection may get and a new one not: 421, a lapsed login.
_STALE = frozenset({FaultKind.UNREACHABLE, FaultKind.ACCOUNT})
_DECIDED = frozenset({Fate.ACCEPTED, Fate.REFUSED, Fate.FAILED, Fate.UNKNOWN})


class Transaction:
    """One envelope. :meth:`run` once, then look at ``reusable`` and ``failed_before_mail``.

    :param data: the mail as bytes, CRLF lines only.
    :param mail_deadline: until when MAIL must be answered; sooner than the attempt's deadline on
        a connection that may have died while it was idle.
    """

    def __init__(
        self,
        connection: SmtpConnection,
        endpoint: Endpoint,
        call: Call,
        data: bytes,
        mail_deadline: Deadline | None = None,
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._call = call
        self._data = data
        self._mail_deadline = mail_deadline or call.deadline
        self._open: dict[str, None] = {r.email: None for r in call.recipients}
        self._results: dict[str, RecipientResult] = {}
        self._accepted: list[str] = []
        self._stage = Stage.MAIL
        self._dot_is_out = False
        self._fault: TransportFault | None = None
        self._server_wide: str | None = None
        self._message_config = False
        self._final: Reply | None = None
        self._broken = False
        # What opening the connection took is told with its first mail.
        self._phases, connection.phases = connection.phases, {}
        #: Another mail may follow on this connection.
        self.reusable = False
        #: The transport is at fault and MAIL was not accepted: another connection may do better.
        self.failed_before_mail = False

    def run(self) -> Outcome:
        """Hand the mail over as far as it goes.

        :raises HandoverRefused: from ``call.hand_over``; the dot was not sent.
        """
        try:
            if self._fits() and self._mail() and self._rcpt() and self._ask_data():
                self._body()
                self._dot()
        except Broken as trouble:
            self._break(trouble)
        return self._outcome()

    # -- before MAIL -----------------------------------------------------------------------------

    def _fits(self) -> bool:
        """Refuse what this server cannot take, before it is troubled with it."""
        self.reusable = True
        limit = self._connection.extensions.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit) < len(self._data):
            self._settle_all(
                Fate.REFUSED,
                f"the mail has {len(self._data)} bytes, {self._endpoint.host} takes {limit}",
            )
        self._refuse_odd_addresses()
        if "SMTPUTF8" not in self._connection.extensions:
            self._refuse_utf8()
        return bool(self._open)

    def _refuse_odd_addresses(self) -> None:
        if not _PATH.fullmatch(self._call.letter.envelope_sender):
            self._settle_all(Fate.FAILED, "the envelope sender is no address that can be sent")
        for email in list(self._open):
            if not email or not _PATH.fullmatch(email):
                self._settle(email, Fate.REFUSED, "no address that can stand in an envelope")

    def _refuse_utf8(self) -> None:
        """A header that this server cannot read ends the mail; a mere recipient only itself."""
        letter = self._call.letter
        lacks = f"{self._endpoint.host} takes ASCII addresses only (it has no SMTPUTF8)"
        if address_needs_utf8(letter.envelope_sender):
            self._settle_all(Fate.REFUSED, f"envelope sender {letter.envelope_sender}: {lacks}")
        elif self._header_is_utf8():
            named = ", ".join(filter(address_needs_utf8, self._shown_addresses()))
            self._settle_all(Fate.REFUSED, f"{named or 'a header field'}: {lacks}")
        for email in list(filter(address_needs_utf8, self._open)):
            self._settle(email, Fate.REFUSED, f"{email}: {lacks}")

    def _header_is_utf8(self) -> bool:
        letter = self._call.letter
        return header_needs_utf8(
            letter, self._call.recipients[0] if letter.private_copies else None
        )

    def _shown_addresses(self) -> Iterator[str]:
        letter = self._call.letter
        shown = self._call.recipients if letter.private_copies else letter.recipients
        yield letter.sender.email
        yield from (address.email for address in letter.reply_to)
        yield from (recipient.email for recipient in shown if recipient.kind != "bcc")

    # -- the envelope ----------------------------------------------------------------------------

    def _mail(self) -> bool:
        self.reusable = False
        with self._during(Stage.MAIL):
            if self._connection.needs_reset:
                self._reset()
            deadline = self._endpoint.step(self._mail_deadline)
            reply = self._ask(self._mail_line(), deadline)
        self._connection.needs_reset = True
        return self._go_on(reply, reply.ok)

    def _reset(self) -> None:
        """RSET is left until now, so that no mail's result waits for it."""
        reply = self._connection.command("RSET", self._endpoint.step(self._mail_deadline))
        if not reply.ok:
            raise Broken(f"the server answered {reply} to RSET")

    def _mail_line(self) -> str:
        sender = self._call.letter.envelope_sender
        line = f"MAIL FROM:<{sender}>"
        if "SIZE" in self._connection.extensions:
            line += f" SIZE={len(self._data)}"
        if self._header_is_utf8() or any(map(address_needs_utf8, [sender, *self._open])):
            line += " SMTPUTF8"
            if "8BITMIME" in self._connection.extensions:
                line += " BODY=8BITMIME"
        return line

    def _rcpt(self) -> bool:
        """Name the recipients one by one; false when there is nobody to send a body for."""
        with self._during(Stage.RCPT):
            for email in list(self._open):
                reply = self._ask(f"RCPT TO:<{email}>", self._step())
                if reply.ok:
                    self._accepted.append(email)
                elif self._accepted and too_many_recipients(reply):
                    break
                elif not self._one_refused(email, reply):
                    return False
        # Those who are left are not reached by this envelope and want one of their own.
        for email in self._open.keys() - set(self._accepted):
            self._settle(email, Fate.UNTRIED, str(reply))
        self.reusable = not self._accepted and self._fault is None
        return bool(self._accepted)

    def _one_refused(self, email: str, reply: Reply) -> bool:
        """Note one recipient's refusal; false when it speaks for more than that recipient."""
        verdict = judge(Stage.RCPT, reply)
        if verdict.whole_server or verdict.fault is FaultKind.ACCOUNT:
            return self._go_on(reply, False)
        self._note_verdict(verdict, reply)
        self._settle(email, verdict.fate, str(reply))
        return True

    # -- the body --------------------------------------------------------------------------------

    def _ask_data(self) -> bool:
        self.reusable = False
        with self._during(Stage.DATA):
            reply = self._ask("DATA", self._step(), expect=(354, 355))
        return self._go_on(reply, reply.code == 354)

    def _body(self) -> None:
        """Everything but the dot. A server that already says something is not listening."""
        with self._during(Stage.DATA):
            self._connection.write(dot_stuffed(self._data), self._call.deadline)
            early = self._connection.unsolicited()
        if early is not None:
            if judge(Stage.DATA, early).whole_server:
                self._server_wide = str(early)
            raise Broken(f"the server answered {early} before the mail was complete")

    def _dot(self) -> None:
        """The point of no return, and the answer that everything hangs on."""
        crashpoints.reached("smtp.before_dot")
        self._call.hand_over()
        deadline = Deadline.after(self._call.final_reply_timeout)
        with self._during(Stage.DOT):
            # An error in here means that the dot did not leave whole: the server cannot act on it.
            self._connection.write(b".\r\n", deadline)
            self._dot_is_out = True
            crashpoints.reached("smtp.after_dot")
            reply = self._sensible(self._connection.read_reply(deadline))
        crashpoints.reached("smtp.after_final_reply")
        self._connection.mails += 1
        self._connection.needs_reset = not reply.ok
        if self._go_on(reply, reply.ok):
            self._settle_all(Fate.ACCEPTED, str(reply))
            self.reusable = True

    def _ask(self, line: str, deadline: Deadline, expect: tuple[int, int] = (200, 300)) -> Reply:
        return self._sensible(self._connection.command(line, deadline), expect)

    def _sensible(self, reply: Reply, expect: tuple[int, int] = (200, 300)) -> Reply:
        """A reply that is neither a refusal nor what the command asks for helps nobody."""
        if reply.code < 400 and reply.code not in range(*expect):
            raise Broken(f"the server answered {reply} to {_COMMANDS[self._stage]}")
        return reply

    # -- what comes of it ------------------------------------------------------------------------

    def _go_on(self, reply: Reply, fine: bool) -> bool:
        """Settle everybody who is still open if the server refused the mail as a whole."""
        self._final = reply
        if fine:
            return True
        verdict = judge(self._stage, reply)
        self._note_verdict(verdict, reply)
        if verdict.fate is Fate.DEFERRED:
            self._defer_untried(str(reply))
        self._settle_all(verdict.fate, str(reply))
        self.failed_before_mail = self._stage is Stage.MAIL and verdict.fault in _STALE
        self.reusable = verdict.fault is None and not verdict.whole_server
        return False

    def _note_verdict(self, verdict: Judgement, reply: Reply) -> None:
        self._message_config |= verdict.message_config
        if verdict.fault is not None:
            words = f"{self._endpoint} answered {reply} to {_COMMANDS[self._stage]}"
            self._fault = TransportFault(verdict.fault, words)
        elif verdict.whole_server:
            self._server_wide = str(reply)

    def _break(self, trouble: Broken) -> None:
        """The conversation broke: what that means depends on how far it was."""
        self.reusable = False
        self._broken = not self._server_wide
        moment = _TOO_LATE if self._dot_is_out else _MOMENTS[self._stage]
        text = f"{self._endpoint}: {trouble} ({moment})"
        self._defer_untried(text)
        if self._dot_is_out:
            self._settle_all(Fate.UNKNOWN, text)
            return
        self._settle_all(Fate.DEFERRED, text)
        if self._stage is Stage.MAIL:
            self.failed_before_mail = True
            self._fault = TransportFault(FaultKind.UNREACHABLE, text)

    def _settle(self, email: str, fate: Fate, detail: str) -> None:
        self._results[email] = RecipientResult(email, fate, detail)
        self._open.pop(email, None)

    def _settle_all(self, fate: Fate, detail: str) -> None:
        for email in list(self._open):
            self._settle(email, fate, detail)

    def _defer_untried(self, detail: str) -> None:
        """At once is no good time for those who were not reached, after all."""
        for result in list(self._results.values()):
            if result.fate is Fate.UNTRIED:
                self._settle(result.address, Fate.DEFERRED, detail)

    def _outcome(self) -> Outcome:
        results = tuple(self._results[r.email] for r in self._call.recipients)
        return Outcome(
            results,
            fault=self._fault_for(results),
            server_wide=self._server_wide,
            unanswered=self._broken,
            # If others of this mail were taken, its sender is fit to be used.
            message_config=self._message_config
            and all(result.fate is not Fate.ACCEPTED for result in results),
            server=self._note(),
        )

    def _fault_for(self, results: Iterable[RecipientResult]) -> TransportFault | None:
        """A limit that did not keep others of this mail from being decided rests nobody."""
        limit = self._fault and self._fault.kind in (FaultKind.QUOTA, FaultKind.RATE_LIMITED)
        if limit and any(result.fate in _DECIDED for result in results):
            return None
        return self._fault

    def _note(self) -> ServerNote:
        accepted = self._final is not None and self._stage is Stage.DOT and self._final.ok
        return ServerNote(
            host=self._endpoint.host,
            address=self._connection.address,
            tls=self._connection.tls,
            queue_id=queue_id(self._final) if self._final and accepted else None,
            reply=str(self._final) if self._final else None,
            phases=dict(self._phases),
        )

    # -- time ------------------------------------------------------------------------------------

    def _step(self) -> Deadline:
        return self._endpoint.step(self._call.deadline)

    @contextmanager
    def _during(self, stage: Stage) -> Iterator[None]:
        """Remember where we are, and how long we were there."""
        self._stage = stage
        crashpoints.reached(f"smtp.{stage}")
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self._phases[stage.value] = self._phases.get(stage.value, 0.0) + spent


def dot_stuffed(data: bytes) -> bytes:
    """The body as it goes over the wire, up to the final dot (RFC 5321 4.5.2)."""
    data = data.replace(b"\r\n.", b"\r\n..")
    if data.startswith(b"."):
        data = b"." + data
    return data if not data or data.endswith(b"\r\n") else data + b"\r\n"


_COMMANDS = {
    Stage.MAIL: "MAIL",
    Stage.RCPT: "RCPT",
    Stage.DATA: "DATA",
    Stage.DOT: "the end of the mail",
}
_MOMENTS = {
    Stage.MAIL: "before MAIL was answered",
    Stage.RCPT: "during RCPT, before the mail was handed over",
    Stage.DATA: "during DATA, before the mail was handed over",
    Stage.DOT: "the final dot did not leave, so the mail was not handed over",
}
_TOO_LATE = "after the mail was handed over: it may have been accepted"
