"""API keys: ``bsp_<prefix>_<secret>``, shown once, kept as a hash, each with its scopes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from bespoke.service.orm import ApiKey
from bespoke.service.store import Store
from bespoke.supernet.errors import Forbidden, InvalidInput, Unauthorized

__all__ = ["SCOPES", "NewKey", "authenticate", "authorise", "create_key", "recognise"]

SCOPES = ("search", "device:admin", "agent")
PREFIX_BYTES, SECRET_BYTES = 5, 32


@dataclass(frozen=True)
class NewKey:
    """A key that was just made: the only moment at which its text is known."""

    text: str
    prefix: str
    name: str
    scopes: tuple[str, ...]


def create_key(store: Store, scopes: Sequence[str], name: str = "") -> NewKey:
    """Make a key and keep its hash.

    Args:
        store: Where to keep it.
        scopes: What it opens: one or more of ``SCOPES``.
        name: A note for people.

    Raises:
        InvalidInput: A scope does not exist, or none was given.
    """
    wrong = [scope for scope in scopes if scope not in SCOPES]
    if wrong or not scopes:
        got = ", ".join(map(repr, wrong)) or "none"
        raise InvalidInput(f"scope: got {got}, expected one or more of {', '.join(SCOPES)}")
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    prefix, secret = secrets.token_hex(PREFIX_BYTES), secrets.token_hex(SECRET_BYTES)
    store.add_key(prefix, name, _hash(secret), chosen)
    return NewKey(f"bsp_{prefix}_{secret}", prefix, name, chosen)


def authenticate(store: Store, text: str) -> ApiKey:
    """The key that a text is.

    Raises:
        Unauthorized: The text is no key, or is unknown or revoked.
    """
    prefix, secret = _parts(text)
    key = store.key(prefix) if secret else None
    # A secret of 32 random bytes cannot be guessed, so a fast hash is enough; comparing also where
    # there is no key makes an unknown prefix take as long as a wrong secret.
    right = hmac.compare_digest(_hash(secret), key.secret_sha256 if key else _hash(""))
    if key is None or not right or key.revoked_at is not None:
        raise Unauthorized("this key is unknown or revoked: make one with `bespoke keys create`")
    return key


def recognise(store: Store, text: str) -> ApiKey | None:
    """The key that a text is, where that needs no query; None where ``authenticate`` must say."""
    prefix, secret = _parts(text)
    key = store.recent_key(prefix)
    if key is None or key.revoked_at is not None:
        return None
    return key if hmac.compare_digest(_hash(secret), key.secret_sha256) else None


def authorise(key: ApiKey, scopes: Sequence[str]) -> None:
    """Check that a key has one of the scopes.

    Raises:
        Forbidden: It has none of them.
    """
    if not set(scopes) & set(key.scopes):
        raise Forbidden(scopes, key.scopes)


def _parts(text: str) -> tuple[str, str]:
    """Prefix and secret of a key; empty where the text is none."""
    brand, _, rest = text.partition("_")
    prefix, _, secret = rest.partition("_")
    return (prefix, secret) if brand == "bsp" else ("", "")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
