"""What is counted of an op before anybody measured it."""

import pytest

from bespoke.latency_tables.shapes import QUANTITIES, quantities
from bespoke.supernet.cost import op_macs, op_weights
from bespoke.supernet.spaces import SPACES, space


@pytest.mark.parametrize("name", sorted(SPACES))
def test_every_mac_and_weight_of_every_op_is_counted_once(name: str) -> None:
    ops = {op.key: op for slot in space(name, (64, 72), 10).slots for op in slot.ops if op}
    macs = [i for i, quantity in enumerate(QUANTITIES) if quantity.endswith("_macs")]
    weights = QUANTITIES.index("weights")
    for op in ops.values():
        counted = quantities(op)
        # The two small layers of a squeeze are counted as one squeeze.
        assert counted[macs].sum() == op_macs(op) - 2 * op.mid_channels * op.se_channels
        assert counted[weights] == op_weights(op)
