"""Photos that a tap is fitted on: held out, odd, left out, in windows, in crops."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


from cdvision.fitting.examples import (  # noqa: E402
    Example,
    ExampleMaker,
    ExampleSource,
    Window,
    photos_that_fit,
)
from cdvision.fitting.network import TorchNetwork  # noqa: E402
from cdvision.fitting.photos import find_photos, hold_out  # noqa: E402
from cdvision.fitting.streams import StreamReader  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_same_photos_are_held_out_whatever_comes_beside_them(
    folder: Path, tmp_path: Path
) -> None:
    tar = tmp_path / "photos.tar"
    with tarfile.open(tar, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.add(path, path.relative_to(folder).as_posix())
    inside = find_photos([tar])
    assert [f.name for f in inside] == [f.name for f in find_photos([folder])]
    assert all(f.read() == (folder / f.name).read_bytes() for f in inside)
    ranked = [f for f in find_photos([folder, tar], {"03.png": "val"}) if f.source == tar]
    assert "a/03.png" not in {f.name for f in ranked}
    train, held = hold_out(inside)
    assert len(held) == 4
    assert {f.name for f in train}.isdisjoint(f.name for f in held)


def test_too_few_photos_and_no_photos(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match=r"at least 12 photos.*found 0"):
        find_photos([tmp_path])
    (tmp_path / "x.tar").write_bytes(b"not a tar")
    with pytest.raises(CdvisionError, match="uncompressed tar"):
        find_photos([tmp_path / "x.tar"])


def test_odd_photos_are_used_or_left_out_with_a_reason(
    folder: Path, tmp_path: Path, small_reader: StreamReader, tiny_split: TorchNetwork
) -> None:
    Image.new("L", (70, 60), 90).save(tmp_path / "grey.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "tiny.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    Image.new("P", (2400, 40)).save(tmp_path / "long.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((folder / "a" / "01.png").read_bytes()[:300])
    for number in range(6):
        Image.new("RGB", (64, 64), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    maker = ExampleMaker(small_reader, tiny_split)
    made = {f.name: maker.make(f) for f in find_photos([tmp_path])}
    assert {name for name, example in made.items() if example is None} == set(maker.left_out)
    assert set(maker.left_out) == {"tiny.png", "huge.png", "broken.jpg", "empty.jpg", "cut.png"}
    assert "expected at least 32" in maker.left_out["tiny.png"]
    assert "67108864 pixels, found 9000 x 9000" in maker.left_out["huge.png"]
    grey = made["grey.png"]
    assert grey is not None
    assert grey.features.shape[1:] == (2 * grey.latents.shape[2], 2 * grey.latents.shape[3])


def test_photos_without_any_that_can_be_read(
    tmp_path: Path, small_reader: StreamReader, tiny_split: TorchNetwork
) -> None:
    for number in range(14):
        (tmp_path / f"{number}.jpg").write_bytes(b"no photo")
    source = ExampleSource(ExampleMaker(small_reader, tiny_split), find_photos([tmp_path]), 4)
    with pytest.raises(CdvisionError, match="none of 14 photos can be used"):
        source.window(0)


def test_what_does_not_fit_into_memory_comes_in_windows(
    folder: Path, small_reader: StreamReader, tiny_split: TorchNetwork
) -> None:
    files, maker = find_photos([folder]), ExampleMaker(small_reader, tiny_split)
    example = maker.make(files[0])
    assert example is not None
    assert photos_that_fit([example], 16, 16 * example.nbytes) == 16
    source = ExampleSource(maker, files, 4, memory=10 * example.nbytes)
    assert not source.all_fit
    first, later = source.window(0), source.window(10_000)
    assert len(first.examples) < 16
    again = ExampleSource(maker, files, 4, memory=10 * example.nbytes).window(10_000)
    assert all(
        torch.equal(a.latents, b.latents)
        for a, b in zip(later.examples, again.examples, strict=True)
    )


def test_crops_of_latents_and_features_show_the_same_place() -> None:
    for up, down in ((2, 1), (1, 2)):
        y = torch.arange(6 * 8).view(1, 1, 6, 8).repeat_interleave(down, 2)
        y = y.repeat_interleave(down, 3).half()
        features = y[0, :, ::down, ::down].repeat_interleave(up, 1).repeat_interleave(up, 2)
        window = Window([Example(y, features, [5])])
        latents, qualities, targets, counts = window.batch(8, np.random.default_rng(0))
        assert qualities.tolist() == [4] * 8
        small = latents[:, :, ::down, ::down]
        assert torch.equal(small.repeat_interleave(up, 2).repeat_interleave(up, 3), targets)
        assert counts.shape[1:] == (1, *targets.shape[2:])
