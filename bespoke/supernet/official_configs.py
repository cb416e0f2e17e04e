"""Reads the ``net.config`` of a specialised network that the Once-for-All authors published.

It is the JSON from which their code rebuilds the network, layer by layer. Files of the first
release differ in names: ``mobile_inverted_conv`` for ``conv``, ``MBInvertedConvLayer`` for
``MBConvLayer``. What a field says that our ops cannot do is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.json_files import read_object
from bespoke.supernet.official_names import OLD_BLOCK
from bespoke.supernet.ops import Op, is_possible, make_divisible
from bespoke.supernet.spaces import FixedNetwork

ACTIVATIONS = {"relu": "relu", "relu6": "relu6", "h_swish": "hswish", None: "none"}
NORM_EPS = {"MobileNetV3": 1e-5, "ProxylessNASNets": 1e-3, "ResNets": 1e-5}
"""Of networks whose configuration has no ``bn``, by family."""

Shape = tuple[int, int, int]


def read_config(path: Path, name: str, resolution: int) -> FixedNetwork:
    """Read a specialised network.

    Args:
        path: Its ``net.config``.
        name: What to call it.
        resolution: Side of its input in pixels: ``image_size`` of its ``run.config``.

    Raises:
        FileInvalid: The file is no such configuration, or asks for what our ops cannot do.
    """
    config = read_object(path)
    known: Mapping[str, Callable[[_Reader], tuple[Op, ...]]] = {
        "MobileNetV3": _mobilenetv3,
        "ProxylessNASNets": _proxyless,
        "ResNets": _resnet,
    }
    family = str(config.get("name"))
    if family not in known:
        raise FileInvalid(path, f"network {family!r}: expected one of {', '.join(known)}")
    try:
        return FixedNetwork(name, known[family](_Reader(config, resolution)))
    except KeyError as error:
        raise FileInvalid(path, f"lacks the field {error}") from error
    except (TypeError, ValueError, OverflowError, AttributeError, InvalidInput) as error:
        raise FileInvalid(path, f"is no network that can be read: {error}") from error


def read_image_size(path: Path) -> int:
    """The input's side in pixels that a ``run.config`` states.

    Raises:
        FileInvalid: The file is no such configuration.
    """
    size = read_object(path).get("image_size")
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 2048:
        raise FileInvalid(path, f"image_size: got {size!r}, expected pixels from 8 to 2048")
    return size


def _mobilenetv3(reader: _Reader) -> tuple[Op, ...]:
    return (
        *reader.convolution("first_conv"),
        *reader.blocks(),
        *reader.convolution("final_expand_layer"),
        reader.pool(),
        *reader.convolution("feature_mix_layer"),
        reader.classifier(),
    )


def _proxyless(reader: _Reader) -> tuple[Op, ...]:
    return (
        *reader.convolution("first_conv"),
        *reader.blocks(),
        *reader.convolution("feature_mix_layer"),
        reader.pool(),
        reader.classifier(),
    )


def _resnet(reader: _Reader) -> tuple[Op, ...]:
    return (*reader.stem(), reader.stem_pool(), *reader.blocks(), reader.pool(), reader.classifier())


class _Reader:
    """Reads a configuration from its first layer to its last; ``shape`` is what has come out so far."""

    def __init__(self, config: Mapping[str, Any], resolution: int) -> None:
        self._config = config
        self._eps = float(config["bn"]["eps"]) if config.get("bn") else NORM_EPS[str(config["name"])]
        self.shape: Shape = (resolution, resolution, 3)

    def convolution(self, name: str) -> tuple[Op, ...]:
        """A layer that the configuration may lack."""
        layer = self._config[name]
        return () if layer is None else (self._convolution(layer, name),)

    def stem(self) -> list[Op]:
        """The convolutions of a residual network's stem."""
        found = []
        for number, layer in enumerate(self._config["input_stem"]):
            residual = layer["name"] == "ResidualBlock"
            name = f"input_stem.{number}"
            if residual:
                _identity(layer["shortcut"], name)
            found.append(self._convolution(layer["conv"] if residual else layer, name, skip=residual))
        return found

    def blocks(self) -> list[Op]:
        """The blocks, of either kind."""
        found = []
        for number, block in enumerate(self._config["blocks"]):
            residual = block["name"] == "ResNetBottleneckBlock"
            found.append((self._bottleneck if residual else self._block)(block, f"blocks.{number}"))
        return found

    def pool(self) -> Op:
        """The mean over the map."""
        return self._after(Op("pool", self.shape, self.shape[2], name="global_pool"))

    def stem_pool(self) -> Op:
        """The maximum behind a residual network's stem."""
        return self._after(Op("maxpool", self.shape, self.shape[2], kernel=3, stride=2, name="max_pooling"))

    def classifier(self) -> Op:
        """The linear layer."""
        layer = self._config["classifier"]
        _expect(layer, "classifier", in_features=self.shape[2], bias=True, use_bn=False, act_func=None)
        return self._after(Op("linear", self.shape, int(layer["out_features"]), name="classifier"))

    def _convolution(self, layer: Mapping[str, Any], name: str, skip: bool = False) -> Op:
        fixed = {"dilation": 1, "groups": 1, "bias": False, "has_shuffle": False, "use_se": False}
        _expect(layer, name, in_channels=self.shape[2], ops_order="weight_bn_act", **fixed)
        return self._after(
            Op(
                "conv",
                self.shape,
                int(layer["out_channels"]),
                kernel=_odd(layer, name),
                stride=int(layer["stride"]),
                activation=_activation(layer, name),
                skip=skip,
                norm=bool(layer["use_bn"]),
                name=name,
                norm_eps=self._eps,
            )
        )

    def _block(self, block: Mapping[str, Any], name: str) -> Op:
        layer = block["conv"] if "conv" in block else block[OLD_BLOCK]
        width, skip = self.shape[2], block["shortcut"] is not None
        if skip:
            _identity(block["shortcut"], name)
        _expect(layer, name, in_channels=width, groups=None)
        mid = layer.get("mid_channels") or round(width * layer["expand_ratio"])
        if (layer["expand_ratio"] == 1) != (mid == width):
            raise ValueError(
                f"{name}: expand_ratio {layer['expand_ratio']} of {width} makes no {mid} channels"
            )
        return self._after(
            Op(
                "mbconv",
                self.shape,
                int(layer["out_channels"]),
                kernel=_odd(layer, name),
                stride=int(layer["stride"]),
                mid_channels=int(mid),
                se=bool(layer["use_se"]),
                activation=_activation(layer, name),
                skip=skip,
                name=name,
                norm_eps=self._eps,
            )
        )

    def _bottleneck(self, block: Mapping[str, Any], name: str) -> Op:
        width, out, stride = self.shape[2], int(block["out_channels"]), int(block["stride"])
        skip = stride == 1 and width == out
        _expect(block, name, in_channels=width, groups=1)
        if not skip:
            _expect(block, name, downsample_mode="avgpool_conv")
        mid = make_divisible(block.get("mid_channels") or round(out * block["expand_ratio"]))
        return self._after(
            Op(
                "bottleneck",
                self.shape,
                out,
                kernel=_odd(block, name),
                stride=stride,
                mid_channels=mid,
                activation=_activation(block, name),
                skip=skip,
                name=name,
                norm_eps=self._eps,
            )
        )

    def _after(self, op: Op) -> Op:
        if not is_possible(op):
            raise ValueError(f"{op.name}: {op.key} has a size, kernel or stride below 1")
        if op.skip and op.in_shape != op.out_shape:
            raise ValueError(f"{op.name}: its shortcut adds {op.in_shape} to {op.out_shape}")
        self.shape = op.out_shape
        return op


def _expect(layer: Mapping[str, Any], where: str, **fields: Any) -> None:
    """Refuse a field with another value; one that is not there has the expected one."""
    for field, expected in fields.items():
        got = layer.get(field, expected)
        if got != expected:
            raise ValueError(f"{where}: {field} is {got!r}, expected {expected!r}")


def _identity(shortcut: Mapping[str, Any] | None, where: str) -> None:
    """Refuse a shortcut that changes what it adds, and one that adds nothing."""
    if shortcut is None:
        raise ValueError(f"{where}: shortcut is None, expected an IdentityLayer")
    _expect(shortcut, f"{where}: shortcut", name="IdentityLayer", use_bn=False, act_func=None)


def _activation(layer: Mapping[str, Any], where: str) -> str:
    name = layer["act_func"]
    if name not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"{where}: act_func is {name!r}, expected one of {known}")
    return ACTIVATIONS[name]


def _odd(layer: Mapping[str, Any], where: str) -> int:
    kernel = int(layer["kernel_size"])
    if kernel % 2 == 0 or not 0 < kernel < 32 or int(layer["stride"]) not in (1, 2, 4):
        raise ValueError(f"{where}: got kernel_size {kernel} and stride {layer['stride']}")
    return kernel
