"""The tags of Resend and Amazon SES: names and values of letters, digits, ``_`` and ``-``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..letter import Letter

#: Characters of a name or a value.
MAX_TAG = 256

_TAG = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TAG}}}")


def is_tag(text: str) -> bool:
    """Whether a text may be the name or the value of a tag."""
    return _TAG.fullmatch(text) is not None


def with_fitting_tags(letter: Letter) -> Letter:
    """The letter with those of its tags and metadata whose characters are allowed."""
    merged = {email: _fitting(own) for email, own in letter.merge_metadata.items()}
    return replace(
        letter,
        tags=tuple(filter(is_tag, letter.tags)),
        metadata=_fitting(letter.metadata),
        merge_metadata=merged,
    )


def _fitting(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if is_tag(name) and is_tag(value)}
