"""The model card, ``model.json``: the contract between a package and the runtime."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CARD_FILE = "model.json"
CARD_FORMAT = 2
FITS = ("pad", "square")
PICTURES = ("image", "window")
Size = tuple[int, int]


@dataclass(frozen=True)
class LatentSpec:
    """One of the named arrays of integers in a stream: its layer, its shape and its range."""

    layer: int  # id
    channels: int  # length of the first axis
    # Of a map, whose other axes are those of the network input over this, rounded up; None where
    # the shape does not depend on the image.
    stride: int | None = None
    sides: tuple[int, ...] = ()  # the other axes where they are fixed
    low: int = 0  # least integer
    high: int = 0  # greatest integer

    def shape(self, size: Size) -> tuple[int, ...]:
        """Return the array's shape for a network input of (width, height) pixels."""
        if self.stride is None:
            return (self.channels, *self.sides)
        width, height = size
        return self.channels, -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True)
class FeatureSpec:
    """Features at a tail's split point: real values (channels, H / stride, W / stride).

    ``cells`` is set where the map is cells x cells, whatever the image's size.
    """

    channels: int
    stride: int
    cells: int | None = None


@dataclass(frozen=True)
class TailSpec:
    """One task network: its features, its tasks, and the names of its classes."""

    tasks: tuple[str, ...]  # names of tasks that it answers
    features: FeatureSpec  # at its split point
    classes: str  # name of its list of classes
    description: str = ""  # for readers
    # How dense outputs become answers, a name among ``cdvision.heads.registry``.
    head: str = "distribution"
    # What that kind of head has to know, as JSON values.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Ids of the layers that it is answered from, in the order of the stream.
    layers: tuple[int, ...] = (0,)
    least_layers: int = 1  # how many of them have to be there; the others make the answer better


@dataclass(frozen=True)
class SenderGraph:
    """One dense graph of a sender, from a picture to the latents of some layers.

    ``picture`` is ``image``, the network input, or ``window``, the central square.
    ``multiply_adds`` are of a square network input of the card's size; 0 where not counted.
    """

    layers: tuple[int, ...]
    picture: str = "image"
    multiply_adds: int = 0


@dataclass(frozen=True)
class SenderSpec:
    """One way to encode: other senders of a model write streams for the same receiver.

    ``milliseconds`` on the machine ``measured_on`` go from pixels to the whole stream, at the
    card's size; None where not measured.
    """

    graphs: Mapping[str, SenderGraph]
    milliseconds: float | None = None
    measured_on: str = ""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all its graphs."""
        return sum(graph.multiply_adds for graph in self.graphs.values())


@dataclass(frozen=True)
class WindowSpec:
    """The central square of a photo, which the encoder of a descriptor looks at.

    It takes ``crop`` of the photo's short side and is resampled to ``side`` pixels.
    """

    side: int
    crop: float


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes a network input."""

    size: int  # long side of the network input where the photo is at least as large, pixels
    multiple: int  # both sides are padded to a multiple of this
    max_size: int  # longest side that a stream may ask for; bounds a receiver's memory
    padding: tuple[int, int, int]  # RGB colour of the padding
    least_size: int = 224  # smaller photos are enlarged to this long side; those between are not
    # ``pad`` keeps the whole photo and its aspect, ``square`` takes its central square.
    fit: str = "pad"
    # Photos whose ``score``, an output of the encoder's graph, is lower are not what the model is
    # for; None where it takes any.
    least_score: float | None = None
    window: WindowSpec | None = None  # the sender's second look at the photo, where it has one


@dataclass(frozen=True)
class SequenceSpec:
    """How a model sends videos: its delta packets change the map of one layer.

    ``graph`` goes from a picture and what the receiver has to the receiver's next symbols;
    ``fingerprint`` covers the entropy tables of keys and deltas.
    """

    graph: str
    layer: int  # id of the map's
    fingerprint: str
    counted_on: str = ""  # what the tables of deltas were counted on


# How models of photos take theirs.
PHOTO_INPUT = InputSpec(size=416, multiple=32, max_size=1536, padding=(124, 116, 104))


@dataclass(frozen=True)
class ModelCard:
    """Everything that a runtime has to know of a model, and everything that a reader asks.

    Latents have the same names in the coder, in the graphs and here. The first of the senders is
    the default.
    """

    name: str
    description: str
    network: str
    codec: int
    fingerprint: str
    qualities: int
    default_quality: int
    latents: Mapping[str, LatentSpec]
    input: InputSpec
    senders: Mapping[str, SenderSpec]
    tails: Mapping[str, TailSpec]
    licence: str
    provenance: tuple[Mapping[str, str], ...]
    training: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = CARD_FORMAT
    sequence: SequenceSpec | None = None  # None: it sends photos alone

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the model answers, in the order of its tails."""
        return tuple(dict.fromkeys(task for tail in self.tails.values() for task in tail.tasks))

    @property
    def sender_graphs(self) -> set[str]:
        """Names of the graphs that senders run; all others are a receiver's."""
        graphs = {name for sender in self.senders.values() for name in sender.graphs}
        return graphs if self.sequence is None else graphs | {self.sequence.graph}

    def latent_shapes(self, size: Size) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of the latents for a network input of (width, height)."""
        return {name: spec.shape(size) for name, spec in self.latents.items()}

    def latents_of(self, layers: Iterable[int]) -> list[str]:
        """Return the names of the latents in some layers."""
        wanted = set(layers)
        return [name for name, spec in self.latents.items() if spec.layer in wanted]

    def tail_for(self, task: str) -> str | None:
        """Return the name of the tail that answers a task, or None."""
        return next((name for name, tail in self.tails.items() if task in tail.tasks), None)

    def graph_for(self, task: str, tail: str) -> str:
        """Return the graph that answers a task: its own where there is one, else the tail's.

        A task's own graph, such as ``segment.TAIL``, gives everything that ``answer.TAIL`` gives.
        """
        own = f"{task}.{tail}"
        return own if f"{own}.onnx" in self.files else f"answer.{tail}"

    def graphs_for(self, tasks: Iterable[str]) -> dict[str, str]:
        """Return the graph that each tail has to run for tasks: name of the graph by tail."""
        graphs: dict[str, str] = {}
        for task in tasks:
            tail = self.tail_for(task)
            if tail is None:
                continue
            graph = self.graph_for(task, tail)
            # A task's own graph takes the place of the tail's, which gives less.
            if tail not in graphs or not graph.startswith("answer."):
                graphs[tail] = graph
        return graphs

    def to_json(self) -> str:
        """Serialise for ``model.json``."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
