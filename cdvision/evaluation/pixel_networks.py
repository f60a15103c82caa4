"""Networks that answer pixels: what streams and rivals are held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cdvision.errors import UnsupportedTask
from cdvision.package.families import find_part
from cdvision.package.loader import ModelPackage
from cdvision.photo import ImageLike
from cdvision.tasks import find_task

if TYPE_CHECKING:
    from cdvision.results import Classification, Detections


class PixelNetworks(Protocol):
    """Networks that answer pixels, as rivals' pictures and photos are shown to them."""

    package: ModelPackage

    def detect(
        self, image: ImageLike, *, confidence: float = 0.3, size: int | None = None
    ) -> Detections:
        """Detect objects in a network input whose long side is ``size``."""

    def classify(self, image: ImageLike, *, top: int = 5) -> Classification:
        """Classify a photo."""

    def digest(self) -> str:
        """SHA-256 over the networks' weights and the preprocessing."""


def uncompressed_networks(
    package: ModelPackage, initial_weights: Path, folder: Path
) -> PixelNetworks:
    """Return a package's task networks as they were published, without the codec.

    The published weights are read from ``initial_weights``, graphs are written to ``folder``.

    Raises:
        ModelError: its family has none.
    """
    load = find_part("uncompressed", package.card.network)
    networks: PixelNetworks = load(package, initial_weights, folder)
    return networks


def ask_pixels(
    networks: PixelNetworks, task: str, image: ImageLike, *, size: int | None = None
) -> Any:
    """Ask networks what `cdvision eval` asks of streams.

    Raises:
        UnsupportedTask: they do not answer the task.
    """
    if not hasattr(networks, task):
        raise UnsupportedTask(f"the uncompressed networks do not {task}")
    sized = {"size": size} if task == "detect" else {}
    return getattr(networks, task)(image, **find_task(task).measured, **sized)
