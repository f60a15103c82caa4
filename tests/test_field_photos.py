"""Photos as people have them: float and 32-bit pictures, odd EXIF, blue first."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cdvision
from cdvision.errors import ImageError
from cdvision.photo import read_photo

PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg"


def grey() -> np.ndarray:
    return np.asarray(Image.open(PHOTO).convert("L"))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (grey() / np.float32(255), "float pixels from 0"),
        (grey().astype(np.float32), "float pixels from 2 to 194"),
        (np.full((8, 8), np.nan, np.float32), "float pixels from nan"),
        (grey().astype(np.int32), "32-bit pixels from 2 to 194"),
        (grey().astype(np.int32) * 2**16, "32-bit pixels from 131072 to 1.27"),
        (grey().astype(np.int32) - 300, "32-bit pixels from -298"),
        (grey().astype(np.uint16), "16-bit pixels from 2 to 194"),  # 8 bits in a wider container
        (grey().astype(np.uint16) * 16, "16-bit pixels from 32 to 3104"),  # 12 bits
    ],
)
def test_pixels_without_a_known_white_are_refused_and_never_black(
    values: np.ndarray, found: str, tmp_path: Path
) -> None:
    picture = Image.fromarray(values)
    picture.save(tmp_path / "p.tiff")
    for image in (picture, tmp_path / "p.tiff", (tmp_path / "p.tiff").read_bytes()):
        with pytest.raises(ImageError, match=found):
            cdvision.encode(image)
        with pytest.raises(ImageError, match="scale them to 0"):
            cdvision.crop_face(
                image if isinstance(image, Image.Image) else Image.open(tmp_path / "p.tiff")
            )


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_grey_of_16_bits_is_scaled(kind: type[np.generic]) -> None:
    wide = Image.fromarray(grey().astype(kind) * 257)
    assert (np.asarray(read_photo(wide))[..., 0] == grey()).all()
    black = Image.fromarray(np.zeros((4, 4), kind))
    assert not np.asarray(read_photo(black)).any()


def test_one_reader_encodes_and_draws(tmp_path: Path, model: cdvision.Model) -> None:
    path = tmp_path / "g.png"
    Image.fromarray(grey().astype(np.uint16) * 257).save(path)
    found = model.detect(model.encode(path, 4))
    drawn = np.asarray(found.draw(path))
    assert "cat" in found.class_name
    assert (drawn > 250).all(-1).mean() < 0.05
    with pytest.raises(ImageError, match="float"):
        found.draw(Image.fromarray(grey() / np.float32(255)))


def with_exif(tags: bytes) -> bytes:
    """Return the photo with these bytes as its EXIF."""
    data, block = PHOTO.read_bytes(), b"Exif\0\0" + tags
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return (tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little")
            + value.ljust(4, b"\0"))  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("odd", "size"),
    [
        (entry(0x0112, 3, 1, b"\6"), (300, 451)),
        (entry(0x0112, 3, 1, b"\6") + entry(0x010E, 2, 9999, b"\xff\xff\xff\x7f"), (300, 451)),
        (entry(0x0112, 3, 1, b"\6") + entry(0x8769, 4, 1, b"\xff\xff\xff\xff"), (300, 451)),
        (entry(0x0112, 3, 1, b"\6") + entry(0x927C, 99, 5, b"abcd"), (300, 451)),
        (entry(0x0112, 3, 1, b"\6") + entry(0x011A, 5, 1, b"\x10"), (300, 451)),
        (entry(0x0112, 2, 2, b"6"), (451, 300)),  # text where a number belongs
        (entry(0x0112, 3, 1, b"\x63"), (451, 300)),  # no orientation
        (entry(0x0112, 3, 2, b"\6\0\6\0"), (300, 451)),  # two of them
    ],
)
def test_an_odd_tag_refuses_no_photo(odd: bytes, size: tuple[int, int]) -> None:
    tags = b"II*\0\x08\0\0\0" + (len(odd) // 12).to_bytes(2, "little") + odd + bytes(4)
    assert read_photo(with_exif(tags)).size == size
    assert cdvision.inspect(cdvision.encode(with_exif(tags), 1)).width == size[0]


@pytest.mark.parametrize("block", [b"", b"II*\0", b"garbage!", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_exif_that_is_none_refuses_no_photo(block: bytes) -> None:
    assert read_photo(with_exif(block)).size == (451, 300)


def test_blue_first_is_said_and_not_guessed(model: cdvision.Model) -> None:
    rgb = np.asarray(Image.open(PHOTO).convert("RGB"))
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    expected = model.encode(rgb, 4)
    assert model.encode(bgr, 4, channels="bgr") == expected
    assert cdvision.encode(Image.fromarray(bgr), 4, channels="bgr") == expected
    assert cdvision.encode(bgr, 4) != expected
    found = model.detect(expected)
    assert (np.asarray(found.draw(bgr, channels="bgr")) == np.asarray(found.draw(rgb))).all()


ARRAY = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "channels"), [(PHOTO, "bgr"), (b"x", "bgr"), (PHOTO, "BGR"), (ARRAY, "gbr")]
)
def test_channels_that_make_no_sense_are_refused(image: Any, channels: str) -> None:
    with pytest.raises(ImageError, match="channels: "):
        cdvision.encode(image, channels=channels)


def test_suffixes_of_phones_and_scanners_are_photos() -> None:
    from cdvision.image_files import PHOTO_SUFFIXES

    assert {".jfif", ".jpe", ".ppm", ".pgm"} <= set(PHOTO_SUFFIXES)
    buffer = io.BytesIO()
    Image.open(PHOTO).convert("L").save(buffer, "PPM")
    assert read_photo(buffer.getvalue()).size == (451, 300)
