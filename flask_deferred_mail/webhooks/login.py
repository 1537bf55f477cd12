"""Proof by user and password, or by a token: for providers that sign nothing."""

from __future__ import annotations

from typing import ClassVar

from ..webhook_spec import WebhookSpec
from .receiver import Refused, WebhookRequest, any_same, from_base64, same

#: What such a provider's entry may hold, and what it must.
FIELDS: frozenset[str] = frozenset({"user", "password", "token", "header"})
NEEDS: tuple[frozenset[str], ...] = (frozenset({"user", "password"}), frozenset({"token"}))


class Login:
    """Checks who posts. Both ways may be configured; one of them has to fit."""

    #: Status of a refusal, as the provider understands it.
    status: ClassVar[int] = 403

    def __init__(self, spec: WebhookSpec) -> None:
        self._spec = spec

    def require(self, request: WebhookRequest) -> None:
        """:raises Refused: neither user and password nor token fit."""
        if not (self._by_password(request) | self._by_token(request)):
            raise Refused("user and password, or the token, are not ours", self.status)

    def _by_password(self, request: WebhookRequest) -> bool:
        spec = self._spec
        scheme, _, encoded = request.header("authorization").partition(" ")
        if spec.user is None or not spec.password or scheme.lower() != "basic":
            return False
        user, _, password = (from_base64(encoded.strip()) or b"").partition(b":")
        return same(user, spec.user) & any_same(password, spec.password)

    def _by_token(self, request: WebhookRequest) -> bool:
        spec = self._spec
        if not spec.token:
            return False
        if spec.header is not None:
            return any_same(request.header(spec.header), spec.token)
        scheme, _, token = request.header("authorization").partition(" ")
        return scheme.lower() == "bearer" and any_same(token.strip(), spec.token)
