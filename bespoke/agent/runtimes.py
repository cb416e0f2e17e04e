"""Runtimes: what executes a network on the device.

The agent runs content-addressed ONNX files with the runtime that is installed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bespoke.supernet.errors import NotFound, Unavailable

Run = Callable[[], None]
"""One inference of a loaded network, on inputs that are already in place; returns when it is done."""


class Runtime(Protocol):
    """Loads networks and runs them."""

    @property
    def name(self) -> str:
        """Key in ``RUNTIMES``."""
        ...

    @property
    def version(self) -> str:
        """Version of the installed package."""
        ...

    @property
    def provider(self) -> str:
        """What executes the nodes."""
        ...

    @property
    def threads(self) -> int:
        """Threads inside one op."""
        ...

    def load(self, model: bytes) -> Run:
        """Load a network with random inputs.

        Args:
            model: A serialised ONNX model.

        Returns:
            A callable that runs it once.
        """
        ...


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime.

    Attributes:
        threads: Threads inside one op; ops run one after another.
        provider: Execution provider; the CPU takes what it leaves over.
    """

    threads: int = 1
    provider: str = "CPUExecutionProvider"

    def __post_init__(self) -> None:
        available = _onnxruntime().get_available_providers()
        if self.provider not in available:
            raise NotFound("execution provider", self.provider, available)

    @property
    def name(self) -> str:
        """``onnxruntime``."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """Of the installed package."""
        return str(_onnxruntime().__version__)

    def load(self, model: bytes) -> Run:
        """Make a session with bound random inputs; see ``Runtime.load``."""
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        providers = list(dict.fromkeys([self.provider, "CPUExecutionProvider"]))
        session = ort.InferenceSession(model, options, providers=providers)
        binding = session.io_binding()
        for tensor in session.get_inputs():
            value = _random_input(tensor.shape)
            binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(value))
        for tensor in session.get_outputs():
            binding.bind_output(tensor.name)

        def run() -> None:
            session.run_with_iobinding(binding)

        return run


RUNTIMES: Mapping[str, Callable[[int, str | None], Runtime]] = {
    "onnxruntime": lambda threads, provider: OnnxRuntime(threads, provider or "CPUExecutionProvider"),
}


def open_runtime(name: str = "onnxruntime", threads: int = 1, provider: str | None = None) -> Runtime:
    """Open a runtime by its name.

    Args:
        name: Key of ``RUNTIMES``.
        threads: Threads inside one op.
        provider: Execution provider; the runtime's plain one where it is None.

    Raises:
        NotFound: There is no such runtime, or it lacks the provider.
        Unavailable: Its package is not installed.
    """
    if name not in RUNTIMES:
        raise NotFound("runtime", name, sorted(RUNTIMES))
    return RUNTIMES[name](threads, provider)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("measuring needs ONNX Runtime: pip install onnxruntime") from error
    return onnxruntime


def _random_input(shape: Sequence[int | str | None]) -> np.ndarray[Any, Any]:
    sides = [side if isinstance(side, int) else 1 for side in shape]
    return np.random.default_rng(0).standard_normal(sides, np.float32)
