"""Picture codecs: real bytes in, real pixels out, on this machine's codecs."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdvision.errors import CdvisionError
from cdvision.evaluation.rivals import (
    RIVALS,
    PillowRival,
    Rival,
    _media_data_bytes,
    missing,
    shrink,
)
from cdvision.evaluation.vvc import from_yuv420, to_yuv420
from cdvision.package.card import InputSpec
from cdvision.photo import fit_photo, working_size

SPEC = InputSpec(size=416, multiple=32, max_size=1024, padding=(0, 0, 0))


def drawn(width: int, height: int) -> Image.Image:
    """Waves of several wavelengths in each colour: something to lose at every quality."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(rows / (3 + 4 * k) + columns / (17 - 3 * k))
        + np.sin(rows * columns / (300 + 90 * k))
        for k in range(3)
    ]
    return Image.fromarray((127.5 + 63 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.fixture(params=RIVALS)
def rival(request: pytest.FixtureRequest) -> Rival:
    found = RIVALS[request.param]
    if (reason := missing(found)) is not None:
        pytest.skip(reason)
    return found


def error(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


def test_better_quality_costs_bytes_and_saves_error(rival: Rival) -> None:
    picture = drawn(160, 120)
    qualities = rival.qualities[::3]
    coded = [rival.encode(picture, quality) for quality in qualities]
    sizes = [len(bits) for bits in coded]
    errors = [error(rival.decode(bits), picture) for bits in coded]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.5 * sizes[0]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 10


@pytest.mark.parametrize("size", [(97, 64), (33, 121), (1, 9)])
def test_any_size_comes_back(rival: Rival, size: tuple[int, int]) -> None:
    picture = drawn(*size)
    decoded = rival.decode(rival.encode(picture, rival.qualities[-1]))
    assert (decoded.size, decoded.mode) == (size, "RGB")
    assert error(decoded, picture) < 30  # the colours are where they were; chroma is coarse


def test_bytes_are_repeatable_and_payload_is_a_part_of_them(rival: Rival) -> None:
    picture, quality = drawn(96, 96), rival.qualities[2]
    coded = rival.encode(picture, quality)
    assert rival.encode(picture, quality) == coded
    assert 0 < rival.payload_bytes(coded) <= len(coded)
    assert (rival.payload_bytes(coded) < len(coded) - 100) == (rival.name in ("avif", "hevc"))


def test_describes_what_makes_the_bytes(rival: Rival) -> None:
    assert any(letter.isdigit() for letter in rival.describe())
    assert rival.title


def test_a_missing_plugin_is_named() -> None:
    absent = PillowRival("x", "X", "X", (1,), lambda: "", plugin=("no_such_module", "no-such"))
    assert missing(absent) == "x needs no-such: pip install 'cdvision[eval]'"
    unknown = PillowRival("y", "Y", "NOSUCH", (1,), lambda: "")
    assert "cannot write NOSUCH" in str(missing(unknown))


def test_vvc_without_its_tools_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "vvc needs vvencapp and vvdecapp on the PATH" in str(missing(RIVALS["vvc"]))


def test_vvc_tool_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "vvencapp"
    tool.write_text("#!/bin/sh\necho 'no such preset' >&2\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(CdvisionError, match="vvencapp failed with 3: no such preset"):
        RIVALS["vvc"].encode(drawn(16, 16), 30)


@pytest.mark.parametrize("size", [(32, 24), (33, 25)])
def test_yuv_planes_come_back(size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    smooth = np.stack([rows * 4, columns * 4, 255 - rows * 4], axis=-1).astype(np.uint8)
    planes = to_yuv420(Image.fromarray(smooth))
    even = [side + side % 2 for side in size]
    assert len(planes) == even[0] * even[1] * 3 // 2
    decoded = from_yuv420(np.frombuffer(planes, np.uint8), size)
    assert error(decoded, Image.fromarray(smooth)) < 2
    with pytest.raises(CdvisionError, match=r"expected .* samples"):
        from_yuv420(np.zeros(5, np.uint8), size)


def test_media_data_box_is_found_behind_other_boxes() -> None:
    first = struct.pack(">I4s", 12, b"ftyp") + b"heic"
    assert _media_data_bytes(first + struct.pack(">I4s", 13, b"mdat") + b"12345") == 5
    assert _media_data_bytes(first + struct.pack(">I4s", 0, b"mdat") + b"123") == 3
    for broken in (first, b"", first[:6], struct.pack(">I4s", 1, b"free") + bytes(20)):
        with pytest.raises(CdvisionError, match="media data box"):
            _media_data_bytes(broken)


@pytest.mark.parametrize("size", [(640, 427), (333, 500), (400, 300), (300, 200)])
def test_shrinking_to_the_working_size_changes_nothing_for_the_network(
    size: tuple[int, int],
) -> None:
    photo = drawn(*size)
    working = working_size(photo.size, SPEC)
    sent = shrink(photo, working)
    assert max(sent.size) <= min(working, max(size))
    np.testing.assert_array_equal(
        fit_photo(sent, SPEC, working).pixels, fit_photo(photo, SPEC, working).pixels
    )
    assert shrink(photo, 2 * max(size)).size == size  # never enlarged
    assert max(shrink(photo, working // 2).size) == working // 2
