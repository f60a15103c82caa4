"""Photos from strangers: which formats are read, and what picture codecs need for the same one."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import Any

from cdvision.errors import ImageError
from cdvision.evaluation.rivals import RIVALS, missing, shrink
from cdvision.model import Model
from cdvision.photo import read_photo

# What cameras and browsers write. Pillow knows forty more, one of which starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "MPO")
# The default of each codec's own tool: libjpeg, cwebp, libheif. A person sees no damage there.
USUAL_QUALITIES = {"hevc": 50, "webp": 75, "jpeg": 75}


def check_format(photo: bytes) -> None:
    """Raise ImageError unless the bytes begin like a file of one of ``FORMATS``."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # How many pixels are too many is the model's to say, when it reads the photo.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(io.BytesIO(photo), formats=FORMATS).close()
    except Exception as error:  # Pillow's readers raise a family without a common base
        known = ", ".join(FORMATS)
        raise ImageError(f"photo: expected an image file ({known}), found none") from error


def picture_codec_sizes(photo: bytes, model: Model) -> dict[str, Any]:
    """Return the bytes of the same picture, as many pixels as the stream's, in picture codecs.

    A codec that is not installed is left out. Qualities are each tool's default
    (``USUAL_QUALITIES``), not matched to each other: it is what people send.
    """
    check_format(photo)
    picture = shrink(read_photo(photo), model.card.input.size)
    codecs = []
    for name, quality in USUAL_QUALITIES.items():
        if _installed(name):
            size = len(RIVALS[name].encode(picture, quality))
            title = RIVALS[name].title
            codecs.append({"name": name, "title": title, "quality": quality, "bytes": size})
    return {"width": picture.width, "height": picture.height, "codecs": codecs}


@cache
def _installed(name: str) -> bool:
    return missing(RIVALS[name]) is None
