"""A loaded model: encodes photos into streams, and opens streams to answer from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.analysis import BATCH_SIZE, AnalysisResult, Analyzer, StreamItems
from cdvision.checked_numbers import checked_count
from cdvision.engines import Engine, create_engine
from cdvision.entropy.coder import Latents
from cdvision.errors import BitstreamError, CdvisionError, ImageError, ModelError, UnsupportedTask
from cdvision.package.card import SenderGraph, SenderSpec
from cdvision.package.graph_names import QUALITY
from cdvision.package.loader import ModelPackage
from cdvision.package.registry import DEFAULT_MODEL, portable_name
from cdvision.package.tap import load_with_taps
from cdvision.photo import FittedPhoto, ImageLike, check_size, fit_photo, read_photo
from cdvision.stream import Layer, StreamLimits, read_stream, write_stream
from cdvision.stream_answers import Stream
from cdvision.texts import several

if TYPE_CHECKING:
    from cdvision.results import Attributes, Classification, Detections

# ONNX Runtime takes minutes to start a thousand.
MOST_THREADS = 256


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
        self._options = {"engine": engine, "device": device, "threads": threads, "limits": limits}
        self.engine = create_engine(engine, package, device=device, threads=threads)
        self.limits = limits if limits is not None else StreamLimits()

    def __reduce__(self) -> tuple[Any, ...]:
        # Engines hold threads and memory of this process: elsewhere the model is loaded again.
        folder, taps = self.package.folder, dict.fromkeys(self.package.attached.values())
        options = {**self._options, "taps": tuple(taps)}
        return _loaded_again, (portable_name(folder), self.card.fingerprint, options)

    def with_engine(self, engine: Engine) -> Model:
        """Return this model on another engine; nothing is loaded again."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, "engine": engine}
        return other

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
        tasks: str | Sequence[str] | None = None,
        sender: str | None = None,
        channels: str = "rgb",
    ) -> bytes:
        """Encode a photo into a stream; see ``cdvision.encode`` for arguments and errors."""
        self.check_encoding(quality, size=size, tasks=tasks, sender=sender)
        quality, layers = self.checked_quality(quality), self._layers_for(tasks)
        spec = self._sender(sender)
        fitted = fit_photo(read_photo(image, channels), self.card.input, size)
        latents = self._run_sender(spec, fitted, quality, layers, check=check)
        coder, (height, width) = self.package.coder, fitted.pixels.shape[:2]
        bodies = coder.encode(latents, quality - 1)
        return write_stream(
            codec=self.card.codec,
            fingerprint=coder.fingerprint[:4],
            width=fitted.source_size[0],
            height=fitted.source_size[1],
            input_width=width,
            input_height=height,
            quality=quality,
            layers=[Layer(number, body) for number, body in bodies.items()],
            compact=coder.compact,
        )

    def check_encoding(
        self,
        quality: int | None = None,
        *,
        size: int | None = None,
        tasks: str | Sequence[str] | None = None,
        sender: str | None = None,
    ) -> None:
        """Refuse what ``encode`` would refuse whatever the photo is; raises CdvisionError."""
        self.checked_quality(quality)
        if size is not None:
            check_size(size, self.card.input)
        self._layers_for(tasks)
        self._sender(sender)

    def checked_quality(self, quality: int | None) -> int:
        """Return a quality, the model's own where None; raises CdvisionError out of range."""
        given = self.card.default_quality if quality is None else quality
        return checked_count("quality", given, high=self.card.qualities)

    def encode_latents(
        self, photo: FittedPhoto, quality: int, *, sender: str | None = None
    ) -> Latents:
        """Run a sender on a fitted photo; return the latents that a receiver will decode."""
        spec, layers = self._sender(sender), self._layers_for(None)
        latents = self._run_sender(spec, photo, quality, layers, check=False)
        return self.package.coder.received(latents, quality - 1)

    def picture_for(self, graph: SenderGraph, photo: FittedPhoto) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) uint8 that a graph of a sender reads."""
        if graph.picture == "image":
            return photo.pixels
        if photo.window is None:
            raise ModelError(f"model {self.name!r}: a sender needs input.window in the card")
        return photo.window

    def _layers_for(self, tasks: str | Sequence[str] | None) -> set[int]:
        """Return ids of the layers that a sender has to write for tasks; all where None."""
        if tasks is None:
            return {spec.layer for spec in self.card.latents.values()}
        if not tasks:
            raise CdvisionError("tasks: expected at least one, found none")
        tails = [self.card.tails[self.tail_for(task)] for task in several(tasks)]
        wanted = {layer for tail in tails for layer in tail.layers}
        return set(self.package.coder.layers_in_order(wanted))

    def _sender(self, name: str | None) -> SenderSpec:
        senders = self.card.senders
        if name is not None and name not in senders:
            raise CdvisionError(f"sender: expected one of {', '.join(senders)}, found {name!r}")
        return senders[name] if name is not None else next(iter(senders.values()))

    def tail_for(self, task: str) -> str:
        """Return the name of the tail for a task; raises UnsupportedTask."""
        tail = self.card.tail_for(task)
        if tail is None:
            raise UnsupportedTask(self.no_task_message(task))
        return tail

    def _run_sender(
        self, sender: SenderSpec, photo: FittedPhoto, quality: int, layers: set[int], *, check: bool
    ) -> Latents:
        """Return the latents of some layers, as the sender's graphs give them."""
        level = np.array([quality - 1], np.int64)
        outputs: dict[str, NDArray[Any]] = {}
        for name, graph in sender.graphs.items():
            if not layers.isdisjoint(graph.layers):
                picture = {graph.picture: self.picture_for(graph, photo)[None]}
                outputs |= self.engine.run(name, {**picture, QUALITY: level})
        least = self.card.input.least_score
        if check and least is not None and (score := float(outputs["score"][0])) < least:
            raise ImageError(
                f"model {self.name!r} codes faces, and this picture does not look like one: "
                f"expected a score of {least:.2f} or more, found {score:.2f}; cut the face out "
                "first (cdvision.crop_face), or encode it all the same (check=False)"
            )
        return {name: outputs[name][0] for name in self.card.latents_of(layers) if name in outputs}

    def open(self, bits: bytes | bytearray | memoryview) -> Stream:
        """Parse a stream for answering; entropy decoding waits until it is needed.

        Raises:
            BitstreamError: the bytes are damaged, or another model wrote them.
        """
        parsed = read_stream(bits, limits=self.limits)
        header, fingerprint = parsed.header, self.package.coder.fingerprint[:4]
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
        tasks: str | Sequence[str] = ("detect",),
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Iterator[AnalysisResult]:
        """Answer several tasks for many streams, in order; a bad stream yields its error.

        Batches of streams of one input size run side by side; streams, bytes or (key, bytes) pairs,
        are read only as results are taken. Options are ``confidence`` and ``top``, as for
        ``detect`` and ``classify``; ``ordered=False`` for results as they come; ``workers``,
        batches at once.
        """
        return Analyzer(self, tasks, batch_size=batch_size, **options)(streams)

    def no_task_message(self, task: str) -> str:
        """Say that this model cannot answer a task, and what it can."""
        able = ", ".join(self.card.tasks) or f"give features of {', '.join(self.card.tails)}"
        return f"model {self.name!r} cannot {task}: it can {able}"


def load(
    name: str | Path = DEFAULT_MODEL,
    *,
    taps: str | Path | Sequence[str | Path] = (),
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
        taps: folders, one or several, of taps that ``cdvision fit`` wrote for this model.
        engine: ``"onnx"`` (default), ``"torch"`` or ``"tensorrt"``.
        device: ``"cpu"`` or ``"cuda"``.
        threads: threads inside one run of the engine; its default where None.
        limits: the largest streams that will be opened.

    Raises:
        ModelError: no such model, the package is damaged, or a tap belongs to another model.
        EngineError: the engine or device is not available here.
        CdvisionError: a number of threads below 1 or above 256.
    """
    if threads is not None:
        checked_count("threads", threads, high=MOST_THREADS)
    package = load_with_taps(name, several(taps))
    return Model(package, engine=engine, device=device, threads=threads, limits=limits)


def loaded_model(model: ModelLike) -> Model:
    """Return a model, loaded once for each name or folder; the default one where None."""
    return model if isinstance(model, Model) else _loaded(DEFAULT_MODEL if model is None else model)


@cache
def _loaded(name: str | Path) -> Model:
    return load(name)


ModelLike = Model | str | Path | None


def _loaded_again(name: str, fingerprint: str, options: dict[str, Any]) -> Model:
    """Load a pickled model; raises ModelError where the name is another model's here."""
    model = load(name, **options)
    if model.card.fingerprint != fingerprint:
        found = model.card.fingerprint
        raise ModelError(f"model {name!r}: expected fingerprint {fingerprint:.8}, found {found:.8}")
    return model
