"""The uncompressed networks, exported whole and run: what streams are held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from cdvision.engines.onnx_runtime import onnxruntime
from cdvision.errors import ModelError
from cdvision.evaluation.answer_cache import files_digest
from cdvision.export.onnx_graphs import export_graph
from cdvision.heads.class_scores import classification_from_logits
from cdvision.heads.dense_detection import detect_from_dense
from cdvision.models.small.nanodet import PLAIN, WIDTHS
from cdvision.models.small.nanodet_weights import load_nanodet
from cdvision.models.small.network import CLASSIFIER
from cdvision.networks.graphs import Graph
from cdvision.networks.initial_weights import load_mobilenet
from cdvision.package.card import ModelCard
from cdvision.package.loader import ModelPackage, file_sha256
from cdvision.photo import ImageLike, content_size, fit_photo, read_photo

if TYPE_CHECKING:
    from cdvision.evaluation.pixel_networks import PixelNetworks
    from cdvision.results import Classification, Detections

CLASSIFIER_SIDE, CLASSIFIER_RESIZE = 224, 256


class PublishedNetworks:
    """Runs the task networks on pixels in ONNX Runtime, as a user without a codec would.

    The package gives preprocessing and class names; ``graphs`` is the folder of ``write_graphs``.
    """

    def __init__(self, package: ModelPackage, graphs: Path) -> None:
        self.package = package
        self._detector, self._sessions = detector_of_card(package.card), {}
        for name in (self._detector, CLASSIFIER):
            path = graphs / f"{name}.onnx"
            if not path.is_file():
                raise ModelError(
                    f"{path} is missing: write it with `cdvision eval --initial-weights DIR`"
                )
            self._sessions[name] = onnxruntime().InferenceSession(str(path))
        # The graphs' own files change with every exporter, their answers do not.
        weights = (graphs / f"{name}.safetensors" for name in self._sessions)
        self._weights = {path.name: file_sha256(path) for path in weights if path.is_file()}

    def detect(
        self, image: ImageLike, *, confidence: float = 0.3, size: int | None = None
    ) -> Detections:
        """Detect objects in pixels scaled and padded exactly as the encoder does."""
        spec = self.package.card.input
        fitted = fit_photo(read_photo(image), spec, size)
        height, width = fitted.pixels.shape[:2]
        scores, distances = self._run(self._detector, fitted.pixels)
        return detect_from_dense(
            scores[0],
            distances[0],
            input_size=(width, height),
            content_size=content_size(fitted.source_size, (width, height)),
            source_size=fitted.source_size,
            class_names=self.package.classes["coco"],
            confidence=confidence,
        )

    def classify(self, image: ImageLike, *, top: int = 5) -> Classification:
        """Classify the central 224² of the photo at a short side of 256, the usual protocol."""
        photo = read_photo(image)
        scale = CLASSIFIER_RESIZE / min(photo.size)
        width, height = (round(side * scale) for side in photo.size)
        left, up = (width - CLASSIFIER_SIDE) // 2, (height - CLASSIFIER_SIDE) // 2
        resized = photo.resize((width, height), Image.Resampling.BILINEAR)
        crop = resized.crop((left, up, left + CLASSIFIER_SIDE, up + CLASSIFIER_SIDE))
        (logits,) = self._run(CLASSIFIER, np.asarray(crop))
        return classification_from_logits(logits[0], self.package.classes["imagenet"], top=top)

    def digest(self) -> str:
        """SHA-256 over the networks' weights and the preprocessing."""
        return files_digest({**self._weights, "input": repr(self.package.card.input)})

    def _run(self, name: str, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._sessions[name].run(None, {"image": pixels[None]})
        return outputs


def uncompressed_networks(
    package: ModelPackage, initial_weights: Path, folder: Path
) -> PixelNetworks:
    """Export the published networks and load them (needs the ``torch`` and ``export`` extras).

    The package gives preprocessing and class names; the graphs are written into ``folder``.
    """
    write_graphs(initial_weights, folder, detector_of_card(package.card))
    return PublishedNetworks(package, folder)


def detector_of_card(card: ModelCard) -> str:
    """Return which detector a package's receiver runs."""
    return next(name for name in WIDTHS if name in card.tails)


class WholeNetwork(nn.Module):
    """Pixels to the outputs of a network that a package splits: front and tail in a row."""

    def __init__(self, front: nn.Module, tail: nn.Module, *, scores: bool) -> None:
        super().__init__()
        self.front, self.tail, self._scores = front, tail, scores

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (N, H, W, 3) uint8 to dense outputs."""
        outputs = self.tail(self.front(image.permute(0, 3, 1, 2).float()))
        if not self._scores:
            return (outputs,)
        return torch.sigmoid(outputs.scores), outputs.distances


def write_graphs(initial_weights: Path, folder: Path, detector: str = PLAIN) -> dict[str, Path]:
    """Write the detector's graph and ``mobilenet_v2.onnx`` with their weights beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = {
        detector: (load_nanodet(initial_weights, detector), ("scores", "distances")),
        CLASSIFIER: (load_mobilenet(initial_weights), ("logits",)),
    }
    paths = {}
    for name, (parts, outputs) in networks.items():
        module = WholeNetwork(*parts, scores="scores" in outputs).requires_grad_(False)
        weights = folder / f"{name}.safetensors"
        # The graph is traced from rounded weights: it and the file beside it are then one network.
        state = {key: value.half().contiguous() for key, value in module.state_dict().items()}
        save_file(state, weights)
        module.load_state_dict({key: value.float() for key, value in state.items()})
        axes: dict[str, tuple[str | int, ...]] = {"image": ("batch", "height", "width", 3)}
        paths[name] = folder / f"{name}.onnx"
        export_graph(Graph(module, axes, outputs, {"image": torch.uint8}), paths[name], weights)
    return paths
