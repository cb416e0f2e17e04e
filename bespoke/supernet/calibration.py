"""Ranges of a network's activations as they are seen on images, for ``write_onnx(precision="int8")``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bespoke.supernet.architecture import Plan
from bespoke.supernet.errors import Unavailable
from bespoke.supernet.onnx import INPUT, OUTPUT, FoldedWeights, write_onnx
from bespoke.supernet.quantization import Range


def observed_ranges(
    plan: Plan, weights: FoldedWeights, batches: Iterable[NDArray[np.float32]], threads: int = 0
) -> dict[str, Range]:
    """Smallest and largest value of every site over some images, by running the float network.

    Args:
        plan: A static plan.
        weights: Its folded weights.
        batches: Images, (N, C, H, W) each, as the network gets them.
        threads: With how many the network runs; 0 for as many as there are cores.

    Raises:
        Unavailable: ONNX Runtime is not installed.
    """
    model = onnx.load_model_from_string(write_onnx(plan, weights, dynamic_batch=True))
    sites = {node.output[0]: node.name for node in model.graph.node}
    shown = [name for name in sites if name != OUTPUT]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
    session = _session(model.SerializeToString(), threads)
    ranges: dict[str, Range] = {}
    for batch in batches:
        values = dict(zip([OUTPUT, *shown], session.run([OUTPUT, *shown], {INPUT: batch}), strict=True))
        for name, value in [(INPUT, batch), *((sites[name], value) for name, value in values.items())]:
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return ranges


def _session(model: bytes, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("seeing ranges needs ONNX Runtime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
