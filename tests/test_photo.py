"""Photos in: every kind of input, every mode of picture, limits, and fitting."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cdvision.errors import ImageError
from cdvision.package.card import InputSpec, WindowSpec
from cdvision.photo import content_size, fit_photo, network_input, read_photo, working_size

SPEC = InputSpec(size=416, multiple=32, max_size=1536, padding=(124, 116, 104))
# Colours that survive every mode here; 3 wide and 2 high, no two pixels alike.
PIXELS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [255, 255, 255]]],
    np.uint8,
)


def file_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(image: Any) -> np.ndarray:
    photo = read_photo(image)
    assert photo.mode == "RGB"
    return np.asarray(photo)


def test_every_kind_of_input_gives_the_same_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    path = tmp_path / "photo.png"
    path.write_bytes(file_bytes(image))
    for given_image in (path, str(path), path.read_bytes(), image, PIXELS):
        assert (pixels_of(given_image) == PIXELS).all()
    assert (pixels_of(PIXELS[::-1, ::-1]) == PIXELS[::-1, ::-1]).all()


# Value of the EXIF tag: how the stored picture is made from the upright one.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PIXELS)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_bytes(stored, exif=exif)
    for image in (data, Image.open(io.BytesIO(data))):
        assert (pixels_of(image) == PIXELS).all()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_malformed_exif_gives_pixels() -> None:
    """Pillow writes EXIF again when it turns a picture, and stumbles: no photo is lost by that."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hi"
    seed = file_bytes(Image.fromarray(PIXELS), "JPEG", exif=exif)
    start = seed.index(b"Exif")
    for place in range(start + 4, start + 44):
        for value in range(0, 256, 3):
            photo = read_photo(seed[:place] + bytes([value]) + seed[place + 1 :])
            assert photo.size in ((2, 3), (3, 2))


def test_grey_palette_alpha_and_cmyk_pictures() -> None:
    grey = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50)
    assert (pixels_of(file_bytes(grey))[..., 0] == np.asarray(grey)).all()
    rgb = Image.fromarray(PIXELS)
    alpha = Image.fromarray(np.dstack([PIXELS, np.full((2, 3), 128, np.uint8)]))
    for image in (rgb.convert("P", palette=Image.Palette.ADAPTIVE), rgb.quantize(6), alpha):
        assert (pixels_of(image) == PIXELS).all()
        assert (pixels_of(file_bytes(image)) == PIXELS).all()
    assert (pixels_of(file_bytes(rgb.convert("CMYK"), "TIFF")) == PIXELS).all()
    black_and_white = Image.fromarray(np.array([[0, 255, 0], [255, 0, 255]], np.uint8)).convert("1")
    assert set(np.unique(pixels_of(file_bytes(black_and_white)))) == {0, 255}


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.int32)])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str, dtype: type[np.generic]) -> None:
    values = np.array([[0, 255, 256, 32768], [12800, 25700, 65279, 65535]], dtype)
    data = file_bytes(Image.fromarray(values), kind)
    expected = np.array([[0, 0, 1, 128], [50, 100, 254, 255]])
    assert (pixels_of(data) == expected[..., None]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5000, 3), (3, 5000), (2, 2000)])
def test_extreme_shapes_are_fitted(size: tuple[int, int]) -> None:
    fitted = fit_photo(Image.new("RGB", size, (9, 200, 30)), SPEC, 416)
    assert fitted.source_size == size
    height, width = fitted.pixels.shape[:2]
    assert (width, height) == network_input(size, SPEC, 416)
    across, down = content_size(size, (width, height))
    assert (fitted.pixels[:down, :across] == (9, 200, 30)).all()
    assert (fitted.pixels[down:] == SPEC.padding).all()
    assert (fitted.pixels[:, across:] == SPEC.padding).all()


def test_the_photo_keeps_its_aspect_at_the_top_left() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 451, 3), np.uint8))
    fitted = fit_photo(photo, SPEC, 416)
    assert fitted.pixels.shape == (288, 416, 3)
    assert content_size(photo.size, (416, 288)) == (416, 277)
    scaled = np.asarray(photo.resize((416, 277), Image.Resampling.BILINEAR))
    assert (fitted.pixels[:277] == scaled).all()
    assert (fitted.pixels[277:] == SPEC.padding).all()


def test_a_photo_of_the_size_of_the_input_is_left_alone() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (96, 64, 3), np.uint8)
    assert (fit_photo(Image.fromarray(pixels), SPEC, 96).pixels == pixels).all()


SIDE = st.one_of(st.integers(1, 70), st.integers(1, 20_000))


@given(width=SIDE, height=SIDE, units=st.integers(1, 48))
@example(width=960, height=465, units=31)  # 480.5 rows: rounded apart, they would not fit
@example(width=1280, height=175, units=44)
@settings(max_examples=500)
def test_content_and_network_input_agree(width: int, height: int, units: int) -> None:
    size, source = units * 32, (width, height)
    network = network_input(source, SPEC, size)
    content = content_size(source, network)
    assert max(network) == size
    factor = 1 if -(-max(source) // 32) * 32 == size else size / max(source)
    assert max(content) == round(max(source) * factor)
    for inside, around, side in zip(content, network, source, strict=True):
        assert around % 32 == 0
        assert 1 <= inside <= around < inside + 32
        assert inside == 1 or abs(inside - side * factor) <= 0.5
    assert network_input(source[::-1], SPEC, size) == network[::-1]
    assert content_size(source[::-1], network[::-1]) == content[::-1]


@pytest.mark.parametrize("size", [0, -32, 16, 33, 1568])
def test_a_size_that_the_model_does_not_take(size: int) -> None:
    message = f"size: expected a multiple of 32 up to 1536, found {size}"
    with pytest.raises(ImageError, match=message):
        network_input((640, 480), SPEC, size)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_is_no_photo(array: Any) -> None:
    with pytest.raises(ImageError, match=r"expected an \(H, W, 3\) uint8 array, found"):
        read_photo(array)


@pytest.mark.parametrize("thing", [None, 3, [1, 2], {"a": 1}, bytearray(b"x")])
def test_what_is_no_image_at_all_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"found {type(thing).__name__}"):
        read_photo(thing)


def test_more_than_2_to_26_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    vast = np.broadcast_to(np.zeros(3, np.uint8), (8193, 8192, 3))
    with pytest.raises(ImageError, match="at most 67108864 pixels, found 8192 x 8193"):
        read_photo(vast)
    header = Image.new("1", (30_000, 2_500))
    with pytest.raises(ImageError, match="found 30000 x 2500"):
        read_photo(file_bytes(header))
    with pytest.raises(ImageError, match="found 30000 x 2500"):
        read_photo(header)
    bomb = tmp_path / "bomb.png"  # beyond what Pillow itself opens
    bomb.write_bytes(file_bytes(Image.new("1", (60_000, 8_000))))
    with pytest.raises(ImageError, match=r"bomb\.png: not an image that can be read"):
        read_photo(bomb)


def test_not_an_image(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("no picture")
    with pytest.raises(ImageError, match=r"notes\.jpg: not an image that can be read"):
        read_photo(text)
    for data in (b"", b"CDV\x01", b"\xff\xd8\xff"):
        with pytest.raises(ImageError, match="image bytes: not an image that can be read"):
            read_photo(data)
    with pytest.raises(ImageError, match="not an image"):
        read_photo(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "missing.jpg")


def test_a_truncated_jpeg_is_an_image_error(photos: list[Path], tmp_path: Path) -> None:
    data = photos[0].read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    for image in (data[:3000], tmp_path / "cut.jpg", Image.open(io.BytesIO(data[:30_000]))):
        with pytest.raises(ImageError, match="not an image that can be read"):
            read_photo(image)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "DDS"])
def test_a_spoiled_file_gives_pixels_or_an_image_error(kind: str) -> None:
    rng, exif = random.Random(kind), Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (12, 16, 3), np.uint8))
    seed = file_bytes(image, kind, **({"exif": exif} if kind in {"JPEG", "PNG", "WEBP"} else {}))
    refused = 0
    for _ in range(150):
        data = bytearray(seed[: rng.choice([len(seed), rng.randrange(len(seed))])])
        for _ in range(rng.randint(0, 6)):
            data[rng.randrange(len(data))] = rng.choice([0, 255, rng.randrange(256)])
        try:
            read_photo(bytes(data))
        except ImageError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((640, 480), 416), ((416, 300), 416), ((300, 4000), 416),  # shrunk, or as it is
        ((341, 256), 352), ((335, 256), 352), ((256, 256), 256),  # padded, as they are
        ((100, 80), 224), ((1, 1), 224),  # too small for a context: enlarged
    ],
)  # fmt: skip
def test_photos_are_shrunk_or_left_alone(source: tuple[int, int], expected: int) -> None:
    assert working_size(source, SPEC) == expected
    assert max(network_input(source, SPEC, expected)) == expected


@given(st.integers(225, 416), st.integers(1, 416))
def test_a_photo_that_fits_keeps_its_pixels(width: int, height: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    fitted = fit_photo(Image.fromarray(pixels), SPEC)
    down, across = fitted.pixels.shape[:2]
    for padded, side in ((down, height), (across, width)):
        assert padded % 32 == 0
        assert padded - 32 < side <= padded
    assert content_size((width, height), (across, down)) == (width, height)
    assert (fitted.pixels[:height, :width] == pixels).all()


def test_the_window_is_cut_out_of_the_photo_as_the_network_sees_it() -> None:
    """Of 64 x 48 pixels, scaled from 100 x 75, columns 22 to 41 and rows 14 to 33."""
    pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    spec = replace(SPEC, size=64, window=WindowSpec(side=20, crop=0.41))  # 19.68 rows: close to 20
    fitted = fit_photo(Image.fromarray(pixels), spec)
    assert fitted.window is not None
    np.testing.assert_array_equal(fitted.window, fitted.pixels[14:34, 22:42])
