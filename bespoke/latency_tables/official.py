"""Reads the latency tables that the Once-for-All authors published into ours, and writes ours as theirs.

A file is YAML, one a device and input resolution: key to ``{count, mean, std}``, the mean in ms.
The keys of the MobileNetV3 space, and the ops that they time:

    Conv-input:HxWx3-output:...                       stem
    expanded_conv-input:...-output:...-expand:MID-kernel:k-stride:s-idskip:0|1-se:0|1-hs:0|1
    Conv_1, AvgPool2D, Conv_2, Logits                 final expansion, pool, feature mix, classifier

A network's latency is the plain sum of its entries: what is written holds the correction already,
and the overhead is on the stem, which every network has once. Files of several resolutions time some shapes
again (the 1x1 feature mix in all of them); each network is priced by its own resolution's file.

Source: Cai et al., Once-for-All (ICLR 2020), and the files beside its code.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from bespoke.latency_tables.files import read_text
from bespoke.latency_tables.plausibility import MOST_KEY, latency_problem, odd_units, short
from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.table import LatencyStat, LatencyTable, checked, covered_space, slot_ops
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput, Unavailable
from bespoke.supernet.ops import Op, OpKey, is_possible
from bespoke.supernet.whole_files import write_whole

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
        FileInvalid: A file is no such table, two are of the same resolution, or in different units.
        InvalidInput: There is no file.
        Unavailable: PyYAML is not installed.
    """
    if not paths:
        raise InvalidInput("got no file, expected published latency tables (.yaml), one a resolution")
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
    table = LatencyTable(
        profile=unknown_profile(paths[0].resolve().parent.name, "published Once-for-All latency table"),
        stats={key: _pooled(list(stats.values())) for key, stats in by_key.items()},
        statistic="mean",
        by_resolution=dict(own),
        source="published",
    )
    try:
        return checked(table)
    except InvalidInput as error:
        raise FileInvalid(paths[-1], f"does not fit to the other files; {error}") from error


def op_of(key: str) -> Op | None:
    """The op that a published key times; None where the text is no key of the MobileNetV3 space."""
    for kind, pattern in _KEYS.items():
        match = pattern.fullmatch(key)
        if match:
            op = _op(kind, [int(number) for number in match.groups()])
            return op if is_possible(op) else None
    return None


def write_official(table: LatencyTable, space: SearchSpace, folder: Path) -> list[Path]:
    """Write a table as published ones are, one file a resolution that the table covers.

    The entries of a network sum to ``table.predict`` of it; their ``count`` is the number of
    samples, and there is no ``std``, which a table does not keep.

    Args:
        table: Its sums must price, since nothing else can be written so.
        space: A MobileNetV3 space; published tables name no other ops.
        folder: Where ``<resolution>_lookup_table.yaml`` are put, all of them or none.

    Returns:
        The files, by resolution.

    Raises:
        InvalidInput: A model of whole networks prices, or an op has no published key, or adds
            nothing.
        TableIncomplete: The table covers no resolution of the space.
        Unavailable: PyYAML is not installed.
    """
    yaml = _yaml()
    if table.networks is not None:
        raise InvalidInput(
            "a model of whole networks prices with this table, and a published table knows sums only: "
            "export it as JSON"
        )
    resolutions = covered_space(table, space).dimensions[-1].choices
    files: dict[Path, str | bytes] = {}
    for resolution in resolutions:
        entries: dict[str, dict[str, float | int]] = {}
        for at, op in slot_ops(space):
            if op is not None and at in (None, resolution):
                text = key_of(op)
                overhead = table.correction.overhead_ms if text.startswith("Conv-") else 0.0
                mean, samples = overhead + table.op_ms(op, resolution), table.stats[op.key].samples
                if mean <= 0:
                    raise InvalidInput(
                        f"op {op.key} adds {mean:g} ms with its correction; a published table takes "
                        "positive ms only: export it as JSON"
                    )
                entries[text] = {"count": samples, "mean": mean}
        files[folder / f"{resolution}_lookup_table.yaml"] = yaml.safe_dump(entries)
    write_whole(files)
    return list(files)


def key_of(op: Op) -> str:
    """The published key of an op of the MobileNetV3 space; ``op_of`` reads it back.

    Raises:
        InvalidInput: Published tables have no such op.
    """
    (h, w, c), (out_h, out_w, out) = op.in_shape, op.out_shape
    shapes = f"input:{h}x{w}x{c}-output:{out_h}x{out_w}x{out}"
    if op.kind == "mbconv":
        flags = f"idskip:{op.skip:d}-se:{op.se:d}-hs:{op.activation == 'hswish':d}"
        text = (
            f"expanded_conv-{shapes}-expand:{op.mid_channels}-kernel:{op.kernel}-stride:{op.stride}-{flags}"
        )
    elif op.kind == "conv":
        text = f"{'Conv' if op.kernel > 1 else 'Conv_1' if op.norm else 'Conv_2'}-{shapes}"
    else:
        text = f"AvgPool2D-{shapes}" if op.kind == "pool" else f"Logits-input:{h}x{w}x{c}-output:{out}"
    known = op_of(text)
    if known is None or known.key != op.key:
        raise InvalidInput(
            f"op {op.key} has no key in published tables, which know the MobileNetV3 space only: "
            "export the table as JSON or CSV"
        )
    return text


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
        op = op_of(str(text)) if len(str(text)) <= MOST_KEY else None
        if op is None:
            raise FileInvalid(
                path, f"key {short(text)} is none of a published Once-for-All MobileNetV3 table, such as "
                "'Conv-input:224x224x3-output:112x112x24'",
            )  # fmt: skip
        if op.key in stats:
            raise FileInvalid(path, f"key {text!r} is a second entry of the op {op.key}")
        stats[op.key] = _stat(path, str(text), entry)
        if str(text).startswith("Conv-"):
            resolutions.add(op.in_shape[0])
    if len(resolutions) != 1:
        raise FileInvalid(
            path, f"expected one 'Conv-input:...' entry, whose side is the resolution; got {len(resolutions)}"
        )
    for key, expected_ms in odd_units({key: stat.mean_ms for key, stat in stats.items()}).items():
        raise FileInvalid(
            path, f"op {key}: got {stats[key].mean_ms:g} ms where ops of about as much work take "
            f"{expected_ms:.3g} ms; is it in another unit?"
        )  # fmt: skip
    return resolutions.pop(), stats


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError as error:
        raise Unavailable("published latency tables are YAML: pip install pyyaml") from error
    return yaml


def _load_yaml(path: Path) -> Mapping[Any, Any]:
    yaml = _yaml()
    text = read_text(path, "a published Once-for-All latency table")
    loader = _distinct_loader(yaml)
    try:
        _refuse_nested_aliases(yaml, yaml.parse(text, Loader=loader))
        data = yaml.load(text, Loader=loader)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise FileInvalid(path, f"expected a published Once-for-All latency table; {error}") from error
    if not isinstance(data, Mapping) or not data:
        raise FileInvalid(path, "expected a published Once-for-All latency table: key to {count, mean, std}")
    return data


def _refuse_nested_aliases(yaml: ModuleType, events: Iterable[Any]) -> None:
    """Refuse aliases (``*name``) of what holds aliases itself: a dozen are more than any memory holds."""
    named: list[bool] = []  # of each open collection: whether it, or one around it, has a name
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            named.append(event.anchor is not None or any(named[-1:]))
        elif isinstance(event, yaml.CollectionEndEvent):
            named.pop()
        elif isinstance(event, yaml.AliasEvent) and any(named[-1:]):
            raise ValueError(
                f"*{event.anchor} stands inside of what has a name itself; expected plain entries"
            )


def _distinct_loader(yaml: ModuleType) -> Any:
    """A safe loader to which a key that stands twice is an error; the library's own takes the last one."""

    class Distinct(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """The mapping, whose keys differ."""
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"the key {twice!r} stands {names.count(twice)} times")
            return super().construct_mapping(node, deep)

    return Distinct


def _stat(path: Path, key: str, entry: Any) -> LatencyStat:
    fields = entry if isinstance(entry, Mapping) else {}
    mean, count = fields.get("mean"), fields.get("count", 1)
    problem = latency_problem(mean)
    if problem or type(count) is not int or count < 0:
        problem = problem or f"got count {count!r}, expected a count of at least 0"
        raise FileInvalid(path, f"entry {key!r}: {problem}; expected {{count, mean, std}}, the mean in ms")
    ms = float(cast(float, mean))
    return LatencyStat(ms, ms, ms, count, 0)


def _pooled(stats: Sequence[LatencyStat]) -> LatencyStat:
    """Several files' stats of one op as one, weighted by their samples."""
    samples = sum(stat.samples for stat in stats)
    mean = math.fsum(stat.mean_ms * stat.samples for stat in stats) / samples if samples else stats[0].mean_ms
    return stats[0] if len(stats) == 1 else LatencyStat(mean, mean, mean, samples, 0)


def tells_nothing(profile: DeviceProfile) -> bool:
    """Whether a profile is one of ``unknown_profile``: those of two devices may be equal."""
    return profile.fingerprint.keys() == {"source"}


def unknown_profile(device: str, source: str) -> DeviceProfile:
    """The profile of a table whose file tells nothing of its device.

    Args:
        device: A label.
        source: What the file is.
    """
    return DeviceProfile(
        device=device or "unknown",
        runtime="unknown",
        runtime_version="unknown",
        provider="unknown",
        threads=0,
        precision="fp32",
        batch=1,
        fingerprint={"source": source},
    )
