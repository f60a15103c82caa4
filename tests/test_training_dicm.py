"""Training of `dicm`: every stage for real on narrow networks, resumption to the bit, losses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cdvision.errors import CdvisionError
from cdvision.results.masks import encode_mask

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from two_stage_reference import reference_losses  # noqa: E402

from cdvision.heads.two_stage.network import build_two_stage_detector  # noqa: E402
from cdvision.models.dicm.backbones import TINY  # noqa: E402
from cdvision.models.dicm.codec import Dicm, DicmRe  # noqa: E402
from cdvision.models.dicm.training import stage2_joint  # noqa: E402
from cdvision.models.dicm.training.augmentation import augment, blur  # noqa: E402
from cdvision.models.dicm.training.detector_losses import detector_losses  # noqa: E402
from cdvision.models.dicm.training.distortions import codec_distortion, feature_errors  # noqa: E402
from cdvision.models.dicm.training.moco import (  # noqa: E402
    EMBEDDING,
    MOMENTUM,
    KeyQueue,
    MomentumContrast,
    info_nce,
)
from cdvision.models.dicm.training.models import start_from  # noqa: E402
from cdvision.models.dicm.training.options import (  # noqa: E402
    CodecOptions,
    ContrastiveOptions,
    HeadsOptions,
    JointOptions,
    RedundancyOptions,
)
from cdvision.models.dicm.training.rates import rate_term, spread  # noqa: E402
from cdvision.models.dicm.training.stage0_contrastive import ContrastiveStage  # noqa: E402
from cdvision.models.dicm.training.stage1_redundancy import RedundancyStage  # noqa: E402
from cdvision.models.dicm.training.stage2_joint import DistillationStage, JointStage  # noqa: E402
from cdvision.models.dicm.training.stage3_codec import CodecStage  # noqa: E402
from cdvision.models.dicm.training.stage4_heads import (  # noqa: E402
    ClassificationTask,
    DetectionTask,
    HeadsStage,
    PixelFeatures,
    StandardisedLinear,
    StreamFeatures,
)
from cdvision.models.dicm.training.views import ViewBank  # noqa: E402
from cdvision.training import stage_run  # noqa: E402
from cdvision.training.labelled_boxes import LabelledBank, read_labelled  # noqa: E402
from cdvision.training.labelled_classes import read_class_bank  # noqa: E402
from cdvision.training.photo_bank import CropPlan, PhotoBank  # noqa: E402
from cdvision.training.protocols import Backbone, pool  # noqa: E402
from cdvision.training.rate_control import targets_between  # noqa: E402
from cdvision.training.stage_run import Plan, Stage, run_stage  # noqa: E402

CPU = torch.device("cpu")
PLAN = Plan(minutes=60.0, steps=3, batch=2, device=CPU, warmup_steps=1)
CHANNELS = TINY.features


pytestmark = pytest.mark.usefixtures("one_thread")


# --- the real codecs with few channels, on a backbone that has batch normalisation


def conv(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    norm = nn.BatchNorm2d(out)
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), norm, nn.ReLU())


class TinyTail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer2, self.layer3 = conv(CHANNELS, 24, 2), conv(24, 32, 2)

    def stages(self, features: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.layer2(features)
        return middle, self.layer3(middle)


def tiny_re() -> DicmRe:
    front = nn.Sequential(conv(3, 8, 2), conv(8, CHANNELS, 2))
    return DicmRe(front, TinyTail(), TINY)


def tiny_codec() -> Dicm:
    return Dicm(tiny_re())


# --- data


@pytest.fixture(scope="module")
def pictures(photos: list[Path]) -> list[Tensor]:
    tensors = []
    for path in photos[:4]:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB").resize((120, 90)))
        tensors.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return tensors


@pytest.fixture(scope="module")
def banks(pictures: list[Tensor]) -> list[PhotoBank]:
    return [PhotoBank(pictures, CropPlan(sides=(64,), least=0.7, share=1.0))]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three photos, boxes on all, masks on some, and a class each."""
    folder = tmp_path_factory.mktemp("labelled")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(96, 64), (100, 70), (60, 80)]):
        pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[20:50, 10:40] = (220, 40, 40)  # the object
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        mask = np.zeros((height, width), dtype=bool)
        mask[20:50, 10:40] = True
        rle = encode_mask(mask)
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        known = {"segmentation": segmentation} if number != 1 else {}
        annotations += [
            {"image_id": number, "category_id": 7, "bbox": [10, 20, 30, 30], **known},
            {"image_id": number, "category_id": 3, "bbox": [5, 5, 20, 12]},
            {"image_id": number, "category_id": 3, "bbox": [5, 5, 20, 12], "iscrowd": 1},
        ]
    categories = [{"id": 7, "name": "square"}, {"id": 3, "name": "nothing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    table = "file,split,kind\n0.png,train,12\n1.png,train,3\n2.png,train,12\n9.png,val,5\n"
    (folder / "classes.csv").write_text(table)
    return folder


def detector() -> Any:
    return build_two_stage_detector(
        classes=2, channels=(CHANNELS, 24, 32), strides=(4, 8, 16), out_channels=16,
        representation=16, mask_channels=(16,), anchor_sizes=(8, 16, 32, 64),
        batch_size_per_image=16,
    )  # fmt: skip


# --- each stage, for real


def contrastive(pictures: list[Tensor], **_: Any) -> Stage:
    model = tiny_re()
    bank = ViewBank(pictures, 64, every=0.3, heat_side=64)
    return ContrastiveStage(
        Backbone(model.front, model.tail), bank, PLAN, ContrastiveOptions(queue=8), channels=32
    )


def redundancy(banks: list[PhotoBank], **_: Any) -> Stage:
    options = RedundancyOptions(feature_losses=True, bpp=(0.5, 2.0))
    return RedundancyStage(tiny_re(), banks, PLAN, options)


def joint(pictures: list[Tensor], **_: Any) -> Stage:
    bank = ViewBank(pictures, 64, every=0.3, heat_side=64)
    return JointStage(tiny_re(), bank, PLAN, JointOptions(queue=8), channels=32)


def distillation(banks: list[PhotoBank], **_: Any) -> Stage:
    return DistillationStage(tiny_re(), banks, PLAN, JointOptions(distil=True))


def codec(banks: list[PhotoBank], **_: Any) -> Stage:
    return CodecStage(tiny_codec(), banks, PLAN, CodecOptions())


def heads(labels: Path, **_: Any) -> Stage:
    with torch.random.fork_rng():
        torch.manual_seed(3)  # the codec is no part of a checkpoint: it comes from its own run
        model = tiny_codec()
    labelled = read_labelled(labels / "boxes.json", [labels])
    boxes = LabelledBank(labelled.photos, short=64, long=128, device=CPU)
    crops, classes = read_class_bank(
        labels / "classes.csv", [labels], side=64, device=CPU, column="kind"
    )
    classifier = StandardisedLinear(nn.Linear(32, 2))
    tasks = {
        "detect": DetectionTask(detector(), boxes, labelled.classes),
        "classify": ClassificationTask(classifier, crops, classes, share=1.0),
    }
    source = StreamFeatures(model)
    return HeadsStage(model.re.tail, source, tasks, PLAN, HeadsOptions(train_tail=True))


STAGES: list[Callable[..., Stage]] = [
    contrastive, redundancy, joint, distillation, codec, heads,
]  # fmt: skip


class Interrupted(Exception):
    """Somebody stops the run."""


def interrupted(stage: Stage, out: Path, at: int) -> None:
    """Run a stage, and stop it in its step ``at``, after checkpoints of all earlier ones."""
    original, steps = stage.loss, iter(range(at))

    def loss(rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        if next(steps, None) is None:
            raise Interrupted
        return original(rng, done)

    stage.loss = loss  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run_stage(stage, out, replace(PLAN, save_minutes=0.0))


@pytest.mark.parametrize("make", STAGES, ids=lambda make: make.__name__)
def test_a_stage_trains_and_resumes_to_the_bit(
    make: Callable[..., Stage],
    pictures: list[Tensor],
    banks: list[PhotoBank],
    labels: Path,
    tmp_path: Path,
) -> None:
    data = {"pictures": pictures, "banks": banks, "labels": labels}

    def fresh(seed: int) -> Stage:
        torch.manual_seed(seed)
        return make(**data)

    whole = fresh(1)
    before = {k: v.clone() for k, v in whole.result().state_dict().items()}
    run_stage(whole, tmp_path / "whole", PLAN, {"backbone": "resnet50"})
    interrupted(fresh(1), tmp_path / "stopped", 2)
    run_stage(fresh(2), tmp_path / "stopped", PLAN)  # every tensor comes from the checkpoint
    ours, theirs = (
        load_file(tmp_path / name / stage_run.CHECKPOINT) for name in ("whole", "stopped")
    )
    assert set(ours) == set(theirs)
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []
    assert any(not torch.equal(before[k], v) for k, v in whole.result().state_dict().items())
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3
    assert all(math.isfinite(v) for v in log[-1].values() if isinstance(v, float))
    record = json.loads((tmp_path / "whole" / stage_run.RECORD).read_text())
    assert record["steps"] == 3
    assert record["backbone"] == "resnet50"


def test_results_are_halves_and_buffers_stay(banks: list[PhotoBank], tmp_path: Path) -> None:
    stage = RedundancyStage(tiny_re(), banks, PLAN, RedundancyOptions())
    run_stage(stage, tmp_path, replace(PLAN, steps=1))
    stored = load_file(tmp_path / stage_run.WEIGHTS)
    assert stored["encoder.layers.0.weight"].dtype == torch.float16
    assert stored["front.0.1.running_var"].dtype == torch.float32
    tiny_re().load_state_dict(stored)
    assert not (tmp_path / "checkpoint.partial").exists()


def test_a_classifier_learns_standardised_and_answers_raw(labels: Path, tmp_path: Path) -> None:
    stage = heads(labels)
    assert isinstance(stage, HeadsStage)
    stage.begin(np.random.default_rng(0))
    inside = stage.network["classify"]
    assert isinstance(inside, StandardisedLinear)
    assert (inside.spread > 0).all()
    assert not torch.equal(inside.mean, torch.zeros_like(inside.mean))
    outside = stage.result()["classify"]
    assert isinstance(outside, nn.Linear)
    pooled = inside.mean + 0.1 * torch.rand(5, 32)
    torch.testing.assert_close(outside(pooled), inside(pooled), rtol=1e-3, atol=1e-3)
    assert set(outside.state_dict()) == {"weight", "bias"}  # what a package reads


def test_only_the_named_parts_train(banks: list[PhotoBank], tmp_path: Path) -> None:
    stage = CodecStage(tiny_codec(), banks, PLAN, CodecOptions())
    model = stage.result()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("re.")}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run_stage(stage, tmp_path, PLAN)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(before[k], v)}
    assert moved <= trained
    assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name in trained}


def test_a_checkpoint_of_another_stage_is_one_clear_line(
    banks: list[PhotoBank], tmp_path: Path
) -> None:
    stage = RedundancyStage(tiny_re(), banks, PLAN, RedundancyOptions())
    run_stage(stage, tmp_path, replace(PLAN, steps=1))
    with pytest.raises(CdvisionError, match="not a checkpoint of this stage with these options"):
        run_stage(CodecStage(tiny_codec(), banks, PLAN, CodecOptions()), tmp_path, PLAN)


def test_redundancy_learns_from_a_head_start(banks: list[PhotoBank], tmp_path: Path) -> None:
    """Principal components are far better than random weights, and training goes on from there."""
    plan = replace(PLAN, steps=60, batch=4)
    errors = []
    for head_start in (False, True):
        torch.manual_seed(0)
        options = RedundancyOptions((1.0, 4.0), head_start=head_start, learning_rate=2e-3)
        stage = RedundancyStage(tiny_re(), banks, plan, options)
        out = tmp_path / str(head_start)
        run_stage(stage, out, plan)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        errors.append([line["l1"] for line in log])
    random, started = errors
    assert random[-1] < random[0]
    assert started[0] < 0.8 * random[0]
    assert started[-1] < started[0]


def test_bfloat16_autocast_keeps_boxes_exact(labels: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, bf16=True, steps=1)
    model = tiny_re()
    labelled = read_labelled(labels / "boxes.json", [labels])
    boxes = LabelledBank(labelled.photos, short=64, long=128, device=CPU)
    task = DetectionTask(detector(), boxes, labelled.classes)
    source = PixelFeatures(model.front)
    stage = HeadsStage(model.tail, source, {"detect": task}, plan, HeadsOptions())
    seen: list[torch.dtype] = []
    task.head.rpn.head.register_forward_hook(lambda *a: seen.append(a[2][0][0].dtype))
    run_stage(stage, tmp_path, plan)
    assert seen == [torch.float32]
    assert model.tail.layer2[0].weight.grad is None


def test_heads_on_the_stream_see_what_a_receiver_sees() -> None:
    model, image = tiny_codec().eval(), torch.rand(2, 3, 64, 64) * 255
    found = StreamFeatures(model)(image, np.random.default_rng(3))
    quality = torch.from_numpy(np.random.default_rng(3).integers(8, size=2))
    filtered = model.re.transmit(model.re.front(image), quality).features
    assert torch.equal(found, model.transmit(filtered, quality).features)
    alone = StreamFeatures(model.re)(image, np.random.default_rng(3))
    assert torch.equal(alone, filtered)


# --- momentum contrast


def test_info_nce_of_a_case_by_hand() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positive = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    first = -math.log(math.exp(3.0) / (math.exp(3.0) + math.exp(0.0) + math.exp(-5.0)))
    second = -math.log(math.exp(5.0) / (math.exp(5.0) + math.exp(5.0) + math.exp(0.0)))
    loss = info_nce(query, positive, negatives, temperature=0.2)
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_queue_forgets_the_oldest_keys_first() -> None:
    queue = KeyQueue(size=5, embedding=2)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(5))
    for value in (1.0, 2.0, 3.0):
        queue.push(torch.full((2, 2), value))
    assert queue.keys[:, 0].tolist() == [3.0, 1.0, 2.0, 2.0, 3.0]
    assert int(queue.cursor) == 1
    with pytest.raises(CdvisionError, match="queue must hold at least one batch"):
        queue.push(torch.zeros(6, 2))


def test_the_slow_encoder_follows_and_is_never_trained() -> None:
    encoder = nn.Conv2d(3, 4, 3)
    contrast = MomentumContrast(encoder, 4, queue=4)
    before = contrast.key_encoder.weight.clone()
    assert torch.equal(before, encoder.weight)
    with torch.no_grad():
        encoder.weight += 100.0
    contrast.loss(torch.zeros(2, EMBEDDING), torch.zeros(2, EMBEDDING))
    contrast.advance(encoder)
    moved = before + (1 - MOMENTUM) * 100
    assert torch.allclose(contrast.key_encoder.weight, moved, atol=1e-4)
    assert not any(p.requires_grad for p in contrast.key_encoder.parameters())
    assert not any(p.requires_grad for p in contrast.key_head.parameters())
    assert (contrast.queue.keys[:2] == 0).all()


def test_shuffled_keys_return_to_their_rows() -> None:
    encoder = nn.Conv2d(3, 4, 3)
    contrast = MomentumContrast(encoder, 4, queue=4, groups=3)
    view, seen = torch.randn(7, 3, 5, 5), list[Tensor]()

    def pooled(network: nn.Module, part: Tensor, at: Tensor) -> Tensor:
        seen.append(at)
        return pool(network(part))

    keys = contrast.key(view, pooled)
    assert torch.allclose(keys, contrast.query(pool(encoder(view))), atol=1e-6)
    assert sorted(torch.cat(seen).tolist()) == list(range(7))
    assert len(seen) == 3


def test_keys_have_the_qualities_of_their_own_photos(
    pictures: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = joint(pictures)
    assert isinstance(stage, JointStage)
    # Views that tell their quality: 20 a step.
    quality = torch.tensor([5, 0, 7, 2])
    view = 20.0 * quality[:, None, None, None].expand(4, 3, 64, 64)
    asked = list[Tensor]()

    def pooled(network: nn.Module, part: Tensor, own: Tensor) -> Tensor:
        assert torch.equal(part[:, 0, 0, 0], 20.0 * own)
        asked.append(own)
        return part.mean((2, 3))[:, :1].expand(-1, 32)

    monkeypatch.setattr(stage.bank, "views", lambda size, rng: (view, view))
    monkeypatch.setattr(stage2_joint, "draw_qualities", lambda size, rng, device: quality)
    monkeypatch.setattr(stage2_joint, "_pooled", pooled)
    stage.loss(np.random.default_rng(0), 0.0)
    assert [len(part) for part in asked] == [2, 2]
    assert sorted(torch.cat(asked).tolist()) == [0, 2, 5, 7]


# --- losses and rates


def test_rates_spread_over_the_sweep() -> None:
    weights = spread(0.08)
    assert weights[0] == pytest.approx(0.64)
    assert weights[-1] == pytest.approx(0.02)
    assert np.ptp(np.diff(np.log(weights))) < 1e-9
    assert targets_between(0.1, 0.8)[0] == pytest.approx(0.1)
    assert targets_between(0.1, 0.8)[-1] == pytest.approx(0.8)
    with pytest.raises(CdvisionError, match="0 < LOW < HIGH"):
        targets_between(0.8, 0.1)


def test_the_rate_term_is_the_multiplier_times_bits_per_pixel() -> None:
    weights, quality = spread(1.0), torch.tensor([0, 7])
    bits = torch.tensor([1000.0, 4000.0])
    fixed = rate_term(weights)
    for _ in range(3):  # fixed multipliers stay
        loss = fixed(bits, bits, quality, 64 * 64)
    assert float(loss) == pytest.approx(
        (weights[0] * 1000 / 4096 + weights[7] * 4000 / 4096) / 2, rel=1e-5
    )
    steered = rate_term(weights, [0.1] * 8)
    first = float(steered(bits, bits, quality, 64 * 64))
    for _ in range(200):
        steered(bits, bits, quality, 64 * 64)
    assert float(steered(bits, bits, quality, 64 * 64)) > first  # too many bits: dearer


def test_distortions_are_zero_for_exact_features_only() -> None:
    tail, wanted = TinyTail().eval().requires_grad_(False), torch.rand(2, CHANNELS, 16, 16)
    found = (wanted + 0.1 * torch.randn_like(wanted)).requires_grad_()
    for measure in (feature_errors, codec_distortion):
        assert all(float(v) == 0 for v in measure(tail, wanted, wanted).values())
        terms = measure(tail, found, wanted)
        assert list(terms) == ["features", "stage2", "stage3"]
        assert all(float(v.detach()) > 0 for v in terms.values())
    terms["stage3"].backward()
    assert float(found.grad.abs().sum()) > 0  # through the frozen tail


def test_the_codec_distortion_has_the_papers_weights() -> None:
    tail, wanted = TinyTail().eval(), torch.rand(1, CHANNELS, 16, 16)
    found = wanted + 0.5
    terms = {k: float(v.detach()) for k, v in codec_distortion(tail, found, wanted).items()}
    stages = zip(tail.stages(found), tail.stages(wanted), strict=True)
    errors = [float((a - b).detach().square().mean()) for a, b in stages]
    assert terms["features"] == pytest.approx(2048 * 0.25, rel=1e-5)
    assert terms["stage2"] == pytest.approx(384 * errors[0], rel=1e-4)
    assert terms["stage3"] == pytest.approx(256 * errors[1], rel=1e-4)


def test_detector_losses_are_torchvisions_where_every_object_has_a_mask() -> None:
    model, detect = tiny_re().eval(), detector().train()
    features = model.front(torch.rand(2, 3, 64, 64) * 255)
    stages = [features, *model.tail.stages(features)]
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 10:40, 10:40] = 1
    box, label = torch.tensor([[10.0, 10.0, 40.0, 40.0]]), torch.tensor([1])
    full = {"boxes": box, "labels": label, "masks": mask, "masked": torch.tensor([True])}
    sizes = [(64, 64)] * 2

    def losses(function: Callable[..., dict[str, Tensor]], targets: list[Any]) -> dict[str, float]:
        torch.manual_seed(4)  # of torchvision's samplers
        return {k: float(v.detach()) for k, v in function(targets).items()}

    ours = losses(lambda t: detector_losses(detect, stages, sizes, t), [full, full])
    assert ours == losses(lambda t: reference_losses(detect, stages, sizes, t), [full, full])
    # A wrong mask on an object whose mask is unknown changes nothing; on a known one it does.
    unknown = full | {"masked": torch.tensor([False])}
    wrong = unknown | {"masks": 1 - mask}
    partly = losses(lambda t: detector_losses(detect, stages, sizes, t), [full, unknown])
    assert partly == losses(lambda t: detector_losses(detect, stages, sizes, t), [full, wrong])
    seen = full | {"masks": 1 - mask}
    assert partly != losses(lambda t: detector_losses(detect, stages, sizes, t), [full, seen])
    none = losses(lambda t: detector_losses(detect, stages, sizes, t), [unknown, unknown])
    assert none["loss_mask"] == 0


# --- data


def test_boxes_and_masks_follow_the_pixels(labels: Path) -> None:
    """Whatever the scale, crop and flip: the red square is where its box and mask say."""
    labelled = read_labelled(labels / "boxes.json", [labels])
    assert labelled.classes == ("nothing", "square")
    assert [len(photo.labels) for photo in labelled.photos] == [2, 2, 2]  # crowds are left out
    bank = LabelledBank(labelled.photos, short=64, long=128, device=CPU)
    shapes = set()
    for seed in range(24):
        batch = bank.batch(2, np.random.default_rng(seed))
        shapes.add(tuple(batch.images.shape))
        for image, (height, width), target in zip(*batch, strict=True):
            red = (image[0] > 150) & (image[1] < 130)
            red[:height, :width] &= (image[:, :height, :width] < 260).all(0)
            red[height:], red[:, width:] = False, False
            for box, label, mask, known in zip(
                *(target[key] for key in ("boxes", "labels", "masks", "masked")), strict=True
            ):
                if int(label) != 2:
                    continue
                left, top, right, bottom = box.round().int().tolist()
                inside = torch.zeros_like(red)
                inside[top:bottom, left:right] = True
                assert float((red & inside).sum() / (red | inside).sum()) > 0.75
                if known:
                    overlap = (red & mask.bool()).sum() / (red | mask.bool()).sum()
                    assert float(overlap) > 0.75
            padding = image[:, height:].flatten(1).mean(1)
            if height < image.shape[1]:
                assert padding.tolist() == pytest.approx([124, 116, 104])
    assert shapes == {(2, 3, 64, 128), (2, 3, 128, 64)}


def test_class_tables_are_contiguous(labels: Path) -> None:
    bank, classes = read_class_bank(
        labels / "classes.csv", [labels], side=64, device=CPU, column="kind"
    )
    assert classes == ("3", "12")  # numbers by value, training rows only
    images, targets = bank.batch(20, np.random.default_rng(0))
    assert images.shape == (20, 3, 64, 64)
    assert set(targets.tolist()) == {0, 1}
    with pytest.raises(CdvisionError, match="expected columns file and colour"):
        read_class_bank(labels / "classes.csv", [labels], side=64, device=CPU, column="colour")


def test_bad_labels_are_one_clear_line(labels: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": []}')
    with pytest.raises(CdvisionError, match="expected the lists images, annotations"):
        read_labelled(broken, [labels])
    with pytest.raises(CdvisionError, match="none of the 3 photos"):
        read_labelled(labels / "boxes.json", [tmp_path])
    with pytest.raises(CdvisionError, match="expected a folder or a tar"):
        read_labelled(labels / "boxes.json", [broken])
    photos = read_labelled(labels / "boxes.json", [labels]).photos
    with pytest.raises(CdvisionError, match="multiples of 64, found 60 x 128"):
        LabelledBank(photos, short=60, long=128, device=CPU)


def test_views_differ_and_stay_photos(pictures: list[Tensor]) -> None:
    bank = ViewBank(pictures, 48)
    first, second = bank.views(4, np.random.default_rng(1))
    assert first.shape == second.shape == (4, 3, 48, 48)
    assert not torch.equal(first, second)
    again = bank.views(4, np.random.default_rng(1))
    assert torch.equal(first, again[0])
    images = torch.rand(64, 3, 16, 16) * 255
    changed = augment(images, np.random.default_rng(0))
    grey = (changed.amax(1) - changed.amin(1)).amax((1, 2)) < 1e-2
    assert 5 <= int(grey.sum()) <= 24  # a fifth of 64
    assert -1 <= float(changed.min())
    assert float(changed.max()) <= 256


def test_blur_keeps_the_mean_and_takes_the_detail() -> None:
    flat = torch.full((2, 3, 20, 20), 100.0)
    assert torch.allclose(blur(flat, np.array([0.5, 2.0])), flat, atol=1e-3)
    noise = torch.rand(2, 3, 40, 40) * 255
    little, much = blur(noise, np.array([0.1, 2.0]))
    assert torch.allclose(little, noise[0], atol=1e-2)
    assert float(much.std()) < 0.3 * float(noise.std())


# --- starting


def test_a_run_that_has_not_ended_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="expected a finished run"):
        start_from(tmp_path, "resnet50", None)
    (tmp_path / stage_run.WEIGHTS).touch()
    (tmp_path / stage_run.RECORD).write_text('{"model": "small"}')
    with pytest.raises(CdvisionError, match="expected the record of a stage of dicm"):
        start_from(tmp_path, "resnet50", None)
