"""One mail over an open connection: MAIL, RCPT, DATA, the body, the dot, and what came of it.

The line that matters runs right before the final dot. Until then a break is harmless: the server
throws the half away. From then on, without an answer, nobody knows. And the answer to MAIL parts
what the transport pays for from what the mail does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

from .. import crashpoints
from ..deadline import Deadline
from ..mime import address_needs_utf8
from ..outcome import Fate, FaultKind, Outcome
from .base import Call
from .smtp_connection import Broken, SmtpConnection
from .smtp_envelope import PATH, Ahead, goes_at_once, mail_line, rcpt_line, size_limit
from .smtp_opening import Endpoint
from .smtp_replies import NO_MAILBOX, Reply, Stage, judge, too_many_recipients
from .smtp_settling import COMMANDS, Settling

#: Bytes up to which a body goes out in one write with its end.
_SMALL = 16 * 1024
#: Bytes of a TLS record (RFC 8446 5.1): what fits into one arrives whole or not at all.
_TLS_RECORD = 16 * 1024
_END = b".\r\n"
_DOT_OPENS_LINE = re.compile(rb"\n\.")
#: Seconds for answers on which nothing depends any more but the use of the connection.
_READ_PAST = 5.0


def _nothing(_call: Call, _connection: SmtpConnection) -> None:
    """No mail follows."""


class Transaction(Settling):
    """One envelope. :meth:`run` once, then look at ``reusable`` and ``failed_before_mail``.

    :param data: the mail as bytes, CRLF lines only.
    :param following: asked, right before the end of the mail, for the next one of this call's
        connection, whose envelope then goes along.
    :param mail_deadline: until when MAIL must be answered; sooner than the attempt's deadline on
        a connection that may have died while it was idle.
    """

    #: The answer that put recipients off to another envelope, if one did.
    _full: Reply | None = None

    def __init__(
        self,
        connection: SmtpConnection,
        endpoint: Endpoint,
        call: Call,
        data: bytes,
        mail_deadline: Deadline | None = None,
        following: Callable[[Call, SmtpConnection], Ahead | None] = _nothing,
    ) -> None:
        super().__init__(connection, endpoint, call)
        self._data = data
        self._mail_deadline = mail_deadline or call.deadline
        self._following = following
        self._accepted: list[str] = []

    def run(self) -> Outcome:
        """Hand the mail over as far as it goes.

        :raises HandoverRefused: from ``call.hand_over``; the dot was not sent.
        """
        try:
            # One whose envelope is out has been looked at before that.
            announced = self._connection.take_ahead() is not None
            if (announced or self._fits()) and self._envelope(announced):
                self._hand_over()
        except Broken as trouble:
            self._break(trouble)
        self._leave_stage()
        return self._outcome()

    # -- before MAIL -----------------------------------------------------------------------------

    def _fits(self) -> bool:
        """Refuse what this server cannot take, before it is troubled with it."""
        self.reusable = True
        limit = size_limit(self._connection.extensions)
        if limit < len(self._data):
            self._settle_all(
                Fate.REFUSED,
                f"the mail has {len(self._data)} bytes, {self._endpoint.host} takes {limit}",
            )
        self._refuse_odd_addresses()
        if "SMTPUTF8" not in self._connection.extensions:
            self._refuse_utf8()
        return bool(self._open)

    def _refuse_odd_addresses(self) -> None:
        if not PATH.fullmatch(self._call.letter.envelope_sender):
            self._settle_all(Fate.FAILED, "the envelope sender is no address that can be sent")
        for email in list(self._open):
            if not email or not PATH.fullmatch(email):
                self._settle(email, Fate.REFUSED, "no address that can stand in an envelope")

    def _refuse_utf8(self) -> None:
        """A header that this server cannot read ends the mail; a mere recipient only itself."""
        letter = self._call.letter
        lacks = f"{self._endpoint.host} takes ASCII addresses only (it has no SMTPUTF8)"
        if address_needs_utf8(letter.envelope_sender):
            self._settle_all(Fate.REFUSED, f"envelope sender {letter.envelope_sender}: {lacks}")
        elif not self._data.isascii():
            named = ", ".join(filter(address_needs_utf8, self._shown_addresses()))
            self._settle_all(Fate.REFUSED, f"{named or 'a header field'}: {lacks}")
        for email in list(filter(address_needs_utf8, self._open)):
            self._settle(email, Fate.REFUSED, f"{email}: {lacks}")

    def _shown_addresses(self) -> Iterator[str]:
        letter = self._call.letter
        shown = self._call.recipients if letter.private_copies else letter.recipients
        yield letter.sender.email
        yield from (address.email for address in letter.reply_to)
        yield from (recipient.email for recipient in shown if recipient.kind != "bcc")

    # -- the envelope ----------------------------------------------------------------------------

    def _envelope(self, announced: bool) -> bool:
        """MAIL, RCPT and DATA; false when there is nobody to send a body for."""
        self.reusable = False
        connection = self._connection
        if announced or goes_at_once(self._open, connection.extensions):
            return self._all_at_once(announced)
        self._enter(Stage.MAIL)
        if connection.needs_reset:
            self._reset(connection.command("RSET", self._mail_step()))
        if not self._after_mail(connection.command(self._mail_line(), self._mail_step())):
            return False
        self._enter(Stage.RCPT)
        for email in list(self._open):
            if not self._after_rcpt(email, connection.command(rcpt_line(email), self._step())):
                return False
            if self._full:
                break
        if not self._somebody():
            return False
        self.reusable = False
        self._enter(Stage.DATA)
        return self._after_data(connection.command("DATA", self._step()))

    def _all_at_once(self, announced: bool) -> bool:
        """The envelope in one write, then its answers in order (RFC 2920).

        ``announced``: it went out already, with the end of the mail before.
        """
        connection, emails = self._connection, list(self._open)
        self._enter(Stage.MAIL)
        reset = connection.needs_reset and not announced
        if not announced:
            lines = [self._mail_line(), *map(rcpt_line, emails), "DATA"]
            connection.send_lines(["RSET", *lines] if reset else lines, self._mail_step())
        if reset:
            self._reset(connection.read_reply(self._mail_step()))
        if not self._after_mail(connection.read_reply(self._mail_step())):
            self._read_past(len(emails) + 1)
            return False
        self._enter(Stage.RCPT)
        for email in emails:
            if not self._after_rcpt(email, connection.read_reply(self._step())):
                return False
        if not self._somebody():
            self._read_past(1)
            return False
        self.reusable = False
        self._enter(Stage.DATA)
        return self._after_data(connection.read_reply(self._step()))

    def _read_past(self, answers: int) -> None:
        """Read what the server says to commands that had gone along. One that would now take a
        body for nobody is left alone: that is safe, and an empty mail might not be."""
        if not self.reusable:
            return
        self.reusable = False
        deadline = self._call.deadline.sooner(_READ_PAST)
        with suppress(Broken):
            for _ in range(answers):
                reply = self._connection.read_reply(deadline)
            self.reusable = reply.code >= 400 and reply.code != 421

    def _reset(self, reply: Reply) -> None:
        """RSET is left until the next mail, so that no mail's result waits for it."""
        if not reply.ok:
            raise Broken(f"the server answered {reply} to RSET")

    def _mail_line(self) -> str:
        sender, extensions = self._call.letter.envelope_sender, self._connection.extensions
        return mail_line(sender, self._open, self._data, extensions)

    def _after_mail(self, reply: Reply) -> bool:
        self._sensible(reply)
        self._connection.needs_reset = True
        return self._go_on(reply, reply.ok)

    def _after_rcpt(self, email: str, reply: Reply) -> bool:
        """Note the answer to one RCPT; false when it speaks for more than that recipient."""
        self._sensible(reply)
        if reply.ok:
            self._accepted.append(email)
        elif self._accepted and too_many_recipients(reply):
            self._full = reply
        else:
            return self._one_refused(email, reply)
        return True

    def _somebody(self) -> bool:
        """Whether anybody is to get a body. Who is left out is not reached by this envelope, and
        wants one of his own."""
        if self._full is not None:
            for email in self._open.keys() - set(self._accepted):
                self._settle(email, Fate.UNTRIED, str(self._full))
        self.reusable = not self._accepted and self._fault is None
        return bool(self._accepted)

    def _one_refused(self, email: str, reply: Reply) -> bool:
        """Note one recipient's refusal; false when it speaks for more than that recipient."""
        verdict = judge(Stage.RCPT, reply)
        if verdict.whole_server or verdict.fault is FaultKind.ACCOUNT:
            return self._go_on(reply, False)
        self._note_verdict(verdict, reply)
        no_mailbox = verdict.fate is Fate.REFUSED and reply.enhanced in NO_MAILBOX
        self._settle(email, verdict.fate, str(reply), no_mailbox)
        return True

    # -- the body --------------------------------------------------------------------------------

    def _after_data(self, reply: Reply) -> bool:
        self._sensible(reply, 354, 354)
        return self._go_on(reply, reply.code == 354)

    def _hand_over(self) -> None:
        """The body, and the point of no return. A small body goes out together with its end."""
        body = dot_stuffed(self._data)
        if len(body) > _SMALL:
            self._connection.write(body, self._call.deadline)
            body = b""
        if not body or self._connection.has_input:
            self._heed(self._connection.unsolicited())
        following = self._following(self._call, self._connection)
        crashpoints.reached("smtp.before_dot")
        self._call.hand_over()
        self._enter(Stage.DOT)
        deadline = Deadline.after(self._call.final_reply_timeout)
        self._dot(body, following, self._call.deadline if body else deadline)
        crashpoints.reached("smtp.after_dot")
        reply = self._sensible(self._connection.read_reply(deadline))
        crashpoints.reached("smtp.after_final_reply")
        self._connection.mails += 1
        self._connection.needs_reset = not reply.ok
        if self._go_on(reply, reply.ok):
            self._settle_all(Fate.ACCEPTED, str(reply))
            self.reusable = True
        self._connection.ahead = following

    def _heed(self, early: Reply | None) -> None:
        """A server that already says something is not listening."""
        if early is not None:
            if judge(Stage.DATA, early).whole_server:
                self._server_wide = str(early)
            raise Broken(f"the server answered {early} before the mail was complete")

    def _dot(self, rest: bytes, following: Ahead | None, deadline: Deadline) -> None:
        """The end of the mail, and with it the envelope of the next one.

        An error means that not all of it left. Without the last byte of the end the server cannot
        act on this mail.
        """
        envelope = b"" if following is None else following.commands
        data = b"".join((rest, _END, envelope))
        try:
            self._connection.write(data, deadline)
        except Broken:
            # Of several TLS records the first may be out, though no byte was said to be taken.
            records = self._connection.tls is not None and len(data) > _TLS_RECORD
            self._dot_is_out = records or self._connection.written >= len(data) - len(envelope)
            raise
        self._dot_is_out = True

    def _sensible(self, reply: Reply, least: int = 200, most: int = 299) -> Reply:
        """A reply that is neither a refusal nor what the command asks for helps nobody."""
        if reply.code < 400 and not least <= reply.code <= most:
            raise Broken(f"the server answered {reply} to {COMMANDS[self._stage]}")
        return reply

    # -- time ------------------------------------------------------------------------------------

    def _step(self) -> Deadline:
        return self._endpoint.step(self._call.deadline)

    def _mail_step(self) -> Deadline:
        return self._endpoint.step(self._mail_deadline)


def dot_stuffed(data: bytes) -> bytes:
    """The body as it goes over the wire, up to the final dot (RFC 5321 4.5.2)."""
    # The search is several times as fast as the replacement, which most mails need not have.
    if _DOT_OPENS_LINE.search(data):
        data = data.replace(b"\r\n.", b"\r\n..")
    if data.startswith(b"."):
        data = b"." + data
    return data if not data or data.endswith(b"\r\n") else data + b"\r\n"
