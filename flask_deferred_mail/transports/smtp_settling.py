"""What becomes of the recipients of one envelope, as the server's answers come in."""

from __future__ import annotations

import time
from collections.abc import Iterable

from .. import crashpoints
from ..outcome import Fate, FaultKind, Outcome, RecipientResult, ServerNote, TransportFault
from .base import Call
from .smtp_connection import Broken, SmtpConnection
from .smtp_opening import Endpoint
from .smtp_replies import Judgement, Reply, Stage, judge, queue_id

#: Answers to MAIL that an old connection may get and a new one not: 421, a lapsed login.
_STALE = frozenset({FaultKind.UNREACHABLE, FaultKind.ACCOUNT})
_DECIDED = frozenset({Fate.ACCEPTED, Fate.REFUSED, Fate.FAILED, Fate.UNKNOWN})


class Settling:
    """Keeps what is certain about each recipient, and at which stage of the envelope we are."""

    # Until something else turns out: most mails meet with nothing of it.
    _since: float | None = None
    _dot_is_out = False
    _fault: TransportFault | None = None
    _server_wide: str | None = None
    _message_config = False
    _final: Reply | None = None
    _broken = False
    #: Another mail may follow on this connection.
    reusable = False
    #: The transport is at fault and MAIL was not accepted: another connection may do better.
    failed_before_mail = False

    def __init__(self, connection: SmtpConnection, endpoint: Endpoint, call: Call) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._call = call
        self._open: dict[str, None] = {r.email: None for r in call.recipients}
        self._results: dict[str, RecipientResult] = {}
        self._stage = Stage.MAIL
        # What opening the connection took is told with its first mail.
        self._phases, connection.phases = connection.phases, {}

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
            words = f"{self._endpoint} answered {reply} to {COMMANDS[self._stage]}"
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

    def _settle(self, email: str, fate: Fate, detail: str, no_mailbox: bool = False) -> None:
        self._results[email] = RecipientResult(email, fate, detail, no_mailbox=no_mailbox)
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

    def _enter(self, stage: Stage) -> None:
        """Remember where we are, and how long we were where we come from."""
        self._leave_stage()
        self._stage = stage
        crashpoints.reached(f"smtp.{stage}")

    def _leave_stage(self) -> None:
        now = time.monotonic()
        if self._since is not None:
            name = str(self._stage)
            self._phases[name] = self._phases.get(name, 0.0) + now - self._since
        self._since = now


COMMANDS = {
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
