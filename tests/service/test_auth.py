"""Keys are shown once, kept as hashes, and open what their scopes say."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from bespoke.service.auth import authenticate, authorise, create_key, recognise
from bespoke.service.store import Store, recent
from bespoke.supernet.errors import Forbidden, InvalidInput, NotFound, Unauthorized


def test_a_key_opens_its_scopes_only(store: Store) -> None:
    made = create_key(store, ["agent", "search"], "laptop")
    key = authenticate(store, made.text)
    assert (key.prefix, key.name, key.scopes) == (made.prefix, "laptop", ["search", "agent"])
    authorise(key, ["search"])
    authorise(key, ["device:admin", "agent"])
    with pytest.raises(Forbidden, match="device:admin"):
        authorise(key, ["device:admin"])


def test_the_secret_is_nowhere_in_the_database(store: Store) -> None:
    made = create_key(store, ["search"])
    secret = made.text.split("_")[2]
    with store.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM api_keys")).all()
    assert made.prefix in str(rows)
    assert secret not in str(rows)


def test_wrong_and_revoked_keys_open_nothing(store: Store) -> None:
    made = create_key(store, ["search"])
    brand, prefix, secret = made.text.split("_")
    wrong = ["", "bsp", "bsp_", f"bsp_{prefix}", f"bsp_{prefix}_", f"bsp_{prefix}_{secret[:-1]}0x"]
    wrong += [f"bsp_0000000000_{secret}", f"xyz_{prefix}_{secret}", secret, f"{brand}__{secret}"]
    for text in wrong:
        with pytest.raises(Unauthorized):
            authenticate(store, text)
    assert authenticate(store, made.text)
    revoked_at = store.revoke_key(prefix).revoked_at
    assert store.revoke_key(prefix).revoked_at == revoked_at
    with pytest.raises(Unauthorized):
        authenticate(store, made.text)


def test_unknown_scopes_and_keys_are_refused(store: Store) -> None:
    for scopes in ([], ["root"], ["search", "root"]):
        with pytest.raises(InvalidInput, match="scope"):
            create_key(store, scopes)
    with pytest.raises(NotFound):
        store.revoke_key("nobody")


def test_keys_are_told_apart_by_their_prefix(store: Store) -> None:
    made = [create_key(store, ["search"], str(n)) for n in range(3)]
    assert [key.prefix for key in store.list_keys()] == [key.prefix for key in made]
    assert len({key.text for key in made}) == 3


def test_a_key_that_came_a_moment_ago_is_recognised_until_it_is_revoked(store: Store) -> None:
    made = create_key(store, ["search"])
    assert recognise(store, made.text) is None
    assert recognise(store, "") is None
    key = authenticate(store, made.text)
    known = recognise(store, made.text)
    assert known is not None
    assert (known.prefix, known.scopes) == (key.prefix, key.scopes)
    for wrong in (f"{made.text[:-1]}x", f"bsp_{made.prefix}_", f"bsp_{made.prefix}", f"xyz{made.text[3:]}"):
        assert recognise(store, wrong) is None
    store.revoke_key(made.prefix)
    assert recognise(store, made.text) is None
    with pytest.raises(Unauthorized):
        authenticate(store, made.text)
    assert recognise(store, made.text) is None


def test_what_another_process_revokes_is_closed_a_moment_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, other = create_key(store, ["search"]), Store(store.engine)
    assert authenticate(store, made.text)
    other.revoke_key(made.prefix)
    monkeypatch.setattr(recent, "FRESH_S", 0.0)
    assert recognise(store, made.text) is None
    with pytest.raises(Unauthorized):
        authenticate(store, made.text)
