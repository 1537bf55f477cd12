"""What a mail carries through a provider and back: which mail of which database it is.

A provider's report names the mail by the provider's own number, which may be here before our row
knows it, or not at all. So every request carries a reference as metadata. A number alone would not
do: test and production often share an account, and both have a mail 17. The second part is taken
from the Message-ID, which is random, so that a report for another database's mail fits none here.
"""

from __future__ import annotations

import re
from hashlib import sha256

#: Under this name it travels as metadata (at most 20 characters: Postmark takes no more).
NAME = "deferred-mail-job"

_FORM = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16})")


def reference(job_id: int, message_id: str) -> str:
    """The reference of a mail: digits, ``a`` to ``f`` and one hyphen, at most 36 characters."""
    return f"{job_id}-{sha256(message_id.encode()).hexdigest()[:16]}"


def job_of(text: object) -> int | None:
    """The number of the mail that a reference is of; ``None`` if it is no reference.

    It says nothing until ``reference(number, message_id of that row)`` is the same text.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    return int(match[1]) if match else None
