"""An opened stream: decoded once, asked often."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Latents, arrived_body
from cdvision.errors import BitstreamError, UnsupportedTask
from cdvision.heads.content_pooling import window_inputs
from cdvision.package.card import TailSpec
from cdvision.package.graph_names import LAYER_COUNT, QUALITY, cheapest_graph
from cdvision.photo import Size, content_size, network_input
from cdvision.stream import ParsedStream, StreamHeader

if TYPE_CHECKING:
    from cdvision.model import Model
    from cdvision.results import Attributes, Classification, Detections

Array = NDArray[Any]


class Stream:
    """Answers from one stream; latents, features and dense outputs are computed at most once.

    Attributes:
        header: sizes, quality, model fingerprint and layer table.
        complete: False where layers were cut off.
        model: the model that answers.
    """

    def __init__(self, parsed: ParsedStream, model: Model) -> None:
        self.header: StreamHeader = parsed.header
        self.complete: bool = parsed.complete
        self.model = model
        self._layers = {layer.id: layer.body for layer in parsed.layers}
        self._latents: dict[int, Latents] = {}
        self._features: dict[str, Array] = {}
        self._dense: dict[str, dict[str, Array]] = {}
        _check_input(self.header, model)

    @property
    def source_size(self) -> Size:
        """(width, height) of the photo that was encoded."""
        return self.header.width, self.header.height

    @property
    def input_size(self) -> Size:
        """(width, height) of the network input, padding included."""
        return self.header.input_width, self.header.input_height

    @property
    def content_size(self) -> Size:
        """(width, height) of the photo inside the network input, anchored at the top left."""
        spec = self.model.card.input
        if spec.fit == "square":
            return self.input_size
        return content_size(self.source_size, self.input_size, spec.multiple)

    def latents(self) -> Latents:
        """Entropy-decode every layer that has arrived.

        Returns:
            int32 arrays by the names that the model's card gives them: of `small` ``descriptor``
            (D,), ``symbols`` (C, H / stride, W / stride) and ``hyper`` (C_z, ...), of `hsc`
            ``base`` and ``detail``. What has not arrived is not there.

        Raises:
            BitstreamError: no layer has arrived, or one's bytes are no such latents.
        """
        coder = self.model.package.coder
        return self._decoded(coder.layers_in_order(self._layers))

    def latents_for(self, tail: str) -> Latents:
        """Entropy-decode what one tail reads, and nothing else; as ``latents``."""
        return self._decoded(self.layers_for(tail))

    def layers_for(self, tail: str) -> list[int]:
        """Return ids of the layers that a tail is answered from, as far as they have arrived.

        Raises:
            BitstreamError: too few of them have arrived for an answer.
        """
        spec = self.model.card.tails[tail]
        arrived = list(takewhile(self._layers.__contains__, spec.layers))
        for layer in spec.layers[: spec.least_layers]:
            arrived_body(self._layers, layer)
        return arrived

    def _decoded(self, layers: Iterable[int]) -> Latents:
        """Return the latents of layers; each is decoded once, and so is what it needs."""
        coder, quality = self.model.package.coder, self.header.quality - 1
        shapes = self.model.card.latent_shapes(self.input_size)
        found: Latents = {}
        for layer in layers:
            if layer not in self._latents:
                needed = coder.layers_in_order([layer])[:-1]
                known = self._decoded(needed) if needed else {}
                body = arrived_body(self._layers, layer)
                self._latents[layer] = coder.decode_layer(layer, body, quality, shapes, known)
            found |= self._latents[layer]
        return found

    def features(self, tail: str) -> Array:
        """Return the features at one tail's split point, float32 (channels, h, w).

        Args:
            tail: a name among the card's tails, such as ``"mobilenet_v2"``.
        """
        if tail not in self.model.card.tails:
            known = ", ".join(self.model.card.tails)
            raise UnsupportedTask(f"model {self.model.name!r} has no tail {tail!r}: it has {known}")
        if tail not in self._features:
            outputs = self.model.engine.run(f"tap.{tail}", self.graph_inputs(tail))
            self._features[tail] = outputs["features"][0]
        return self._features[tail]

    def detect(
        self, *, confidence: float = 0.3, iou: float = 0.6, max_detections: int = 100
    ) -> Detections:
        """Detect objects.

        Args:
            confidence: least confidence that is returned, 0 to 1.
            iou: boxes of one class that overlap a better one by more are dropped.
            max_detections: the best so many are returned.

        Returns:
            Boxes in pixels of the source image, best first.

        Raises:
            UnsupportedTask: the model has no detector.
            BitstreamError: the layer's bytes are damaged.
        """
        return self._objects("detect", confidence, iou, max_detections)

    def segment(
        self, *, confidence: float = 0.3, iou: float = 0.6, max_detections: int = 100
    ) -> Detections:
        """Detect objects with a mask each; arguments, units and errors are those of ``detect``.

        Whoever wants boxes too should ask for masks first: they bring the boxes with them.

        Returns:
            Boxes and, in ``mask``, run-length encoded masks of the source image's size.
        """
        return self._objects("segment", confidence, iou, max_detections)

    def _objects(self, task: str, confidence: float, iou: float, most: int) -> Detections:
        tail = self.tail_for(task)
        spec, dense = self.model.card.tails[tail], self._dense_for(task)
        geometry = {
            "input_size": self.input_size,
            "content_size": self.content_size,
            "source_size": self.source_size,
        }
        options: dict[str, Any] = {
            "class_names": self._class_names(tail),
            "confidence": confidence,
            "iou": iou,
            "max_detections": most,
            **geometry,
        }
        if spec.head == "two_stage":
            return self._two_stage(tail, spec, dense, masks=task == "segment", **options)
        from cdvision.heads.dense_detection import MaskOutputs, detect_from_dense

        if task == "segment":
            options["masks"] = MaskOutputs(*(dense[name] for name in MaskOutputs._fields))
        return detect_from_dense(dense["scores"], dense["distances"], **options)

    def _two_stage(
        self, tail: str, spec: TailSpec, dense: dict[str, Array], **options: Any
    ) -> Detections:
        from cdvision.heads.two_stage import TwoStageConfig, detect_two_stage

        def run(part: str, inputs: dict[str, Array]) -> dict[str, Array]:
            return self.model.engine.run(f"{part}.{tail}", inputs)

        config = TwoStageConfig.from_dict(spec.settings["selection"])
        return detect_two_stage(run, dense, config=config, **options)

    def classify(self, *, top: int = 5) -> Classification:
        """Classify the photo's central square; returns the ``top`` most probable classes.

        Raises:
            UnsupportedTask: the model has no classifier.
            BitstreamError: the layer's bytes are damaged.
        """
        from cdvision.heads.class_scores import classification_from_logits

        tail = self.tail_for("classify")
        logits = self.dense(tail)["logits"]
        return classification_from_logits(logits, self._class_names(tail), top=top)

    def attributes(self, *, all_attributes: bool = False) -> Attributes:
        """Tell the attributes of a face, from as many layers as have arrived.

        Args:
            all_attributes: also those that judge a person, or that a picture tells badly; the
                report is limited to plainly visible ones otherwise.

        Returns:
            A calibrated probability for each, and whether the attribute counts as present.

        Raises:
            UnsupportedTask: the model does not code faces.
            BitstreamError: a layer's bytes are damaged.
        """
        from cdvision.heads.attribute_answers import AttributeCalibration, attributes_from_logits

        tail = self.tail_for("attributes")
        return attributes_from_logits(
            self.dense(tail)["logits"],
            self._class_names(tail),
            calibration=AttributeCalibration.from_settings(self.model.card.tails[tail].settings),
            layers=len(self.layers_for(tail)),
            all_attributes=all_attributes,
        )

    def reconstruct(self) -> Array:
        """Rebuild a picture, the better the more layers have arrived.

        Returns:
            (H, W, 3) uint8 RGB of the network input's size.

        Raises:
            UnsupportedTask: the model answers questions only.
            BitstreamError: a layer's bytes are damaged.
        """
        return self.dense(self.tail_for("reconstruct"))["image"]

    def dense(self, tail: str) -> dict[str, Array]:
        """Return the dense outputs of a tail's head, before post-processing."""
        if tail not in self._dense:
            self._run(tail, f"answer.{tail}")
        return self._dense[tail]

    def _dense_for(self, task: str) -> dict[str, Array]:
        """Return the dense outputs that answer a task; those with masks hold all others."""
        ((tail, graph),) = self.model.card.graphs_for([task]).items()
        if graph.startswith("segment.") and "prototypes" not in self._dense.get(tail, {}):
            self._run(tail, graph)
        return self.dense(tail)

    def _run(self, tail: str, graph: str) -> None:
        chosen = cheapest_graph(self.model.card, graph, self.graph_inputs(tail))
        outputs = self.model.engine.run(*chosen)
        self.keep_outputs(tail, {name: value[0] for name, value in outputs.items()})

    def keep_outputs(self, tail: str, outputs: dict[str, Array]) -> None:
        """Store what a graph computed for this stream: its features and its dense outputs."""
        self._features[tail] = outputs["features"]
        self._dense[tail] = outputs

    def tail_for(self, task: str) -> str:
        """Return the name of the tail for a task; raises UnsupportedTask."""
        return self.model.tail_for(task)

    def graph_inputs(self, tail: str) -> dict[str, Array]:
        """Return what a tail's graphs take, with a batch axis of one.

        Latents of layers that have not arrived are zeros; a tail of several layers is told how many
        there are.
        """
        card, spec = self.model.card, self.model.card.tails[tail]
        arrived = self.layers_for(tail)
        latents, shapes = self._decoded(arrived), card.latent_shapes(self.input_size)
        inputs: dict[str, Array] = {
            name: latents.get(name, np.zeros(shapes[name], np.int32))[None]
            for name in card.latents_of(spec.layers)
        }
        if len(spec.layers) > 1:
            inputs[LAYER_COUNT] = np.array([len(arrived)], np.int64)
        inputs[QUALITY] = np.array([self.header.quality - 1], np.int64)
        return inputs | window_inputs(spec, self.content_size, self.input_size)

    def _class_names(self, tail: str) -> tuple[str, ...]:
        return self.model.package.classes[self.model.card.tails[tail].classes]


def _check_input(header: StreamHeader, model: Model) -> None:
    """Refuse network inputs that no encoder writes, before anything of their size is made."""
    spec = model.card.input
    size, found = (
        max(header.input_width, header.input_height),
        (header.input_width, header.input_height),
    )
    if size > spec.max_size or size % spec.multiple:
        expected: object = f"sides up to {spec.max_size}, multiples of {spec.multiple}"
        raise BitstreamError("network-input size", expected=expected, found=found)
    expected = network_input((header.width, header.height), spec, size)
    if found != expected:
        raise BitstreamError("network-input size", expected=expected, found=found)
