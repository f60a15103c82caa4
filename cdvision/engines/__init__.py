"""Engines run the dense graphs of a model package; ONNX Runtime is the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from cdvision.errors import EngineError

if TYPE_CHECKING:
    from cdvision.package.loader import ModelPackage

Arrays = Mapping[str, NDArray[Any]]

ENGINES = ("onnx", "torch", "tensorrt")


class Engine(Protocol):
    """What every engine can do; the graphs of one package are known by name."""

    def run(self, graph: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one graph on named arrays and return its named outputs."""
        ...


class OpenGraph(Protocol):
    """One graph that is ready to run."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on named arrays and return named outputs."""
        ...


def create_engine(
    name: str, package: ModelPackage, *, device: str = "cpu", threads: int | None = None
) -> Engine:
    """Make an engine for a package; nothing is loaded before the first run.

    Args:
        name: one of ``ENGINES``.
        package: the model package whose graphs it runs.
        device: ``"cpu"`` or ``"cuda"``; TensorRT knows GPUs alone, and takes both as the first one.
        threads: threads of one run; the engine's default where None.

    Raises:
        EngineError: the engine is unknown or not installed.
    """
    if name == "onnx":
        from cdvision.engines.onnx_engine import OnnxEngine

        return OnnxEngine(package, device=device, threads=threads)
    if name == "torch":
        from cdvision.engines.torch_engine import TorchEngine

        return TorchEngine(package, device=device, threads=threads)
    if name == "tensorrt":
        from cdvision.engines.tensorrt_engine import TensorrtEngine

        return TensorrtEngine(package, device="cuda" if device == "cpu" else device)
    raise EngineError(f"unknown engine {name!r}: expected one of {', '.join(ENGINES)}")
