import numpy as np
import pytest

from bespoke.search.elimination import Factor, minimise, slot_factors
from bespoke.supernet.cost import SlotTable, op_macs, op_peak_values
from tests.search.small_space import SmallSpace, every_genome

SPACE = SmallSpace()


@pytest.mark.parametrize("join", [np.add, np.maximum])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_extreme_is_that_of_enumeration(join: np.ufunc, sign: int) -> None:
    rng = np.random.default_rng(0)
    genomes = every_genome(SPACE)
    for price in (op_macs, op_peak_values, lambda _: rng.random()):
        table = SlotTable(SPACE, price)
        factors = [Factor(f.genes, sign * f.values) for f in slot_factors(SPACE, table)]
        value, genome = minimise(SPACE, factors, join)
        rows = sign * table.rows(genomes)
        expected = rows.sum(axis=1) if join is np.add else rows.max(axis=1)
        assert value == pytest.approx(expected.min())
        own = sign * table.rows(genome[None])[0]
        assert (own.sum() if join is np.add else own.max()) == pytest.approx(value)


def test_where_everything_is_forbidden_the_minimum_is_infinite() -> None:
    table = SlotTable(SPACE, op_macs)
    factors = [Factor(f.genes, np.full(f.values.shape, np.inf)) for f in slot_factors(SPACE, table)]
    assert minimise(SPACE, factors, np.add)[0] == np.inf
