"""From POST to a downloadable model: how long a user waits for the subnet's ONNX.

    python -m benchmarks.materialise [--requests 30] [--json]

A service runs in a temporary folder. Each request asks for another MACs limit, so that each makes
another subnet; the clock runs from the POST until the model's last byte. The ONNX writer is timed by
itself on the same subnets, and each model is compared with torch in onnxruntime.

JSON: ``p50_s``, ``p95_s`` (POST to last byte), ``onnx_p50_s`` (writer alone), ``relative_error`` (largest
over all models), ``requests``, ``cpu_s`` (of the writer, per model).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from bespoke.cli.local import local_service
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture, read_architecture
from bespoke.supernet.cost import cost
from bespoke.supernet.genomes import largest, smallest
from bespoke.supernet.onnx import INPUT, write_onnx
from bespoke.supernet.subnet import extract, fold, load_supernet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.supernet, options.requests)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:16} {value:.4g}")


def measure(supernet: str, requests: int) -> dict[str, float]:
    entry = zoo.entry(supernet)
    network, table = load_supernet(entry)
    waits, writes, cpu, errors = [], [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        local_service(Path(folder)) as service,
        service.client(["search"]) as client,
    ):
        low, high = (cost(entry.space.plan(edge(entry.space))).macs for edge in (smallest, largest))
        for limit in np.linspace(low + 0.05 * (high - low), high, requests):
            began = time.perf_counter()
            answer = client.search(supernet, constraints={"macs": float(limit)})
            model = client.model(answer["subnet"]["id"])
            waits.append(time.perf_counter() - began)
            architecture = read_architecture(entry.space, answer["subnet"]["architecture"])
            subnet = extract(network, architecture, table.lookup(architecture))
            weights = fold(subnet)
            began, began_cpu = time.perf_counter(), time.process_time()
            write_onnx(subnet.plan, weights)
            writes.append(time.perf_counter() - began)
            cpu.append(time.process_time() - began_cpu)
            errors.append(relative_error(model, subnet, architecture))
    return {
        "p50_s": float(np.median(waits)),
        "p95_s": float(np.quantile(waits, 0.95)),
        "onnx_p50_s": float(np.median(writes)),
        "relative_error": max(errors),
        "requests": requests,
        "cpu_s": float(np.median(cpu)),
    }


@torch.no_grad()
def relative_error(model: bytes, subnet: torch.nn.Module, architecture: Architecture) -> float:
    """Largest difference of the logits over their largest magnitude, on one random image."""
    x_NCHW = torch.randn(1, 3, architecture.resolution, architecture.resolution)
    (logits,) = onnxruntime.InferenceSession(model).run(None, {INPUT: x_NCHW.numpy()})
    expected = subnet(x_NCHW).numpy()
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
