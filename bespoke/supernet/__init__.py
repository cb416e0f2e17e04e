"""The ground floor: what an architecture is, what it costs, and the weights behind it.

Names handed on here need no torch. The weights wing is imported by its module: ``layers``,
``networks``, ``statistics``, ``subnet``, ``checkpoints``, ``training``.
"""

from bespoke.supernet.architecture import (
    Architecture,
    Dimension,
    Plan,
    Route,
    SearchSpace,
    Segment,
    Slot,
    decode,
    encode,
    read_architecture,
)
from bespoke.supernet.cost import Cost, CostTable, SlotTable, cost
from bespoke.supernet.errors import BespokeError
from bespoke.supernet.ops import Op, OpKey, parse_key
from bespoke.supernet.spaces import SPACES, space, space_from_json

__all__ = [
    "SPACES",
    "Architecture",
    "BespokeError",
    "Cost",
    "CostTable",
    "Dimension",
    "Op",
    "OpKey",
    "Plan",
    "Route",
    "SearchSpace",
    "Segment",
    "Slot",
    "SlotTable",
    "cost",
    "decode",
    "encode",
    "parse_key",
    "read_architecture",
    "space",
    "space_from_json",
]
