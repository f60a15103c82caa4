"""Photos in: reading any image, and fitting it into a network input."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import ImageError
from cdvision.image_files import check_pixels, open_image, reason_of, upright_rgb
from cdvision.package.card import InputSpec, WindowSpec

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image | NDArray[np.uint8]"
WINDOW_TOLERANCE = 1 / 28  # share of a window's side that it may be too large or small by
Size = tuple[int, int]


@dataclass(frozen=True)
class FittedPhoto:
    """A photo inside a network input."""

    # (H, W, 3) uint8 RGB; the photo at the top left, padding at right and bottom.
    pixels: NDArray[np.uint8]
    source_size: Size  # (width, height) of the photo as it came
    # (S, S, 3) uint8 RGB, its central square, where the model takes a second look.
    window: NDArray[np.uint8] | None = None


def read_photo(image: ImageLike, channels: str = "rgb") -> Image:
    """Return an RGB image, upright, from a path, the bytes of a file, a PIL image or an array.

    Transparency is dropped, 16-bit grey is scaled to 8 bits. ``channels`` is ``"bgr"`` where an
    array or a PIL image has blue first, as OpenCV's have.

    Raises:
        ImageError: it is no image, is damaged, is larger than 2^26 pixels, or its numbers have no
            known scale (float and 32-bit pixels).
        FileNotFoundError: the path does not exist.
    """
    _check_channels(channels, image)
    photo = _read(image)
    return photo if channels == "rgb" else _swapped(photo)


def _read(image: ImageLike) -> Image:
    from PIL import Image

    if isinstance(image, np.ndarray):
        return Image.fromarray(_checked_array(image))
    if not isinstance(image, (str, os.PathLike, bytes, Image.Image)):
        raise TypeError(
            "image: expected a path, the bytes of an image file, a PIL image or an (H, W, 3) "
            f"uint8 array, found {type(image).__name__}"
        )
    if not isinstance(image, (bytes, Image.Image)) and not os.fspath(image):
        raise ImageError("image: expected a path, found an empty text")
    try:
        if isinstance(image, Image.Image):
            return upright_rgb(image)
        with open_image(io.BytesIO(image) if isinstance(image, bytes) else Path(image)) as file:
            return upright_rgb(file)
    except (FileNotFoundError, ImageError):
        raise
    except Exception as error:  # Pillow's decoders raise a family without a common base
        name = "image bytes" if isinstance(image, bytes) else str(image)
        raise ImageError(f"{name}: not an image that can be read{reason_of(error)}") from error


def fit_photo(photo: Image, spec: InputSpec, size: int | None = None) -> FittedPhoto:
    """Fit a photo into a network input: scaled where it has to be, padded, aspect kept.

    ``size`` is the long side of the network input, a multiple of ``spec.multiple``; the photo's
    working size where None.
    """
    from PIL import Image

    size = working_size(photo.size, spec) if size is None else size
    if spec.fit == "square":
        from cdvision.face_crop import crop_face

        width, _ = network_input(photo.size, spec, size)
        return FittedPhoto(crop_face(photo, size=width), photo.size)
    width, height = network_input(photo.size, spec, size)
    content = content_size(photo.size, (width, height), spec.multiple)
    scaled = photo.resize(content, Image.Resampling.BILINEAR)  # copies where nothing changes
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: content[1], : content[0]] = np.asarray(scaled)
    pixels[content[1] :] = spec.padding
    pixels[: content[1], content[0] :] = spec.padding
    window = None if spec.window is None else central_window(scaled, spec.window)
    return FittedPhoto(pixels, photo.size, window)


def central_window(photo: Image, spec: WindowSpec) -> NDArray[np.uint8]:
    """Return the central square of a photo as (side, side, 3) uint8."""
    from PIL import Image

    side = spec.crop * min(photo.size)
    # Where it has about that many pixels, they are taken as they are: interpolating between them
    # blurs, and half a pixel of it costs a classifier 3 to 5 points of top-1.
    close = abs(side - spec.side) <= WINDOW_TOLERANCE * spec.side
    if close and spec.side <= min(photo.size):
        side = spec.side
    left, top = (int(max(0, extent - side) // 2) for extent in photo.size)
    box = (left, top, left + side, top + side)
    size = (spec.side, spec.side)
    return np.asarray(photo.resize(size, Image.Resampling.BILINEAR, box=box))


def working_size(source: Size, spec: InputSpec) -> int:
    """Return the long side of the network input that a photo of ``source`` gets by default."""
    # Shrunk to spec.size but not enlarged: made-up pixels cost bytes and tell nothing, and
    # resampling by a few percent alone costs a classifier 2 points of top-1. Only below
    # spec.least_size would there be too few cells for the networks to see a context.
    return min(spec.size, max(spec.least_size, _padded(max(source), spec.multiple)))


def network_input(source: Size, spec: InputSpec, size: int) -> Size:
    """Return (width, height) of the network input of a photo of ``source`` (width, height)."""
    check_size(size, spec)
    if spec.fit == "square":
        return size, size
    width, height = content_size(source, (size, size), spec.multiple)
    return _padded(width, spec.multiple), _padded(height, spec.multiple)


def check_size(size: int, spec: InputSpec) -> None:
    """Refuse a long side that the model does not take; raises ImageError."""
    whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    if not whole or size % spec.multiple or not spec.multiple <= size <= spec.max_size:
        raise ImageError(
            f"size: expected a multiple of {spec.multiple} up to {spec.max_size}, found {size!r}"
        )


def content_size(source: Size, network: Size, multiple: int = 32) -> Size:
    """Return (width, height) of the photo inside its network input; sender and receiver agree."""
    size = max(network)
    # A photo that only has to be padded to fit keeps its pixels as they are.
    if _padded(max(source), multiple) == size:
        return source
    width, height = (_scaled(side, size, max(source)) for side in source)
    return width, height


def _padded(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _scaled(side: int, numerator: int, denominator: int) -> int:
    # Rounds half up, in integers: in floats, padding and content could round apart.
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _check_channels(channels: str, image: object) -> None:
    if channels not in ("rgb", "bgr"):
        raise ImageError(f"channels: expected 'rgb' or 'bgr', found {channels!r}")
    if channels == "bgr" and isinstance(image, (str, os.PathLike, bytes)):
        raise ImageError("channels: files know their own colours; 'bgr' goes with an array")


def _swapped(photo: Image) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(np.asarray(photo)[..., ::-1]))


def _checked_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise ImageError(
            f"image: expected an (H, W, 3) uint8 array, found {array.dtype} of shape {array.shape}"
        )
    check_pixels(array.shape[1], array.shape[0])
    return array
