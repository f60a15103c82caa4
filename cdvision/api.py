"""The façade: one call from a photo to a stream, one call from a stream to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cdvision.model import ModelLike, loaded_model
from cdvision.package.registry import DEFAULT_MODEL, folder_for_fingerprint
from cdvision.stream import read_stream
from cdvision.stream_answers import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cdvision.fitting.report import FitReport
    from cdvision.photo import ImageLike
    from cdvision.results import Attributes, Classification, Detections


def encode(
    image: ImageLike,
    quality: int | None = None,
    *,
    model: ModelLike = None,
    size: int | None = None,
    check: bool = True,
    tasks: str | Sequence[str] | None = None,
    sender: str | None = None,
    channels: str = "rgb",
) -> bytes:
    """Encode a photo into a stream of a few kilobytes.

    >>> import numpy as np, cdvision
    >>> bits = cdvision.encode(np.zeros((480, 640, 3), np.uint8), quality=2)
    >>> bits[:3]
    b'CDV'

    Args:
        image: path, bytes of an image file, PIL image or (H, W, 3) uint8 RGB array.
        quality: 1 (smallest) to 8; the model's default where None.
        model: a loaded model, a name or a folder; the default model where None.
        size: long side of the network input in pixels, a multiple of 32; where None, the photo's
            own up to the model's (416). Larger finds smaller objects and costs more bytes.
        check: refuse what the model is not made for, such as a cat for a model of faces.
        tasks: one or several; what only other tasks need is left out. All of the model's where
            None.
        sender: which of the model's senders encodes, its first where None; streams of all senders
            are read by the same receiver.
        channels: ``"bgr"`` for arrays and PIL images made by OpenCV, which cannot be told from
            RGB: a stream of swapped colours answers worse, and nothing says so.

    Raises:
        ImageError: the image cannot be read or is refused, or the model takes no such size.
        UnsupportedTask: the model cannot answer one of the tasks.
        CdvisionError: the quality is out of range, there is no task in ``tasks``, or the model has
            no such sender.
    """
    how: dict[str, Any] = {"check": check, "tasks": tasks, "sender": sender, "channels": channels}
    return loaded_model(model).encode(image, quality, size=size, **how)


def open(bits: bytes, *, model: ModelLike = None) -> Stream:
    """Open a stream to ask several questions; the work behind them is shared.

    The model that wrote it is found by the stream's fingerprint where ``model`` is None.

    Raises:
        BitstreamError: the bytes are no stream of an installed model.
    """
    if model is None:
        model = folder_for_fingerprint(read_stream(bits).header.fingerprint)
    return loaded_model(model).open(bits)


def detect(bits: bytes, *, model: ModelLike = None, **options: Any) -> Detections:
    """Detect objects from a stream, without rebuilding pixels; see ``Stream.detect``."""
    return open(bits, model=model).detect(**options)


def segment(bits: bytes, *, model: ModelLike = None, **options: Any) -> Detections:
    """Detect objects with masks from a stream; see ``Stream.segment``."""
    return open(bits, model=model).segment(**options)


def classify(bits: bytes, *, top: int = 5, model: ModelLike = None) -> Classification:
    """Classify a photo from its stream, without rebuilding pixels; see ``Stream.classify``."""
    return open(bits, model=model).classify(top=top)


def attributes(bits: bytes, *, all_attributes: bool = False, model: ModelLike = None) -> Attributes:
    """Tell the attributes of a face from its stream; see ``Stream.attributes``."""
    return open(bits, model=model).attributes(all_attributes=all_attributes)


def reconstruct(bits: bytes, *, model: ModelLike = None) -> NDArray[np.uint8]:
    """Rebuild a picture (H, W, 3) RGB, where a model can; see ``Stream.reconstruct``."""
    return open(bits, model=model).reconstruct()


def fit(
    network: Any,
    split: str | None = None,
    *,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    model: str | Path = DEFAULT_MODEL,
    weights: str | Path | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    range: float | None = None,
    order: str | None = None,
    **options: Any,
) -> FitReport:
    """Fit a tap, so that a model's streams feed a network of your own; needs the ``train`` extra.

    The encoder and every stream stay as they are. ``load(model, taps=[out])`` then answers
    ``stream.features(NAME)`` and ``stream.dense(NAME)``, NAME being the folder's.

    Args:
        network: a PyTorch module, a pair of modules (front, tail), or the text after ``cdvision fit
            --network``: ``"torchvision:resnet50"``, ``"timm:NAME"``, ``"FILE.py:FACTORY"``,
            ``"FILE.onnx"``.
        split: name of the module (or ONNX tensor) whose output the tap is to give.
        images: folders or tars of photos, without labels.
        out: folder of the tap; started again with the same arguments, a stopped run goes on.
        model: whose streams.
        weights: a file, or a name that torchvision or timm knows.
        mean: of the network's input; where None those known of it, else ImageNet's.
        std: as ``mean``.
        range: value of white in the network's input; 1 where None.
        order: ``"rgb"`` or ``"bgr"``.
        options: fields of ``FitOptions``: ``minutes``, ``size``, ``tune_tail``, ``device`` ...
    """
    from cdvision.fitting.fitting import fit_tap
    from cdvision.fitting.options import FitOptions
    from cdvision.fitting.sources import NetworkRequest

    request = NetworkRequest(network, split, weights, mean, std, range, order)
    sources = [images] if isinstance(images, (str, Path)) else images
    chosen = FitOptions(**options)
    return fit_tap(request, [Path(s) for s in sources], Path(out), model=model, options=chosen)
