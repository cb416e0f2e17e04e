"""What the catalogue keeps follows what lies on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bespoke.predictors.accuracy import MlpPredictor, read_predictor
from bespoke.service.catalogue import Catalogue
from bespoke.service.migrations import upgrade
from bespoke.service.orm import open_database
from bespoke.service.store import Store, TableToKeep
from bespoke.supernet import zoo
from bespoke.supernet.errors import NotFound, Unavailable
from bespoke.supernet.spaces import space as make_space
from tests.service.tables import arithmetic_table, profile_of


@pytest.fixture
def own_zoo(random_zoo: Path, tmp_path: Path) -> Path:
    """A zoo that a test may change."""
    return Path(shutil.copytree(random_zoo, tmp_path / "zoo"))


@pytest.fixture
def catalogue(own_zoo: Path, tmp_path: Path) -> Iterator[Catalogue]:
    engine = open_database(f"sqlite:///{tmp_path / 'bespoke.sqlite'}")
    yield Catalogue(Store(engine), own_zoo)
    engine.dispose()


def test_a_supernet_is_opened_once(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    first = catalogue.entry("tiny")
    monkeypatch.setattr(zoo, "entry", lambda *_: pytest.fail("opened again"))
    assert catalogue.entry("tiny") is first


def test_a_new_supernet_is_served_without_a_restart(catalogue: Catalogue, own_zoo: Path) -> None:
    with pytest.raises(NotFound):
        catalogue.entry("mine")
    shutil.copytree(own_zoo / "tiny", own_zoo / "mine")
    assert catalogue.names() == ("mine", "tiny")
    assert catalogue.entry("mine").name == "mine"
    assert catalogue.predictor("mine").revision == catalogue.predictor("tiny").revision


def test_other_weights_under_the_same_name_are_another_supernet(catalogue: Catalogue, own_zoo: Path) -> None:
    before = catalogue.entry("tiny")
    path = own_zoo / "tiny" / "weights.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    assert catalogue.entry("tiny").digest == zoo.entry("tiny", own_zoo).digest != before.digest


def test_a_new_card_and_a_new_predictor_are_read(catalogue: Catalogue, own_zoo: Path) -> None:
    entry, before = catalogue.entry("tiny"), catalogue.predictor("tiny")
    (entry.folder / "card.json").write_text(json.dumps({"summary": "trained longer"}))
    assert catalogue.entry("tiny").card == {"summary": "trained longer"}
    other = read_predictor(entry.folder / "predictor.json", entry.space)
    assert isinstance(other, MlpPredictor)
    replace(other, half_width=0.5).save(entry.folder / "predictor.json")
    assert catalogue.predictor("tiny").half_width == 0.5 != before.half_width


def test_what_was_removed_is_not_served(catalogue: Catalogue, own_zoo: Path) -> None:
    assert catalogue.predictor("tiny")
    (own_zoo / "tiny" / "predictor.json").unlink()
    with pytest.raises(Unavailable, match="no accuracy predictor"):
        catalogue.predictor("tiny")
    shutil.rmtree(own_zoo / "tiny")
    with pytest.raises(NotFound):
        catalogue.entry("tiny")


@pytest.mark.parametrize("name", ["", "..", "ti\0ny", "x" * 5000])
def test_a_name_that_no_folder_has_is_not_found(catalogue: Catalogue, name: str) -> None:
    with pytest.raises(NotFound):
        catalogue.entry(name)


def test_a_device_whose_table_lacks_ops_is_left_out_of_what_is_feasible(
    own_zoo: Path, tmp_path: Path
) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'tables.sqlite'}")
    upgrade(engine)
    store = Store(engine)
    catalogue, profile = Catalogue(store, own_zoo), profile_of()
    now, before = catalogue.entry("tiny").space, make_space("ofa-mobilenetv3-w1.0", (32,), 4)
    made: list[str] = []
    for name, space in (("board", now), ("outdated", before)):
        device, _ = store.add_device(name, profile.to_json(), profile.digest)
        table = arithmetic_table(space, profile)
        store.add_table(device.id, "tiny", TableToKeep(table.revision, "ops", False, table.to_json()))
        made.append(device.id)
    assert list(catalogue.device_ranges("tiny")) == made[:1]
    engine.dispose()
