"""A package's own networks without its codec: what its streams are held against.

Only for packages whose networks answer pixels as they answer decoded features; `small`'s tails have
learned to read decoded features, so it is held against the published weights (``reference``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cdvision.errors import UnsupportedTask
from cdvision.evaluation.answer_cache import files_digest
from cdvision.heads.content_pooling import pooling_inputs
from cdvision.package.graph_names import ANSWER
from cdvision.package.loader import WEIGHTS_FILE
from cdvision.photo import FittedPhoto, ImageLike, fit_photo, read_photo
from cdvision.stream import Layer, ParsedStream, StreamHeader
from cdvision.stream_answers import Stream

if TYPE_CHECKING:
    from cdvision.model import Model
    from cdvision.results import Classification, Detections


class PackageWithoutCodec:
    """Runs a package's front, tail and heads on pixels, with its preprocessing, in PyTorch.

    Args:
        model: the package, and the engine that runs what comes behind the dense part.

    Raises:
        ModelError: the package does not hold such networks.
    """

    def __init__(self, model: Model) -> None:
        from cdvision.networks.graphs import load_network, pixel_graphs

        self.model, self.package = model, model.package
        network = self.package.card.network
        self._graphs = pixel_graphs(network, load_network(network, self.package.weights_path))

    def detect(
        self, image: ImageLike, *, confidence: float = 0.3, size: int | None = None
    ) -> Detections:
        """Detect objects in pixels scaled and padded exactly as the encoder does."""
        return self._answered(image, "detect", size).detect(confidence=confidence)

    def classify(self, image: ImageLike, *, top: int = 5) -> Classification:
        """Classify a photo scaled and padded as the encoder does."""
        return self._answered(image, "classify", None).classify(top=top)

    def digest(self) -> str:
        """SHA-256 over the networks' weights and the preprocessing."""
        card = self.package.card
        return files_digest({"weights": card.files[WEIGHTS_FILE], "input": repr(card.input)})

    def _answered(self, image: ImageLike, task: str, size: int | None) -> Stream:
        """Return a stream of empty layers that already has the answers to a photo."""
        tail = self.package.card.tail_for(task)
        if tail is None:
            raise UnsupportedTask(self.model.no_task_message(task))
        fitted = fit_photo(read_photo(image), self.package.card.input, size)
        spec = self.package.card.tails[tail]
        layers = tuple(Layer(number, b"") for number in spec.layers)
        stream = Stream(ParsedStream(self._header(fitted), layers, True, 0), self.model)
        windows = pooling_inputs(spec, stream.content_size, stream.input_size)
        inputs: dict[str, NDArray[Any]] = {"image": fitted.pixels[None], **windows}
        stream.keep_outputs(tail, f"{ANSWER}.{tail}", self._run(tail, inputs))
        return stream

    def _run(self, tail: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the dense outputs of one photo."""
        import torch

        graph = self._graphs[tail]
        with torch.inference_mode():
            found = graph.module(*(torch.from_numpy(inputs[name]) for name in graph.inputs))
        return {name: value[0].numpy() for name, value in zip(graph.outputs, found, strict=True)}

    def _header(self, fitted: FittedPhoto) -> StreamHeader:
        height, width = fitted.pixels.shape[:2]
        return StreamHeader(
            codec=self.package.card.codec,
            fingerprint=self.package.coder.fingerprint[:4],
            width=fitted.source_size[0],
            height=fitted.source_size[1],
            input_width=width,
            input_height=height,
            quality=1,
            layers=(),
        )
