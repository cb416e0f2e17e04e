"""Reads the latency tables that the Once-for-All authors published into ours.

A file is YAML, one a device and input resolution: key to ``{count, mean, std}``, the mean in ms.
The keys of the MobileNetV3 space, and the ops that they time:

    Conv-input:HxWx3-output:...                       stem
    expanded_conv-input:...-output:...-expand:MID-kernel:k-stride:s-idskip:0|1-se:0|1-hs:0|1
    Conv_1, AvgPool2D, Conv_2, Logits                 final expansion, pool, feature mix, classifier

A network's latency is the plain sum of its entries. Files of several resolutions time some shapes
again (the 1x1 feature mix in all of them); each network is priced by its own resolution's file.

Source: Cai et al., Once-for-All (ICLR 2020), and the files beside its code.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.table import LatencyStat, LatencyTable
from bespoke.supernet.errors import FileInvalid, Unavailable
from bespoke.supernet.ops import Op, OpKey

_SHAPE = r"(\d+)x(\d+)x(\d+)"
_KEYS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "stem": rf"Conv-input:{_SHAPE}-output:{_SHAPE}",
        "block": (
            rf"expanded_conv-input:{_SHAPE}-output:{_SHAPE}-expand:(\d+)-kernel:(\d+)-stride:(\d+)"
            r"-idskip:([01])-se:([01])-hs:([01])"
        ),
        "final_expand": rf"Conv_1-input:{_SHAPE}-output:{_SHAPE}",
        "pool": rf"AvgPool2D-input:{_SHAPE}-output:{_SHAPE}",
        "feature_mix": rf"Conv_2-input:{_SHAPE}-output:{_SHAPE}",
        "classifier": rf"Logits-input:{_SHAPE}-output:(\d+)",
    }.items()
}


def read_official(paths: Sequence[Path]) -> LatencyTable:
    """Read published tables of one device, one file a resolution.

    The files give a mean only, so it stands for every statistic, and prices; there is neither a
    correction nor a quality card. What they do not state about the device is ``unknown`` (threads
    0); its label is the name of the files' folder.

    Args:
        paths: The YAML files.

    Raises:
        FileInvalid: A file is no such table, or two are of the same resolution.
        Unavailable: PyYAML is not installed.
    """
    files: dict[int, dict[OpKey, LatencyStat]] = {}
    for path in paths:
        resolution, stats = _read_file(path)
        if resolution in files:
            raise FileInvalid(path, f"is a second table for input resolution {resolution}; give one of them")
        files[resolution] = stats
    by_key: dict[OpKey, dict[int, LatencyStat]] = defaultdict(dict)
    for resolution, stats in files.items():
        for key, stat in stats.items():
            by_key[key][resolution] = stat
    own: dict[int, dict[OpKey, LatencyStat]] = defaultdict(dict)
    for key, stats_of_key in by_key.items():
        if len(stats_of_key) > 1:
            for resolution, stat in stats_of_key.items():
                own[resolution][key] = stat
    return LatencyTable(
        profile=_profile(paths[0]),
        stats={key: _pooled(list(stats.values())) for key, stats in by_key.items()},
        statistic="mean",
        by_resolution=dict(own),
        source="published",
    )


def op_of(key: str) -> Op | None:
    """The op that a published key times; None where the text is no key of the MobileNetV3 space."""
    for kind, pattern in _KEYS.items():
        match = pattern.fullmatch(key)
        if match:
            return _op(kind, [int(number) for number in match.groups()])
    return None


def _op(kind: str, numbers: list[int]) -> Op:
    in_shape, out = (numbers[0], numbers[1], numbers[2]), numbers[-1]
    if kind == "stem":
        return Op("conv", in_shape, out, kernel=3, stride=2, activation="hswish")
    if kind == "final_expand":
        return Op("conv", in_shape, out, activation="hswish")
    if kind == "feature_mix":
        return Op("conv", in_shape, out, activation="hswish", norm=False)
    if kind in ("pool", "classifier"):
        return Op("pool" if kind == "pool" else "linear", in_shape, out)
    out, mid, kernel, stride, skip, se, hswish = numbers[5:]
    return Op(
        "mbconv",
        in_shape,
        out,
        kernel=kernel,
        stride=stride,
        mid_channels=mid,
        se=bool(se),
        activation="hswish" if hswish else "relu",
        skip=bool(skip),
    )


def _read_file(path: Path) -> tuple[int, dict[OpKey, LatencyStat]]:
    """The input resolution, and the stats, of one file."""
    resolutions: set[int] = set()
    stats: dict[OpKey, LatencyStat] = {}
    for text, entry in _load_yaml(path).items():
        op = op_of(str(text))
        if op is None:
            raise FileInvalid(
                path, f"key {text!r} is none of a published Once-for-All MobileNetV3 table, such as "
                "'Conv-input:224x224x3-output:112x112x24'",
            )  # fmt: skip
        stats[op.key] = _stat(path, str(text), entry)
        if str(text).startswith("Conv-"):
            resolutions.add(op.in_shape[0])
    if len(resolutions) != 1:
        raise FileInvalid(
            path, f"expected one 'Conv-input:...' entry, whose side is the resolution; got {len(resolutions)}"
        )
    return resolutions.pop(), stats


def _load_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        import yaml
    except ImportError as error:
        raise Unavailable("published latency tables are YAML: pip install pyyaml") from error
    try:
        data = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FileInvalid(path, f"expected a published Once-for-All latency table; {error}") from error
    if not isinstance(data, Mapping) or not data:
        raise FileInvalid(path, "expected a published Once-for-All latency table: key to {count, mean, std}")
    return data


def _stat(path: Path, key: str, entry: Any) -> LatencyStat:
    fields = entry if isinstance(entry, Mapping) else {}
    mean, count = fields.get("mean"), fields.get("count", 1)
    if not isinstance(mean, int | float) or not isinstance(count, int) or not 0 <= mean < math.inf:
        raise FileInvalid(
            path, f"entry {key!r}: got {entry!r}, expected {{count, mean, std}}, the mean in ms"
        )
    return LatencyStat(float(mean), float(mean), float(mean), count, 0)


def _pooled(stats: Sequence[LatencyStat]) -> LatencyStat:
    """Several files' stats of one op as one, weighted by their samples."""
    samples = sum(stat.samples for stat in stats)
    mean = math.fsum(stat.mean_ms * stat.samples for stat in stats) / samples if samples else stats[0].mean_ms
    return stats[0] if len(stats) == 1 else LatencyStat(mean, mean, mean, samples, 0)


def _profile(path: Path) -> DeviceProfile:
    return DeviceProfile(
        device=path.resolve().parent.name or "unknown",
        runtime="unknown",
        runtime_version="unknown",
        provider="unknown",
        threads=0,
        precision="fp32",
        batch=1,
        fingerprint={"source": "published Once-for-All latency table"},
    )
