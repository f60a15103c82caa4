"""A loaded model: encodes photos into streams, and opens streams to answer from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.analysis import BATCH_SIZE, AnalysisResult, StreamItems, analyze_streams
from cdvision.engines import create_engine
from cdvision.errors import BitstreamError, CdvisionError, ImageError, ModelError, UnsupportedTask
from cdvision.package.loader import ModelPackage
from cdvision.package.registry import DEFAULT_MODEL
from cdvision.package.stream_codec import DESCRIBER, ENCODER
from cdvision.package.tap import load_with_taps
from cdvision.photo import FittedPhoto, ImageLike, fit_photo, read_photo
from cdvision.stream import StreamLimits, read_stream, write_stream
from cdvision.stream_answers import Stream

if TYPE_CHECKING:
    from cdvision.results import Attributes, Classification, Detections

PICTURES = {ENCODER: "image", DESCRIBER: "window"}  # what each graph of a sender looks at


class Model:
    """One model package on one engine; made by ``cdvision.load``.

    >>> import cdvision
    >>> model = cdvision.load("small")
    >>> bits = model.encode(np.zeros((90, 120, 3), np.uint8), quality=1)
    >>> model.classify(bits, top=1).class_id.shape
    (1,)
    """

    def __init__(
        self,
        package: ModelPackage,
        *,
        engine: str = "onnx",
        device: str = "cpu",
        threads: int | None = None,
        limits: StreamLimits | None = None,
    ) -> None:
        self.package, self.card = package, package.card
        self.engine = create_engine(engine, package, device=device, threads=threads)
        self.limits = limits if limits is not None else StreamLimits()

    @property
    def name(self) -> str:
        """Name on the model's card."""
        return self.card.name

    def encode(
        self,
        image: ImageLike,
        quality: int | None = None,
        *,
        size: int | None = None,
        check: bool = True,
        tasks: Sequence[str] | None = None,
    ) -> bytes:
        """Encode a photo into a stream.

        Args:
            image: path, bytes of an image file, PIL image or (H, W, 3) uint8 RGB array.
            quality: 1 (smallest) to 8; the card's default where None.
            size: long side of the network input in pixels, a multiple of 32. Where None, the
                photo's own up to the card's (416). Larger finds smaller objects and costs more
                bytes.
            check: refuse what the model is not made for: a picture that a model of faces takes
                for none.
            tasks: leave out what only other tasks than these need, and the work for it; all tasks
                of the card where None.

        Raises:
            ImageError: the image cannot be read or is refused, or the size is not one that the
                model takes.
            UnsupportedTask: the model cannot answer one of the tasks.
            CdvisionError: the quality is out of range, or there is no task in ``tasks``.
        """
        quality, layers = self._checked_quality(quality), self._layers_for(tasks)
        spec = self.card.input
        fitted = fit_photo(read_photo(image), spec, size)
        codec, (height, width) = self.package.codec, fitted.pixels.shape[:2]
        latents = self._run_encoder(fitted, quality, layers, check=check)
        return write_stream(
            codec=self.card.codec,
            fingerprint=codec.fingerprint[:4],
            width=fitted.source_size[0],
            height=fitted.source_size[1],
            input_width=width,
            input_height=height,
            quality=quality,
            layers=codec.write(latents, quality),
            compact=codec.compact,
        )

    def encode_latents(self, photo: FittedPhoto, quality: int) -> Any:
        """Run the encoder on a photo in its network input; return what a receiver will decode.

        See ``Stream.latents``.
        """
        return self.package.codec.kept(
            self._run_encoder(photo, quality, {None}, check=False), quality
        )

    def picture_for(self, graph: str, photo: FittedPhoto) -> NDArray[np.uint8]:
        """Return what a graph of the sender looks at: (H, W, 3) uint8."""
        if graph == ENCODER:
            return photo.pixels
        if photo.window is None:
            raise ModelError(f"model {self.name!r}: {graph!r} needs input.window in the card")
        return photo.window

    def _layers_for(self, tasks: Sequence[str] | None) -> set[int | None]:
        """Return the layers that a sender has to write for tasks; None in it stands for all."""
        if tasks is None:
            return {None}
        if not tasks:
            raise CdvisionError("tasks: expected at least one, found none")
        return {self.card.tails[self.tail_for(task)].layer for task in tasks}

    def tail_for(self, task: str) -> str:
        """Return the name of the tail for a task; raises UnsupportedTask."""
        tail = self.card.tail_for(task)
        if tail is None:
            raise UnsupportedTask(self.no_task_message(task))
        return tail

    def _run_encoder(
        self, photo: FittedPhoto, quality: int, layers: set[int | None], *, check: bool
    ) -> Any:
        level = np.array([quality - 1], np.int64)
        outputs: dict[str, NDArray[Any]] = {}
        for graph, layer in self.package.codec.sender_graphs.items():
            if layer in layers or None in layers:
                picture = {PICTURES[graph]: self.picture_for(graph, photo)[None]}
                outputs |= self.engine.run(graph, {**picture, "quality": level})
        if check and self.card.input.least_score is not None:
            self._check_score(float(outputs["score"][0]), self.card.input.least_score)
        return self.package.codec.latents_from(outputs)

    def _check_score(self, score: float, least: float) -> None:
        if score < least:
            raise ImageError(
                f"model {self.name!r} codes faces, and this picture does not look like one: "
                f"expected a score of {least:.2f} or more, found {score:.2f}; cut the face out "
                "first (cdvision.crop_face), or encode it all the same (check=False)"
            )

    def open(self, bits: bytes | bytearray | memoryview) -> Stream:
        """Parse a stream for answering; entropy decoding waits until it is needed.

        Raises:
            BitstreamError: the bytes are damaged, or another model wrote them.
        """
        parsed = read_stream(bits, limits=self.limits)
        header, fingerprint = parsed.header, self.package.codec.fingerprint[:4]
        for field, expected, found in (
            ("codec", self.card.codec, header.codec),
            ("model fingerprint", fingerprint.hex(), header.fingerprint.hex()),
        ):
            if found != expected:
                raise BitstreamError(field, expected=f"{expected} ({self.name})", found=found)
        if header.quality > self.card.qualities:
            raise BitstreamError(
                "quality", expected=f"1 to {self.card.qualities}", found=header.quality
            )
        return Stream(parsed, self)

    def detect(self, bits: bytes, *, confidence: float = 0.3, **options: Any) -> Detections:
        """Detect objects; see ``Stream.detect``."""
        return self.open(bits).detect(confidence=confidence, **options)

    def segment(self, bits: bytes, *, confidence: float = 0.3, **options: Any) -> Detections:
        """Detect objects with masks; see ``Stream.segment``."""
        return self.open(bits).segment(confidence=confidence, **options)

    def classify(self, bits: bytes, *, top: int = 5) -> Classification:
        """Classify the photo; see ``Stream.classify``."""
        return self.open(bits).classify(top=top)

    def attributes(self, bits: bytes, *, all_attributes: bool = False) -> Attributes:
        """Tell the attributes of a face; see ``Stream.attributes``."""
        return self.open(bits).attributes(all_attributes=all_attributes)

    def reconstruct(self, bits: bytes) -> NDArray[np.uint8]:
        """Rebuild a picture (H, W, 3) RGB; see ``Stream.reconstruct``."""
        return self.open(bits).reconstruct()

    def analyze(
        self,
        streams: StreamItems,
        tasks: Sequence[str] = ("detect",),
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Iterator[AnalysisResult]:
        """Answer several tasks for many streams, in order; a bad stream yields its error.

        Batches run side by side; streams are read only as results are taken. See ``Analyzer``.

        Args:
            streams: bytes of streams, or (key, bytes) pairs.
            tasks: any of the card's tasks.
            batch_size: streams of one input size that the engine takes at once.
            options: ``confidence`` and ``top``, as for ``detect`` and ``classify``;
                ``ordered=False`` for results as they come; ``workers``, batches at once.
        """
        return analyze_streams(self, streams, tasks, batch_size, **options)

    def no_task_message(self, task: str) -> str:
        """Say that this model cannot answer a task, and what it can."""
        able = ", ".join(self.card.tasks) or f"give features of {', '.join(self.card.tails)}"
        return f"model {self.name!r} cannot {task}: it can {able}"

    def _checked_quality(self, quality: int | None) -> int:
        quality = self.card.default_quality if quality is None else quality
        if not isinstance(quality, (int, np.integer)) or not 1 <= quality <= self.card.qualities:
            raise CdvisionError(f"quality: expected 1 to {self.card.qualities}, found {quality!r}")
        return int(quality)


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    taps: Sequence[str | Path] = (),
    engine: str = "onnx",
    device: str = "cpu",
    threads: int | None = None,
    limits: StreamLimits | None = None,
) -> Model:
    """Load a model by its name or from a package folder.

    >>> import cdvision
    >>> cdvision.load("small").card.tasks
    ('detect', 'segment', 'classify')

    Args:
        name: an installed model, a folder with ``model.json``, or the folder of a tap, which is
            then loaded with its model.
        taps: folders of taps that ``cdvision fit`` wrote for this model.
        engine: ``"onnx"`` (default), ``"torch"`` or ``"tensorrt"``.
        device: ``"cpu"`` or ``"cuda"``.
        threads: threads inside one run of the engine; its default where None.
        limits: the largest streams that will be opened.

    Raises:
        ModelError: no such model, the package is damaged, or a tap belongs to another model.
        EngineError: the engine or device is not available here.
    """
    package = load_with_taps(name, taps)
    return Model(package, engine=engine, device=device, threads=threads, limits=limits)
