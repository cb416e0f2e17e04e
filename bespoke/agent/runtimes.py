"""Runtimes: what executes a network on the device.

The agent runs content-addressed ONNX files with the runtime that is installed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.errors import InvalidInput, NotFound, Unavailable

Run = Callable[[], None]
"""One inference of a loaded network, on inputs that are already in place; returns when it is done."""

Model = Path | bytes
"""A serialised ONNX model, or the file that it is in."""

Array = NDArray[Any]

_PLAIN_PROVIDER = "CPUExecutionProvider"
_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"B\x04\n\x00\x10\x11"
)
"""The smallest network, as ONNX: what a provider is tried with."""


class RuntimeIdentity(Protocol):
    """What a profile says of a runtime."""

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
        """Threads inside one op; ops run one after another."""
        ...


class Runtime(RuntimeIdentity, Protocol):
    """Loads networks and runs them; every one passes the same conformance suite."""

    def load(self, model: Model) -> Run:
        """Load a network with random inputs, the same ones every time.

        Args:
            model: Serialised, or its file, which takes less memory.

        Returns:
            A callable that runs it once.

        Raises:
            InvalidInput: The runtime does not take this network.
        """
        ...

    def infer(self, model: Model, inputs: Sequence[Array]) -> list[Array]:
        """Run a network once and hand out its results: to check a runtime, not to time it.

        Args:
            model: Serialised, or its file.
            inputs: One array for each of its inputs, in their order.

        Raises:
            InvalidInput: The runtime does not take this network.
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
    provider: str = _PLAIN_PROVIDER

    def __post_init__(self) -> None:
        _expect_threads(self.threads)
        available = _onnxruntime().get_available_providers()
        if self.provider not in available:
            raise NotFound("execution provider", self.provider, available)
        if self.provider != _PLAIN_PROVIDER:
            self._session(_IDENTITY)

    @property
    def name(self) -> str:
        """``onnxruntime``."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """Of the installed package."""
        return str(_onnxruntime().__version__)

    def load(self, model: Model) -> Run:
        """Make a session with bound random inputs; see ``Runtime.load``."""
        ort = _onnxruntime()
        session = self._session(model)
        binding = session.io_binding()
        for tensor in session.get_inputs():
            value = _random_input(tensor.shape, tensor.type == "tensor(uint8)")
            binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(value))
        for tensor in session.get_outputs():
            binding.bind_output(tensor.name)

        def run() -> None:
            session.run_with_iobinding(binding)

        return run

    def infer(self, model: Model, inputs: Sequence[Array]) -> list[Array]:
        """Run once; see ``Runtime.infer``."""
        session = self._session(model)
        names = [tensor.name for tensor in session.get_inputs()]
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    def _session(self, model: Model) -> Any:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        providers = list(dict.fromkeys([self.provider, _PLAIN_PROVIDER]))
        try:
            session = ort.InferenceSession(_name_or_bytes(model), options, providers=providers)
        except Exception as error:
            raise _refused(self.name, model, error) from error
        # A provider that is there but does not start (a driver is missing) is left out without an error.
        if self.provider not in session.get_providers():
            raise Unavailable(
                f"onnxruntime has {self.provider}, which does not start here, and would run networks with "
                f"{', '.join(session.get_providers())}: see what it wrote before, often a missing driver"
            )
        return session


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO.

    Attributes:
        threads: Threads inside one op; there is one stream.
        provider: OpenVINO's device, e.g. ``CPU``.
    """

    threads: int = 1
    provider: str = "CPU"

    def __post_init__(self) -> None:
        _expect_threads(self.threads)
        available = _openvino().Core().available_devices
        if self.provider not in available:
            raise NotFound("OpenVINO device", self.provider, available)

    @property
    def name(self) -> str:
        """``openvino``."""
        return "openvino"

    @property
    def version(self) -> str:
        """Of the installed package, without the build's hash."""
        return str(_openvino().__version__).partition("-")[0]

    def load(self, model: Model) -> Run:
        """Compile for latency, with random inputs in place; see ``Runtime.load``."""
        compiled = self._compiled(model)
        request = compiled.create_infer_request()
        for i, port in enumerate(compiled.inputs):
            is_byte = port.get_element_type().get_type_name() == "u8"
            sides = [side.get_length() if side.is_static else 1 for side in port.get_partial_shape()]
            request.set_input_tensor(i, _openvino().Tensor(_random_input(sides, is_byte)))

        def run() -> None:
            request.infer()

        return run

    def infer(self, model: Model, inputs: Sequence[Array]) -> list[Array]:
        """Run once; see ``Runtime.infer``."""
        results = self._compiled(model)(list(inputs))
        return [np.array(results[i]) for i in range(len(results))]

    def _compiled(self, model: Model) -> Any:
        core = _openvino().Core()
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if self.provider == "CPU":
            settings |= {
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": "1",
                # The agent pins its process; a second opinion would move its threads away again.
                "ENABLE_CPU_PINNING": False,
                # Where the CPU has bfloat16, OpenVINO would else compute fp32 networks in it.
                "INFERENCE_PRECISION_HINT": "f32",
            }
        try:
            return core.compile_model(core.read_model(_name_or_bytes(model)), self.provider, settings)
        except Exception as error:
            raise _refused(self.name, model, error) from error


RUNTIMES: Mapping[str, Callable[[int, str | None], Runtime]] = {
    "onnxruntime": lambda threads, provider: OnnxRuntime(threads, provider or _PLAIN_PROVIDER),
    "openvino": lambda threads, provider: OpenVino(threads, provider or "CPU"),
}


def open_runtime(name: str = "onnxruntime", threads: int = 1, provider: str | None = None) -> Runtime:
    """Open a runtime by its name.

    Args:
        name: Key of ``RUNTIMES``.
        threads: Threads inside one op.
        provider: Execution provider; the runtime's plain one where it is None.

    Raises:
        NotFound: There is no such runtime, or it lacks the provider.
        InvalidInput: There must be at least one thread.
        Unavailable: Its package is not installed, or the provider does not start.
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


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise Unavailable("the runtime openvino needs its package: pip install openvino") from error
    return openvino


def _expect_threads(threads: int) -> None:
    if threads < 1:
        raise InvalidInput(f"threads: got {threads}, expected at least 1")


def _refused(runtime: str, model: Model, error: Exception) -> InvalidInput:
    reason = " ".join(str(error).split())[:300]
    size = model.stat().st_size if isinstance(model, Path) else len(model)
    return InvalidInput(f"{runtime} does not take this network ({size} bytes): {reason}")


def _name_or_bytes(model: Model) -> str | bytes:
    return str(model) if isinstance(model, Path) else model


def _random_input(shape: Sequence[int | str | None], is_byte: bool) -> Array:
    sides = [side if isinstance(side, int) else 1 for side in shape]
    rng = np.random.default_rng(0)
    if is_byte:
        return rng.integers(0, 256, sides, np.uint8)
    return rng.standard_normal(sides, np.float32)
