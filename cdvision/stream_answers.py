"""An opened stream: decoded once, asked often."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Latents, arrived_body
from cdvision.errors import BitstreamError, UnsupportedTask
from cdvision.heads.content_pooling import pooling_inputs
from cdvision.heads.registry import Question, answer
from cdvision.heads.resizing import resizing_inputs
from cdvision.package.graph_names import ANSWER, LAYER_COUNT, QUALITY, cheapest_graph
from cdvision.photo import Size, content_size, network_input
from cdvision.stream import Layer, ParsedStream, StreamHeader
from cdvision.tasks import find_task

if TYPE_CHECKING:
    from cdvision.model import Model
    from cdvision.package.card import TailSpec
    from cdvision.results import Attributes, Classification, Detections

Array = NDArray[Any]


class Stream:
    """Answers from one stream; latents, features and dense outputs are computed at most once.

    Every question raises UnsupportedTask where the model has no network for it, and BitstreamError
    where the bytes of a layer that it needs are damaged or have not arrived.

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
        self._ran: set[str] = set()  # names of graphs
        _check_input(self.header, model)

    @classmethod
    def of_latents(cls, header: StreamHeader, latents: Latents, model: Model) -> Stream:
        """Answer from latents that came another way, in a delta packet say.

        The header's layers are those whose latents are there.
        """
        layers = tuple(Layer(entry.id, b"") for entry in header.layers)
        stream = cls(ParsedStream(header, layers, complete=True, size=0), model)
        for layer in layers:
            names = model.card.latents_of([layer.id])
            stream._latents[layer.id] = {name: latents[name] for name in names}
        return stream

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
        # Not in the stream: the receiver computes what the sender computed.
        return content_size(self.source_size, self.input_size, spec.multiple)

    def latents(self) -> Latents:
        """Entropy-decode every layer that has arrived, to int32 arrays by their names on the card.

        Of `small` these are ``descriptor`` (D,), ``symbols`` (C, H / stride, W / stride) and
        ``hyper`` (C_z, ...), of `hsc` ``base`` and ``detail``.
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
        spec = self._tail(tail)
        # Up to the first gap: a later layer is of no use without the ones before it.
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

    def features(self, tail: str, *, size: Size | None = None) -> Array:
        """Return the features (channels, h, w) float32 at the split point of one of the tails.

        ``size`` is (width, height) to which a network enlarges the photo before it looks, for tails
        whose decoder enlarges (``res2`` of `dicm-light`); None: the size that was coded.
        """
        self._tail(tail)
        if size is not None:
            inputs = self.graph_inputs(tail, size)
            enlarged: Array = self.model.engine.run(f"tap.{tail}", inputs)["features"][0]
            return enlarged
        if tail not in self._features:
            outputs = self.model.engine.run(f"tap.{tail}", self.graph_inputs(tail))
            self._features[tail] = outputs["features"][0]
        return self._features[tail]

    def _tail(self, name: str) -> TailSpec:
        """Return a tail of the card; raises UnsupportedTask where there is none of the name."""
        tails = self.model.card.tails
        if name not in tails:
            known = ", ".join(tails)
            raise UnsupportedTask(f"model {self.model.name!r} has no tail {name!r}: it has {known}")
        return tails[name]

    def ask(self, task: str, **options: Any) -> Any:
        """Answer any task of the model, ``"detect"`` say, with its options; see ``cdvision.tasks``.

        Raises:
            CdvisionError: an option that the task does not take, or that is out of range.
        """
        checked = find_task(task).checked(options)
        tail = self.tail_for(task)
        spec = self.model.card.tails[tail]
        question = Question(
            task=task,
            options=checked,
            dense=self._dense_for(task, tail),
            settings=spec.settings,
            class_names=self.model.package.classes.get(spec.classes, ()),
            layers=len(self.layers_for(tail)),
            input_size=self.input_size,
            content_size=self.content_size,
            source_size=self.source_size,
            run=lambda part, inputs: self.model.engine.run(f"{part}.{tail}", inputs),
        )
        return answer(spec.head, question)

    def detect(
        self,
        *,
        confidence: float = 0.3,
        iou: float = 0.6,
        max_detections: int = 100,
        class_agnostic: bool = False,
    ) -> Detections:
        """Detect objects; boxes are in pixels of the source image, best first.

        Args:
            confidence: least confidence that is returned, 0 to 1.
            iou: boxes of one class that overlap a better one by more are dropped.
            max_detections: the best so many are returned.
            class_agnostic: True drops what overlaps a better box of any class: a van is then no
                car and truck too.
        """
        found: Detections = self.ask(
            "detect",
            confidence=confidence,
            iou=iou,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
        )
        return found

    def segment(self, **options: Any) -> Detections:
        """Detect objects with a mask each; options and units are those of ``detect``.

        Whoever wants boxes too should ask for masks first: they bring the boxes with them. Masks
        are run-length encoded, of the source image's size.
        """
        found: Detections = self.ask("segment", **options)
        return found

    def classify(self, *, top: int = 5) -> Classification:
        """Classify the photo's central square; returns the ``top`` most probable classes."""
        found: Classification = self.ask("classify", top=top)
        return found

    def attributes(self, *, all_attributes: bool = False) -> Attributes:
        """Tell the attributes of a face, from as many layers as have arrived.

        Each has a calibrated probability, and whether it counts as present. Told are those that are
        plainly visible; ``all_attributes`` adds those that judge a person, or that a picture tells
        badly.
        """
        found: Attributes = self.ask("attributes", all_attributes=all_attributes)
        return found

    def reconstruct(self) -> Array:
        """Rebuild a picture (H, W, 3) uint8 RGB of the input's size, better with each layer."""
        picture: Array = self.ask("reconstruct")
        return picture

    def dense(self, tail: str) -> dict[str, Array]:
        """Return the dense outputs of a tail's head, before post-processing."""
        self._tail(tail)
        if tail not in self._dense:
            self._run(tail, f"{ANSWER}.{tail}")
        return self._dense[tail]

    def _dense_for(self, task: str, tail: str) -> dict[str, Array]:
        """Return the dense outputs that answer a task; its own graph gives all that others do."""
        graph = self.model.card.graph_for(task, tail)
        if graph not in self._ran and graph != f"{ANSWER}.{tail}":
            self._run(tail, graph)
        return self.dense(tail)

    def _run(self, tail: str, graph: str) -> None:
        chosen = cheapest_graph(self.model.card, graph, self.graph_inputs(tail))
        outputs = self.model.engine.run(*chosen)
        self.keep_outputs(tail, graph, {name: value[0] for name, value in outputs.items()})

    def keep_outputs(self, tail: str, graph: str, outputs: dict[str, Array]) -> None:
        """Store what a graph computed for this stream: its features and its dense outputs."""
        self._ran.add(graph)
        self._features[tail] = outputs["features"]
        self._dense[tail] = outputs

    def tail_for(self, task: str) -> str:
        """Return the name of the tail for a task; raises UnsupportedTask."""
        return self.model.tail_for(task)

    def graph_inputs(self, tail: str, size: Size | None = None) -> dict[str, Array]:
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
        sizes = self.content_size, self.input_size
        return inputs | pooling_inputs(spec, *sizes) | resizing_inputs(spec, *sizes, size)


def _check_input(header: StreamHeader, model: Model) -> None:
    """Refuse network inputs that no encoder writes, before anything of their size is made."""
    spec, found = model.card.input, (header.input_width, header.input_height)
    size = max(found)
    if size > spec.max_size or size % spec.multiple:
        expected: object = f"sides up to {spec.max_size}, multiples of {spec.multiple}"
        raise BitstreamError("network-input size", expected=expected, found=found)
    expected = network_input((header.width, header.height), spec, size)
    if found != expected:
        raise BitstreamError("network-input size", expected=expected, found=found)
