"""Every exception that this package raises, drawn as a tree.

    DeferredMailError
    ├── ConfigurationError          settings are missing, unknown or wrong (lists every fault)
    ├── MessageError (ValueError)   a message cannot be recorded; names the field
    │   ├── BadHeaderError          line breaks, NUL or surrogates where a header value goes
    │   ├── AddressError            not an address that can stand in an envelope
    │   ├── MessageTooLarge         a cap was passed: recipients, subject, sizes
    │   └── UnsupportedFeature      the chosen transport cannot carry what the message asks for
    ├── StoreError                  the row could not be written or read
    │   ├── CommitUnknown           the connection broke at COMMIT: it may have happened
    │   ├── StoreBusy               another process held the database for too long
    │   ├── NotCommitted            a request left mail in a transaction that it did not end
    │   ├── SchemaError             tables are missing, or of a version that does not fit
    │   ├── UnknownFormat           the mail was recorded by a newer version than this one
    │   └── KeyMissing              the mail is encrypted with a key that is not configured here
    ├── JobNotFound (LookupError)   no row has that id or key
    ├── IllegalTransition           the job's status does not allow what was asked
    └── NotYetAvailable             a name of the public contract that a later release brings

Transports do not raise to tell how a mail went: they return an
:class:`~flask_deferred_mail.outcome.Outcome`. The one exception that crosses that line upwards is
:class:`HandoverRefused`, which delivery raises into a transport that asks for leave to hand over
the last byte and no longer may.
"""

from __future__ import annotations

from collections.abc import Sequence


class DeferredMailError(Exception):
    """The base of every exception that this package raises on purpose."""


class ConfigurationError(DeferredMailError):
    """One or more settings are missing, unknown or wrong.

    ``faults`` holds one sentence per fault; the exception's text lists them all. Values of
    settings that can hold secrets are never part of it.
    """

    def __init__(self, faults: Sequence[str] | str) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        if len(self.faults) == 1:
            text = self.faults[0]
        else:
            text = f"{len(self.faults)} settings need attention:\n" + "\n".join(
                f"  - {fault}" for fault in self.faults
            )
        super().__init__(text)


class MessageError(DeferredMailError, ValueError):
    """The message cannot be recorded. ``field`` names what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class BadHeaderError(MessageError):
    """A value that would stand in a header or in the envelope holds a forbidden character."""


class AddressError(MessageError):
    """A value is not an e-mail address that can stand in an envelope."""


class MessageTooLarge(MessageError):
    """A cap was passed: number of recipients, length of the subject, size of the message."""


class UnsupportedFeature(MessageError):
    """The chosen transport cannot carry something that the message asks for."""


class StoreError(DeferredMailError):
    """The database refused, failed or could not be reached; nothing was recorded."""


class StoreBusy(StoreError):
    """Another process held the database's write lock longer than we are willing to wait."""


class CommitUnknown(StoreError):
    """The connection was lost while a transaction was being committed: it may have happened."""


class NotCommitted(StoreError):
    """A request has ended with mail in the application's transaction, which it neither committed
    nor rolled back. Raised in debug mode and testing only; elsewhere it is logged."""


class SchemaError(StoreError):
    """The tables are missing, or not of a version that fits this one; the text says what to run."""


class ContentLost(StoreError):
    """A mail's content cannot be read: damaged, purged, or with an attachment missing."""


class UnknownFormat(ContentLost):
    """The mail was recorded in a format that this version cannot read; it is left alone."""


class KeyMissing(StoreError):
    """The mail is encrypted with a key that this process does not have; it is left alone."""


class JobNotFound(DeferredMailError, LookupError):
    """No recorded mail has that id or key."""


class IllegalTransition(DeferredMailError):
    """The job's status does not allow what was asked of it."""


class NotYetAvailable(DeferredMailError):
    """The name belongs to the public contract, but this release does not have it yet."""


class HandoverRefused(DeferredMailError):
    """Raised into a transport that may no longer hand over the mail that it has in hand.

    The lease is about to end, the attempt's wall clock has run out, or the process is told to
    stop. The transport must drop its connection *without* the final dot (or last byte), and let
    this exception pass: nothing was sent.
    """
