"""Runs a package's graphs as PyTorch modules, from the package's safetensors weights."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from cdvision.engines import Arrays
from cdvision.errors import EngineError, ModelError
from cdvision.package.loader import WEIGHTS_FILE, ModelPackage

try:
    import torch
except ImportError as error:
    raise EngineError(
        "the torch engine needs PyTorch: install it with `pip install 'cdvision[torch]'`"
    ) from error


class TorchEngine:
    """Holds the networks of one package on one device.

    Args:
        package: the model package; its card names the network.
        device: a PyTorch device such as ``"cpu"`` or ``"cuda"``.
        threads: threads inside a run, for the whole process (PyTorch knows no other way).

    Raises:
        EngineError: the device is not there, or the package or a tap of it holds only graphs.
    """

    def __init__(
        self, package: ModelPackage, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        from cdvision.networks.graphs import graph_modules, load_network

        if WEIGHTS_FILE not in package.card.files:
            raise EngineError(
                f"{package.folder}: a package without {WEIGHTS_FILE} is for ONNX Runtime and "
                "TensorRT alone: load the whole package for the torch engine"
            )
        if package.attached:
            raise EngineError(
                f"{', '.join(package.attached)}: taps for networks of your own are graphs only: "
                "load them with engine='onnx'"
            )
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self._device = torch.device(device)
            network = load_network(package.card.network, package.weights_path)
            self._graphs = graph_modules(package.card.network, network.to(self._device))
        except RuntimeError as error:
            raise EngineError(f"PyTorch cannot use {device!r}: {error}") from error
        if package.card.sender_graphs.isdisjoint(self._graphs):
            raise EngineError(
                f"model {package.card.name!r} holds networks of its user's own, as graphs only: "
                "load it with engine='onnx'"
            )

    def run(self, graph: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one graph on named arrays and return its named outputs."""
        if graph not in self._graphs:
            raise ModelError(f"no graph {graph!r}: expected one of {', '.join(self._graphs)}")
        signature = self._graphs[graph]
        # Copies, not views: arrays of decoded streams may be read-only, which PyTorch warns of.
        tensors = [torch.tensor(inputs[name], device=self._device) for name in signature.inputs]
        with torch.inference_mode():
            outputs = signature.module(*tensors)
        return {
            name: value.cpu().numpy()
            for name, value in zip(signature.outputs, outputs, strict=True)
        }
