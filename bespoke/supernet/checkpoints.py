"""Our own weight files: safetensors, in half precision, checked name by name and shape by shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid, StatisticsMissing
from bespoke.supernet.statistics import StatisticsTable
from bespoke.supernet.whole_files import replacing


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, whole or not at all.

    Raises:
        FileInvalid: The file cannot be written.
    """
    ready = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # What safetensors makes itself only its owner may read, and a service may run as somebody else.
    with replacing(path) as temporary:
        try:
            save_file(ready, temporary)
        except SafetensorError as error:
            raise FileInvalid(path, f"cannot be written: {error}") from error


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's parameters in half precision.

    Raises:
        FileInvalid: The file cannot be written.
    """
    save_tensors({name: parameter.half() for name, parameter in network.named_parameters()}, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Read parameters into a network, in single precision.

    Raises:
        FileInvalid: The file is missing or is no safetensors file, or a parameter is missing, left
            over or of another shape; the network is untouched then.
    """
    tensors = _read(path)
    expected = {name: tuple(p.shape) for name, p in network.named_parameters()}
    for name in sorted(expected.keys() | tensors.keys()):
        got = tuple(tensors[name].shape) if name in tensors else "nothing"
        if got != expected.get(name):
            raise FileInvalid(
                path, f"tensor {name!r}: got {got}, expected {expected.get(name, 'no such tensor')}"
            )
    network.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)


def save_statistics(table: StatisticsTable, path: Path) -> None:
    """Write a statistics table in half precision.

    Raises:
        FileInvalid: The file cannot be written.
    """
    save_tensors({name: tensor.half() for name, tensor in table.tensors().items()}, path)


def load_statistics(space: SearchSpace, path: Path) -> StatisticsTable:
    """Read a statistics table, in single precision.

    Raises:
        FileInvalid: The file is missing or does not fit the space.
    """
    try:
        return StatisticsTable.from_tensors(space, _read(path))
    except StatisticsMissing as error:
        raise FileInvalid(path, str(error)) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileInvalid(path, "no such file; expected a safetensors file")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise FileInvalid(path, f"no readable safetensors file: {error}") from error
