"""Image files of every kind as upright 8-bit RGB; formats that need another package say which."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cdvision.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 2**26
# Grey of 16 bits that stays below is 8 to 12 bits in a wider container: its white is not known.
LEAST_OF_16_BITS, MOST_OF_16_BITS = 4096, 65535
# Of the files that are taken for photos where a folder is searched.
PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif",
    ".ppm", ".pgm", ".pnm",
)  # fmt: skip


class Plugin(NamedTuple):
    """A package that teaches Pillow a format."""

    package: str  # that pip installs
    module: str
    register: str | None  # function to be called; importing is enough where None


_HEIF = Plugin("pillow-heif", "pillow_heif", "register_heif_opener")
PLUGINS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), _HEIF),
    ".jxl": Plugin("pillow-jxl-plugin", "pillow_jxl", None),
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")


@cache
def photo_suffixes() -> tuple[str, ...]:
    """Return the suffixes of photos that can be read here, with those of installed plugins."""
    learned = (suffix for suffix, plugin in PLUGINS.items() if find_spec(plugin.module))
    return (*PHOTO_SUFFIXES, *learned)


def open_image(source: Any, **how: Any) -> Image:
    """Open a path or a file with Pillow, whose errors pass; formats of ``PLUGINS`` are learned."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # How many pixels are too many is ours to say, before they are decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(source, **how)
        except UnidentifiedImageError:
            plugin = None if how else _plugin_of(_first_bytes(source))
            if plugin is None:
                raise
            return _open_with(plugin, source)


def _open_with(plugin: Plugin, source: Any) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        module = import_module(plugin.module)
    except ImportError as error:
        told = f"this format needs {plugin.package}: pip install {plugin.package}"
        raise OSError(told) from error
    if plugin.register is not None:
        getattr(module, plugin.register)()
    try:
        return Image.open(source)
    except UnidentifiedImageError as error:
        raise OSError(f"{plugin.package} reads this format, but not this file") from error


def _first_bytes(source: Any) -> bytes:
    if not hasattr(source, "seek"):
        with open(source, "rb") as file:
            return file.read(32)
    source.seek(0)
    first: bytes = source.read(32)
    source.seek(0)
    return first


def _plugin_of(first: bytes) -> Plugin | None:
    if first[4:8] == b"ftyp" and first[8:12] in _HEIF_BRANDS:
        return _HEIF
    return PLUGINS[".jxl"] if first.startswith(_JXL_STARTS) else None


def reason_of(error: Exception) -> str:
    """Return in brackets why a picture cannot be read, as far as Pillow says it."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # adds nothing but the address of a buffer
        return ""
    limit = f"expected at most {MAX_PIXELS} pixels: "
    return f" ({limit if isinstance(error, Image.DecompressionBombError) else ''}{error})"


def upright_rgb(image: Image) -> Image:
    """Return an image as 8-bit RGB, turned as its EXIF orientation says.

    Raises:
        ImageError: too many pixels, or numbers whose scale nobody knows.
    """
    check_pixels(*image.size)
    turn = _turn(image)
    return to_rgb(image if turn is None else image.transpose(turn))


def to_rgb(image: Image) -> Image:
    """Return an image as 8-bit RGB; raises ImageError for numbers whose scale nobody knows."""
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        image = _grey(image)
    image.load()  # while its file is open
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn(image: Image) -> Any:
    """Return what undoes the orientation of an image; None where it is upright or cannot be told.

    Only that one tag is read: a photo is not refused for what else stands beside it.
    """
    from PIL import ExifTags
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        found: Any = image.getexif().get(ExifTags.Base.Orientation)
        return turns.get(found[0] if isinstance(found, tuple) else found)
    except Exception:  # of EXIF that is damaged, a family without a common base
        return None


def _grey(image: Image) -> Image:
    """Scale 16-bit grey to 8 bits; refuse float and whatever has no known white."""
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    known = low >= 0 and (high == 0 or LEAST_OF_16_BITS <= high <= MOST_OF_16_BITS)
    if image.mode == "F" or not known:
        kind = "float" if image.mode == "F" else f"{8 * values.dtype.itemsize}-bit"
        raise ImageError(
            f"image: expected pixels of 8 bits, or grey of 16 bits up to {MOST_OF_16_BITS}, found "
            f"{kind} pixels from {low:g} to {high:g}: scale them to 0 ... 255, as uint8"
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def check_pixels(width: int, height: int) -> None:
    """Refuse more than ``MAX_PIXELS``; raises ImageError."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"image: expected at most {MAX_PIXELS} pixels, found {width} x {height}")
