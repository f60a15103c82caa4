"""Picture codecs behind one small interface: a photo is coded, decoded, and shown to a network."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Rival:
    """A picture codec of Pillow (or of a plug-in), and the qualities that it is measured at.

    Attributes:
        format: Pillow's name of the format.
        qualities: values of its quality setting, smallest files first.
        settings: further settings, chosen for the smallest files at equal quality.
        plugin: module that registers the format, where Pillow alone has none.
    """

    format: str
    qualities: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    plugin: str | None = None

    def encode(self, image: Image, quality: int) -> bytes:
        """Compress an RGB image."""
        buffer = io.BytesIO()
        try:
            image.save(buffer, self.format, quality=quality, **self.settings)
        except (OSError, KeyError) as error:
            raise CdvisionError(f"this Pillow cannot write {self.format} ({error})") from error
        return buffer.getvalue()

    def register(self) -> None:
        """Load the plug-in, where the format needs one."""
        if self.plugin == "pillow_heif":
            try:
                import pillow_heif
            except ImportError as error:
                raise CdvisionError(
                    "HEVC needs pillow-heif: pip install 'cdvision[eval]'"
                ) from error
            pillow_heif.register_heif_opener()


RIVALS: Mapping[str, Rival] = MappingProxyType(
    {
        "jpeg": Rival("JPEG", (5, 12, 25, 50, 75), {"optimize": True, "progressive": True}),
        "webp": Rival("WEBP", (1, 10, 30, 60), {"method": 6}),
        "avif": Rival("AVIF", (10, 20, 30, 40, 55, 70), {"speed": 4}),
        "hevc": Rival("HEIF", (10, 20, 30, 40, 55, 70), {}, plugin="pillow_heif"),
    }
)
"""x265 intra through pillow-heif stands in for BPG; all chroma 4:2:0, files with their headers."""


def shrink(image: Image, size: int) -> Image:
    """Scale to a long side of ``size``: a rival need not send pixels that no network sees."""
    from PIL import Image as pillow

    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), pillow.Resampling.BILINEAR)
