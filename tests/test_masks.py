"""Masks of `small`: numpy against torch, both engines, streams of old, and a step of training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.core.boxes import mask_lines
from cdvision.errors import CdvisionError, ModelError
from cdvision.heads.dense_detection import MaskOutputs, detect_from_dense
from cdvision.heads.distribution_boxes import cell_grid
from cdvision.heads.dynamic_masks import (
    COEFFICIENTS,
    PROTOTYPES,
    STRIDE,
    dynamic_masks,
    runs_of_columns,
)
from cdvision.results import ResultError
from cdvision.results.masks import decode_mask, encode_mask, mask_runs

SMALL = Path(cdvision.__file__).parent / "models" / "small" / "packages" / "small"
GOLDEN = [
    path
    for path in sorted((Path(__file__).parent / "golden").glob("*-q*.cdv"))
    if path.stem.startswith(("astronaut", "cat", "coffee")) and "descriptor" not in path.stem
]
GRAPH = "segment.nanodet_plus_m"


def random_outputs(
    count: int, height: int, width: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Prototypes of a network input and the networks of some cells."""
    rng = np.random.default_rng(seed)
    prototypes = rng.normal(size=(PROTOTYPES, height // STRIDE, width // STRIDE))
    coefficients = rng.normal(size=(count, COEFFICIENTS))
    return prototypes.astype(np.float32), coefficients.astype(np.float32)


# --- post-processing


@pytest.mark.parametrize("seed", range(8))
def test_runs_are_those_of_the_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns, samples, height = 9, int(rng.integers(1, 8)), 40
    lines = rng.normal(size=(columns, samples)).astype(np.float32)
    centres = np.sort(rng.uniform(0, height, samples)).astype(np.float32)
    top, bottom = ((0, height), (7, 31))[seed % 2]
    values = np.stack([np.interp(np.arange(height) + 0.5, centres, line) for line in lines], 1)
    picture = np.zeros((height, columns + 3), bool)
    picture[top:bottom, 2:-1] = values[top:bottom] > 0
    assert (np.abs(values) > 1e-5).all()  # else rounding decides
    rle = runs_of_columns(lines, centres, 2, (top, bottom), (columns + 3, height))
    assert rle == encode_mask(picture)


@pytest.mark.parametrize("sign", [-1, 1])
def test_runs_of_nothing_and_of_everything(sign: int) -> None:
    lines = np.full((5, 2), sign, np.float32)
    rle = runs_of_columns(lines, np.array([1, 3], np.float32), 0, (0, 4), (5, 4))
    assert rle == encode_mask(np.full((4, 5), sign > 0))


def torch_mask(
    prototypes: np.ndarray,
    coefficients: np.ndarray,
    box: np.ndarray,
    content: tuple[int, int],
    source: tuple[int, int],
) -> np.ndarray:
    """The network as convolutions over the whole map, enlarged pixel by pixel: (H, W) logits."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    _, height, width = prototypes.shape
    x = (torch.arange(width) + 0.5) * STRIDE
    y = (torch.arange(height) + 0.5) * STRIDE
    left, top, right, bottom = box.tolist()
    x = (2 * x - left - right) / (right - left)
    y = (2 * y - top - bottom) / (bottom - top)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"))
    known = torch.cat([torch.from_numpy(prototypes), places])[None]
    parts = torch.split(torch.from_numpy(coefficients), [8 * (PROTOTYPES + 2), 8, 8, 1])
    hidden = F.relu(F.conv2d(known, parts[0].view(8, -1, 1, 1), parts[1]))
    logits = F.conv2d(hidden, parts[2].view(1, 8, 1, 1), parts[3])
    rows, columns = (
        (torch.arange(s) + 0.5) * c / s / STRIDE / n * 2 - 1
        for s, c, n in ((source[1], content[1], height), (source[0], content[0], width))
    )
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)[None]
    enlarged = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)
    return np.asarray(enlarged[0, 0])


@pytest.mark.parametrize("source", [(150, 100), (75, 50), (411, 273)])
def test_masks_are_those_of_a_direct_computation(source: tuple[int, int]) -> None:
    content = (120, 80)
    prototypes, coefficients = random_outputs(5, 96, 128)
    boxes = np.array(
        [[0, 0, 120, 80], [10.4, 7.3, 50.2, 60.9], [100, 60, 120, 80], [3, 2, 9, 70],
         [60, 30, 64, 34]], np.float32
    )  # fmt: skip
    found = dynamic_masks(prototypes, coefficients, boxes, content_size=content, source_size=source)
    for rle, weights, box in zip(found, coefficients, boxes, strict=True):
        assert rle["size"] == [source[1], source[0]]
        logits = torch_mask(prototypes, weights, box, content, source)
        scale = np.tile([s / c for s, c in zip(source, content, strict=True)], 2)
        left, top, right, bottom = np.rint(box * scale).astype(int)
        expected = np.zeros_like(logits, bool)
        expected[top:bottom, left:right] = logits[top:bottom, left:right] > 0
        differing = decode_mask(rle) != expected
        assert (np.abs(logits[differing]) < 1e-3).all()
        assert differing.mean() < 1e-3


def test_every_box_has_a_pixel_inside_the_picture() -> None:
    prototypes, coefficients = random_outputs(3, 64, 64)
    coefficients[:, -1] = 1e6  # everything is foreground
    boxes = np.array([[64, 64, 64, 64], [0, 0, 0.1, 0.1], [20.5, 3, 20.6, 40]], np.float32)
    masks = dynamic_masks(
        prototypes, coefficients, boxes, content_size=(64, 64), source_size=(31, 63)
    )
    assert [mask_runs(mask)[1::2].sum() for mask in masks] == [1, 1, 36]


def test_detections_without_objects_have_no_masks() -> None:
    cells = len(cell_grid(64, 96))
    prototypes, _ = random_outputs(cells, 64, 96)
    options: dict[str, Any] = {
        "input_size": (96, 64),
        "content_size": (90, 64),
        "source_size": (90, 64),
        "class_names": ["thing"],
    }
    scores, distances = np.zeros((cells, 1), np.float32), np.zeros((cells, 32), np.float32)
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(64, cells)).astype(np.float32)
    control = rng.normal(size=(COEFFICIENTS, 65)).astype(np.float32)
    masks = MaskOutputs(codes, control, prototypes)
    assert detect_from_dense(scores, distances, **options, masks=masks).mask == ()
    assert detect_from_dense(scores, distances, **options).mask is None
    scores[5] = 0.9
    found = detect_from_dense(scores, distances, **options, masks=masks)
    assert found.mask is not None
    assert found.mask[0]["size"] == [64, 90]
    for name in MaskOutputs._fields:
        wrong = masks._replace(**{name: getattr(masks, name)[:, 1:]})
        with pytest.raises(ResultError, match=name):
            detect_from_dense(scores, distances, **options, masks=wrong)


def test_training_looks_at_an_object_as_the_post_processing_does() -> None:
    torch = pytest.importorskip("torch")
    from cdvision.models.small.training.mask_examples import SAMPLES
    from cdvision.models.small.training.masks import mask_logits

    side = SAMPLES * STRIDE
    prototypes, coefficients = random_outputs(3, side, side)
    line = ((np.arange(SAMPLES) + 0.5) * 2 / SAMPLES - 1).astype(np.float32)
    ours = mask_logits(
        torch.from_numpy(prototypes).expand(3, -1, -1, -1), torch.from_numpy(coefficients)
    )
    cells = np.arange(SAMPLES)
    for theirs, weights in zip(ours, coefficients, strict=True):
        mine = mask_lines(prototypes, weights, (0, 0), line, line, cells, 0 * line)
        np.testing.assert_allclose(mine.T, theirs.numpy(), atol=1e-4)


# --- the model


def test_the_branch_gives_every_cell_a_network() -> None:
    torch = pytest.importorskip("torch")
    from cdvision.heads.mask_head import MaskHead

    branch = MaskHead(116, 96).eval()
    maps = [torch.randn(2, 96, 64 // stride, 96 // stride) for stride in (8, 16, 32)]
    maps.append(torch.randn(2, 96, 1, 2))
    features = torch.randn(2, 116, 8, 12)
    with torch.no_grad():
        codes, control, prototypes = branch(features, maps, maps)
        alone, *_ = branch(features[:1], [m[:1] for m in maps], [m[:1] for m in maps])
        coefficients = branch.coefficients(codes[0].T)
        counts = (2, 2, 2, 0)
        cells = [m[0].flatten(1).T[:n] for m, n in zip(maps, counts, strict=True)]
        picked = branch.cell_codes(cells)
    assert codes.shape == (2, 64, len(cell_grid(64, 96)))
    assert prototypes.shape == (2, PROTOTYPES, 16, 24)
    torch.testing.assert_close(codes[:1], alone)
    starts = torch.tensor([0, 1, 96, 97, 120, 121])  # of 96, 24, 6 and 2 cells
    torch.testing.assert_close(picked, codes[0].T[starts])
    ours = control[0, :, :-1] @ codes[0] + control[0, :, -1:]
    torch.testing.assert_close(ours.T, coefficients, atol=1e-5, rtol=1e-4)


def overlap(first: Any, second: Any) -> float:
    a, b = decode_mask(first), decode_mask(second)
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_old_streams_get_masks_on_both_engines(load_model: Any, path: Path) -> None:
    bits = path.read_bytes()
    first, second = (
        load_model("small", engine).open(bits).segment() for engine in ("onnx", "torch")
    )
    assert len(first) == len(second) > 0
    np.testing.assert_allclose(first.xyxy, second.xyxy, atol=0.05)
    boxes = load_model("small").open(bits).detect()
    np.testing.assert_allclose(first.xyxy, boxes.xyxy, atol=0.01)
    for box, other in zip(first, second, strict=True):
        assert overlap(box.mask, other.mask) > 0.99
        inside = decode_mask(box.mask)
        left, top, right, bottom = (round(side) for side in box.xyxy)
        assert inside.shape == first.image_size[::-1]
        assert 0 < inside.sum() == inside[top:bottom, left:right].sum()
        assert inside.sum() > 0.2 * (bottom - top) * (right - left)
    assert cdvision.segment(bits) == first


def test_a_batch_gives_the_masks_of_single_streams(
    model: cdvision.Model, photos: list[Path]
) -> None:
    streams = [model.encode(photo, 6, size=96) for photo in photos[:2]] * 2
    found = list(model.analyze(streams, ["segment", "detect"], batch_size=4, confidence=0.2))
    for bits, answer in zip(streams, found, strict=True):
        alone, together = model.segment(bits, confidence=0.2), answer.detections
        assert together is not None
        assert together.mask is not None
        assert len(alone) == len(together)
        assert all(overlap(a.mask, b.mask) > 0.99 for a, b in zip(alone, together, strict=True))


def test_boxes_come_with_the_masks(model: cdvision.Model, photos: list[Path]) -> None:
    stream = model.open(model.encode(photos[1], 4, size=96))
    masks = stream.segment(confidence=0.1)
    dense = stream.dense("nanodet_plus_m")
    assert set(MaskOutputs._fields) < set(dense)
    boxes = stream.detect(confidence=0.1)
    assert stream.dense("nanodet_plus_m") is dense
    assert boxes.mask is None
    assert np.array_equal(boxes.xyxy, masks.xyxy)
    other = model.open(model.encode(photos[1], 4, size=96))
    other.detect()
    assert other.segment(confidence=0.1) == masks


# --- training and packaging


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Return photos and a COCO json: what `small` finds in the example photos, as ellipses."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("labelled")
    images, annotations = [], []
    for number, path in enumerate(photos[:3]):
        with Image.open(path) as photo:
            photo.convert("RGB").resize((96, 80)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        found = cdvision.detect(cdvision.encode(folder / f"{number}.png", 8), confidence=0.2)
        for box in found:
            left, top, right, bottom = box.xyxy
            y, x = np.mgrid[:80, :96]
            mask = ((2 * x - left - right) / (right - left)) ** 2 < 1
            mask &= ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
            rle = encode_mask(mask)
            annotations.append({
                "image_id": number, "category_id": 1,
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            })  # fmt: skip
    content = {"images": images, "annotations": annotations}
    (folder / "labels.json").write_text(
        json.dumps(content | {"categories": [{"id": 1, "name": "x"}]})
    )
    return folder


def train(labelled: Path, out: Path, steps: int) -> dict[str, Any]:
    """Run the command, and return the weights of its result."""
    from click.testing import CliRunner
    from safetensors.torch import load_file

    from cdvision.cli.train import train as group

    options = ["--steps", str(steps), "--batch", "2", "--short", "64", "--long", "128"]
    labels = ["--boxes", str(labelled / "labels.json")]
    command = ["masks", str(SMALL), str(labelled), *labels, "-o", str(out), *options]
    done = CliRunner().invoke(group, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return load_file(out / "weights.safetensors")


@pytest.fixture(scope="module")
def short_rounds() -> Any:
    """Make rounds of training short."""
    pytest.importorskip("torch")
    from cdvision.models.small.training import masks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "ROUND_BATCHES", 2)
        patch.setattr(masks, "ROUND_PASSES", 1)
        yield


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory, short_rounds: Any) -> Path:
    """Return the folder of a run of three steps."""
    out = tmp_path_factory.mktemp("runs") / "masks"
    train(labelled, out, 3)
    return out


def test_a_resumed_run_takes_the_same_steps(
    labelled: Path, run: Path, tmp_path: Path, short_rounds: Any
) -> None:
    import torch
    from safetensors.torch import load_file

    train(labelled, tmp_path / "run", 2)
    resumed, straight = train(labelled, tmp_path / "run", 3), load_file(run / "weights.safetensors")
    installed = load_file(SMALL / "weights.safetensors")
    assert set(resumed) == set(straight) >= set(installed)
    for name, value in resumed.items():
        if name.startswith("masks."):
            torch.testing.assert_close(value, straight[name], atol=2e-3, rtol=0.02)
        else:
            assert torch.equal(value.half(), installed[name])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3
    assert log[-1]["dice"] > 0


def test_training_changes_the_branch(run: Path) -> None:
    import torch
    from safetensors.torch import load_file

    before, after = (load_file(folder / "weights.safetensors") for folder in (SMALL, run))
    branch = [name for name in after if name.startswith("masks.") and "squeeze" not in name]
    same = [name for name in branch if torch.equal(before[name], after[name].half())]
    assert same == []


def test_photos_without_masks_are_refused() -> None:
    torch = pytest.importorskip("torch")
    from cdvision.models.small.training.masks import banks_with_masks

    with pytest.raises(CdvisionError, match="expected photos with masks"):
        banks_with_masks([[]], short=64, long=64, device=torch.device("cpu"))


def test_a_graph_finds_its_weights_in_a_longer_file(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    from cdvision.export.shared_weights import repoint_weights

    weights = load_file(SMALL / "weights.safetensors")
    graph, file = tmp_path / "tap.nanodet_plus_m.onnx", tmp_path / "weights.safetensors"
    shutil.copyfile(SMALL / graph.name, graph)
    save_file(weights | {"a.new.one": torch.ones(1000, dtype=torch.float16)}, file)
    repoint_weights(graph, file)
    rng = np.random.default_rng(0)
    inputs = {
        "symbols": rng.integers(-2, 3, (1, 128, 4, 4)).astype(np.int32),
        "hyper": rng.integers(-2, 3, (1, 24, 1, 1)).astype(np.int32),
        "quality": np.array([4], np.int64),
    }
    before, after = (
        ort.InferenceSession(str(path)).run(None, inputs)[0] for path in (SMALL / graph.name, graph)
    )
    assert np.array_equal(before, after)
    del weights["taps.nanodet_plus_m.fine.weight"]
    save_file(weights, file)
    with pytest.raises(ModelError, match=r"expected taps\.nanodet_plus_m\.fine\.weight of shape"):
        repoint_weights(graph, file)


def test_a_branch_of_another_package_is_refused(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from safetensors.torch import load_file, save_file

    from cdvision.models.small.mask_branch import add_mask_branch

    weights = load_file(run / "weights.safetensors")
    weights["encoder.log_gain"] = weights["encoder.log_gain"] + 1
    other = tmp_path / "other"
    other.mkdir()
    save_file(weights, other / "weights.safetensors")
    with pytest.raises(ModelError, match="expected weights that were trained on"):
        add_mask_branch(SMALL, other, tmp_path / "out")
    with pytest.raises(ModelError, match="new or empty folder"):
        add_mask_branch(SMALL, run, SMALL)
    assert not (tmp_path / "out").exists()
