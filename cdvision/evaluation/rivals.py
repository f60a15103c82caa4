"""Picture codecs behind one small interface: a photo is coded, decoded, and shown to a network."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from cdvision.errors import CdvisionError, ImageError
from cdvision.evaluation.vvc import VvcRival
from cdvision.photo import content_size, read_photo

if TYPE_CHECKING:
    from PIL.Image import Image

PROBE_SIDE = 32  # pixels: a picture that every codec takes, coded to see whether it works here


class Rival(Protocol):
    """A picture codec: ``decode(encode(picture, quality))`` is a picture of the same size."""

    @property
    def name(self) -> str:
        """Short name, as the command line takes it."""

    @property
    def title(self) -> str:
        """Name for people."""

    @property
    def qualities(self) -> tuple[int, ...]:
        """Values of the codec's own rate setting, smallest files first."""

    def encode(self, picture: Image, quality: int) -> bytes:
        """Return every byte that a receiver needs; raises CdvisionError where it cannot."""

    def decode(self, coded: bytes) -> Image:
        """Return the RGB picture."""

    def payload_bytes(self, coded: bytes) -> int:
        """Return how many of the bytes a file without a container would need."""

    def describe(self) -> str:
        """Return the versions and settings that decide the bytes."""


@dataclass(frozen=True)
class PillowRival:
    """A picture codec of Pillow, or of a plug-in."""

    name: str
    title: str  # for people
    format: str  # Pillow's name of it
    qualities: tuple[int, ...]  # values of its quality setting, smallest files first
    versions: Callable[[], str]  # what made the bytes
    # Further settings, for small files in about a second at most.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # (module, distribution) that registers the format, where Pillow alone has none, and the
    # function of the module that must be called; importing it is enough where None.
    plugin: tuple[str, str] | None = None
    register: str | None = None
    boxed: bool = False  # ISO base media files, whose boxes take hundreds of bytes

    def encode(self, picture: Image, quality: int) -> bytes:
        """Compress an RGB picture into a file of the format, header included, pixels alone."""
        self._load_plugin()
        buffer, picture = io.BytesIO(), picture.copy()
        picture.info = {}  # EXIF, colour profile and comments would be sent too: kilobytes of them
        try:
            picture.save(buffer, self.format, quality=quality, **self.settings)
        except (OSError, KeyError, RuntimeError) as error:
            raise CdvisionError(f"this Pillow cannot write {self.format} ({error})") from error
        return buffer.getvalue()

    def decode(self, coded: bytes) -> Image:
        """Return the RGB picture of a file."""
        self._load_plugin()
        return read_photo(coded)

    def payload_bytes(self, coded: bytes) -> int:
        """Return the bytes of the media data box of a boxed file, of the whole file elsewhere."""
        return _media_data_bytes(coded) if self.boxed else len(coded)

    def describe(self) -> str:
        """Return the versions and settings that decide the bytes."""
        self._load_plugin()
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return ", ".join([self.versions(), *settings])

    def _load_plugin(self) -> None:
        if self.plugin is None:
            return
        module, distribution = self.plugin
        try:
            plugin = import_module(module)
        except ImportError as error:
            raise CdvisionError(
                f"{self.name} needs {distribution}: pip install 'cdvision[eval]'"
            ) from error
        if self.register is not None:
            getattr(plugin, self.register)()


def missing(rival: Rival) -> str | None:
    """Return why a rival cannot be measured on this machine, or None where it can.

    >>> missing(RIVALS["jpeg"]) is None
    True
    """
    from PIL import Image

    picture = Image.new("RGB", (PROBE_SIDE, PROBE_SIDE), (90, 120, 60))
    try:
        rival.decode(rival.encode(picture, rival.qualities[0]))
    except (CdvisionError, ImageError) as error:
        return str(error)
    return None


def shrink(photo: Image, long_side: int) -> Image:
    """Scale to a long side of at most ``long_side``, as the pixel path does; never enlarge.

    A rival need not send pixels that no network sees: at the network's own size the pixel path
    then leaves the picture as it is.
    """
    from PIL import Image as pillow

    side = min(long_side, max(photo.size))
    size = content_size(photo.size, (side, side), multiple=1)
    return photo if size == photo.size else photo.resize(size, pillow.Resampling.BILINEAR)


def _media_data_bytes(file: bytes) -> int:
    """Walk the top boxes of an ISO base media file (ISO/IEC 14496-12, 4.2) up to ``mdat``."""
    # A box begins with its size, these 8 bytes included, and four letters for its kind.
    offset, head = 0, struct.Struct(">I4s")
    while offset + head.size <= len(file):
        size, kind = head.unpack_from(file, offset)
        size = size or len(file) - offset  # 0: up to the end
        if kind == b"mdat":
            return int(size) - head.size
        if size < head.size:  # 1 announces a box above 4 GiB
            break
        offset += size
    raise CdvisionError(f"expected a file with a media data box, found none in {len(file)} bytes")


def _pillow_versions(feature: str) -> Callable[[], str]:
    def versions() -> str:
        from PIL import features

        return f"{feature} {features.version(feature)} (Pillow {version('pillow')})"

    return versions


def _heif_versions() -> str:
    info = import_module("pillow_heif").libheif_info()
    return f"{info['HEIF']} (pillow-heif {version('pillow-heif')})"


# One thread a picture: the same bytes on every machine, and the cores go to several pictures.
# x265's tune=psnr was tried: the same curve. JPEG XL's effort 8 takes five times as long and gives
# less PSNR at equal bytes; AVIF's speed 0 takes seven times as long for 2 to 7 % fewer bytes.
_ALL: tuple[Rival, ...] = (
    PillowRival(
        "jpeg",
        "JPEG",
        "JPEG",
        (3, 6, 12, 25, 45, 65, 85),
        _pillow_versions("libjpeg_turbo"),
        {"optimize": True, "progressive": True},
    ),
    PillowRival(
        "webp", "WebP", "WEBP", (0, 2, 8, 20, 40, 60, 80), _pillow_versions("webp"), {"method": 6}
    ),
    PillowRival(
        "avif",
        "AVIF",
        "AVIF",
        (0, 10, 20, 30, 40, 50, 60, 75),
        _pillow_versions("avif"),
        {"speed": 4, "max_threads": 1},
        boxed=True,
    ),
    PillowRival(
        "jxl",
        "JPEG XL",
        "JXL",
        (0, 10, 20, 35, 55, 75, 88),
        lambda: f"pillow-jxl-plugin {version('pillow-jxl-plugin')}",
        {"effort": 7, "num_threads": 1, "lossless_jpeg": False},
        plugin=("pillow_jxl", "pillow-jxl-plugin"),
    ),
    PillowRival(
        "hevc",
        "HEVC intra",
        "HEIF",
        (1, 5, 10, 15, 20, 30, 40, 50),
        _heif_versions,
        {"enc_params": {"preset": "slow", "x265:pools": "none"}},
        plugin=("pillow_heif", "pillow-heif"),
        register="register_heif_opener",
        boxed=True,
    ),
    VvcRival(),
)

# All 4:2:0 but JPEG XL, files with their headers; x265 intra stands in for BPG.
RIVALS: Mapping[str, Rival] = MappingProxyType({rival.name: rival for rival in _ALL})
