"""What the adapters of cloud providers share: codes that come in families, and lists refused whole.

Aliyun and Tencent put a family before the single code: ``Throttling.User``,
``AuthFailure.SignatureExpire``. New members come without notice, so tables name whole families.
"""

from __future__ import annotations

from dataclasses import replace

from ..outcome import Fate, Outcome


class Families(frozenset[str]):
    """Codes, of which those with a ``*`` at their end stand for all that begin so."""

    def __contains__(self, code: object) -> bool:
        if not isinstance(code, str):
            return False
        return any(
            code.startswith(known[:-1]) if known.endswith("*") else code == known for known in self
        )


def refused_whole(outcome: Outcome) -> Outcome:
    """The outcome, without calling everybody of a list suppressed because one of them is.

    Who it is the provider does not say, so all of them are refused, and none is told to be on a
    list of dead addresses.
    """
    if len(outcome.results) < 2:
        return outcome
    results = tuple(
        replace(result, fate=Fate.REFUSED) if result.fate is Fate.SUPPRESSED else result
        for result in outcome.results
    )
    return replace(outcome, results=results)
