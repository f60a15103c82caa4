"""Runs a package's graphs on TensorRT engines that ``cdvision export --to tensorrt`` built."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cdvision.engines import Arrays, OpenGraph
from cdvision.engines.plan_cache import (
    PlanCache,
    PlanKey,
    default_folder,
    model_sha256,
    usable_plan,
)
from cdvision.engines.tensorrt_runtime import TensorrtRuntime
from cdvision.errors import EngineError

if TYPE_CHECKING:
    from cdvision.package.loader import ModelPackage


class TensorrtEngine:
    """Opens each graph's plan when it is first asked for; the one built last that fits.

    Args:
        package: the model package.
        device: ``"cuda"``, or ``"cuda:1"`` for the second GPU.
        folder: of the plans; ``$CDVISION_ENGINES`` or the user's cache where None.
        runtime: TensorRT's where None.

    Raises:
        EngineError: TensorRT or the device is missing.
    """

    def __init__(
        self,
        package: ModelPackage,
        *,
        device: str = "cuda",
        folder: Path | None = None,
        runtime: TensorrtRuntime | None = None,
    ) -> None:
        number = _device_number(device)
        self._package = package
        self._runtime = runtime or TensorrtRuntime(number)
        self._cache = PlanCache(default_folder() if folder is None else folder)
        self._wanted = {
            "model_sha256": model_sha256(package.card),
            "tensorrt": self._runtime.version,
            "compute_capability": self._runtime.compute_capability,
        }
        self._keys: dict[str, list[PlanKey]] = {}
        self._open: dict[str, OpenGraph] = {}
        # A plan has one set of buffers, so threads take turns. While one waits for the GPU, others
        # decode: so ``Model.analyze``, with two batches under way, keeps both busy.
        self._turn = Lock()

    def run(self, graph: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one graph on named arrays and return its named outputs.

        Raises:
            EngineError: no plan was built here for this graph and these shapes.
        """
        self._package.graph_path(graph)  # an unknown graph is a ModelError, not a missing plan
        with self._turn:
            return self._plan_for(graph, inputs).run(inputs)

    def _plan_for(self, graph: str, inputs: Arrays) -> OpenGraph:
        if graph not in self._keys:
            self._keys[graph] = self._cache.plans(graph)
        name = self._package.card.name
        build = f"cdvision export {name} --to tensorrt {self._cache.folder}"
        shapes = {key: value.shape for key, value in inputs.items()}
        key = usable_plan(self._keys[graph], self._wanted, shapes, build=build)
        if key.digest not in self._open:
            self._open[key.digest] = self._runtime.open_plan(self._cache.read(key))
        return self._open[key.digest]


def _device_number(device: str) -> int:
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise EngineError(f"the tensorrt engine runs on 'cuda' or 'cuda:N', not on {device!r}")
    return int(number or 0)
