"""The zoo's codecs, `dicm-re` at 1/16 and `dicm-light`, with few channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from cdvision.errors import CdvisionError, ModelError
from cdvision.heads.resizing import interpolation, resizing_inputs
from cdvision.package.card import TailSpec

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.building.map_tables import build_coder  # noqa: E402
from cdvision.models.dicm.backbones import TINY_ZOO, make_backbone  # noqa: E402
from cdvision.models.dicm.bench.fidelity import Point, bytes_against  # noqa: E402
from cdvision.models.dicm.bench.true_network import ErrorSums, zoo_size  # noqa: E402
from cdvision.models.dicm.codec import Dicm, DicmRe, redundancy_codec  # noqa: E402
from cdvision.models.dicm.light_codec import LightCodec  # noqa: E402
from cdvision.models.dicm.map_codec import FullCodec, MapCodec, enlarged  # noqa: E402
from cdvision.models.dicm.map_graphs import ResizedFeaturesGraph  # noqa: E402
from cdvision.models.dicm.network import DicmPackage, DicmSettings  # noqa: E402
from cdvision.models.dicm.training.models import make_sender, start_from  # noqa: E402
from cdvision.models.dicm.training.native_crops import draw_size, native_bank  # noqa: E402
from cdvision.models.dicm.training.options import SenderOptions  # noqa: E402
from cdvision.models.dicm.training.sender_stage import SenderStage  # noqa: E402
from cdvision.models.dicm.training.stage_errors import StageErrors  # noqa: E402
from cdvision.training import stage_run  # noqa: E402
from cdvision.training.photo_bank import PhotoBank  # noqa: E402
from cdvision.training.stage_run import Plan, run_stage  # noqa: E402

PLAN = Plan(minutes=60.0, steps=3, batch=2, device=torch.device("cpu"), warmup_steps=1)
CHANNELS = (16, 24, 32)

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(kind: Callable[..., MapCodec], seed: int = 0) -> MapCodec:
    torch.manual_seed(seed)
    return kind(*make_backbone("tiny-zoo"), TINY_ZOO)


@pytest.fixture(scope="module")
def banks(photos: list[Path]) -> list[PhotoBank]:
    tensors = []
    for path in photos[:3]:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB").resize((160, 128)))
        tensors.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return [native_bank(tensors, sides=(64,))]


def stage_of(kind: Callable[..., MapCodec], banks: list[PhotoBank], seed: int = 0) -> SenderStage:
    return SenderStage(tiny(kind, seed), banks, PLAN, SenderOptions(), channels=CHANNELS)


KINDS = pytest.mark.parametrize("kind", [FullCodec, LightCodec])


@KINDS
def test_a_stage_trains_and_resumes_to_the_bit(
    kind: Callable[..., MapCodec], banks: list[PhotoBank], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    run_stage(stage_of(kind, banks), tmp_path / "whole", PLAN)
    stopped, before = stage_of(kind, banks), iter(range(2))
    original = stopped.loss

    def loss(rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        if next(before, None) is None:
            raise InterruptedError
        return original(rng, done)

    stopped.loss = loss  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        run_stage(stopped, tmp_path / "stopped", replace(PLAN, save_minutes=0.0))
    run_stage(stage_of(kind, banks, seed=1), tmp_path / "stopped", PLAN)
    ours, theirs = (
        load_file(tmp_path / name / stage_run.CHECKPOINT) for name in ("whole", "stopped")
    )
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []


@KINDS
def test_a_start_sends_something_and_front_and_tail_never_change(
    kind: Callable[..., MapCodec], banks: list[PhotoBank]
) -> None:
    stage = stage_of(kind, banks)
    before = {k: v.clone() for k, v in stage.codec.state_dict().items()}
    stage.begin(np.random.default_rng(0))
    unit = stage.rate.unit
    assert (unit[1:] <= unit[:-1] * 1.02).all()  # more bits, smaller errors
    rates = stage.watched()["bpp"]
    assert rates == sorted(rates)
    loss, _ = stage.loss(np.random.default_rng(1), 0.0)
    loss.backward()
    stage.optimizer.step()
    after = stage.codec.state_dict()
    frozen = [k for k in before if k.startswith(("front.", "tail."))]
    assert frozen
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    assert any(k.startswith("bottleneck.") for k in moved)


def test_the_light_start_is_a_linear_code_of_patches(banks: list[PhotoBank]) -> None:
    stage = stage_of(LightCodec, banks)
    stage.begin(np.random.default_rng(0))
    codec = cast(LightCodec, stage.codec).eval()
    image = banks[0].batch(4, np.random.default_rng(2))
    quality = torch.full((4,), 7)
    with torch.inference_mode():
        # 16 of 768 components: most of a photo's energy, and none of it through the branches.
        shown = codec.picture(codec.analyse(image), quality)
        middle = image.mean((2, 3), keepdim=True)
        assert (shown - image).square().mean() < 0.35 * (image - middle).square().mean()
        assert torch.equal(
            codec.analysis(codec.scale(image)), codec.analysis.linear(codec.scale(image))
        )
        features = codec.front(image)
        assert torch.equal(codec.correction(features, quality), features)


def test_every_quality_counts_the_same_in_the_loss(banks: list[PhotoBank]) -> None:
    stage = stage_of(LightCodec, banks)
    stage.rate.unit.copy_(torch.tensor([4.0, 4, 4, 4, 4, 4, 4, 2.0]))
    errors = torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.0, 1.5]])
    rng = np.random.default_rng(0)
    drawn = [0, 7]

    def compare(image: Tensor, size: int, quality: Tensor) -> Any:
        quality.copy_(torch.tensor(drawn))
        return errors, (torch.zeros(2), torch.ones(2)), 64 * 64

    stage.compare = compare  # type: ignore[method-assign]
    _, terms = stage.loss(rng, 0.0)
    # (0.5 * 1 + 0.5 * 2 + 3) / 4 and half of that over 2, averaged
    assert float(terms["error"]) == pytest.approx((4.5 / 4 + 2.25 / 2) / 2)


def test_errors_are_in_units_of_each_channels_variance() -> None:
    errors = StageErrors([2])
    # Channel 0 is 0 and 2 (variance 1), channel 1 is 0 and 6 (9): the floor is a tenth of 5.
    stage = torch.tensor([[[[0.0, 2.0]], [[0.0, 6.0]]]])
    errors.measure([[stage], [stage]])
    assert errors.variance(0).tolist() == pytest.approx([1.5, 9.5])
    found = stage + torch.tensor([[[[1.0, 1.0]], [[2.0, 0.0]]]])
    assert float(errors([found], [stage])) == pytest.approx((1 / 1.5 + 2 / 9.5) / 2)
    sums = ErrorSums()
    sums.add([found], [stage])
    sums.add([found], [stage])
    assert sums.values() == pytest.approx([(1 / 1.5 + 2 / 9.5) / 2])


def test_sizes_of_crops_are_multiples_between_the_zooms() -> None:
    drawn = {draw_size(160, (1.0, 2.5), np.random.default_rng(seed)) for seed in range(60)}
    assert drawn == {160, 192, 224, 256, 288, 320}
    assert draw_size(400, (2.0, 2.0), np.random.default_rng(0)) == 400


def test_native_crops_are_never_resampled(banks: list[PhotoBank]) -> None:
    crop = banks[0].crops([0], 64, np.random.default_rng(3))
    assert torch.equal(crop, crop.round())
    photo = banks[0].photos[0].float()
    places = photo.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4)
    same = [(places == view).all(dim=(2, 3, 4)).any() for view in (crop[0], crop[0].flip(2))]
    assert any(same)


@KINDS
def test_estimated_bits_are_those_of_the_stream(
    kind: Callable[..., MapCodec], banks: list[PhotoBank]
) -> None:
    stage = stage_of(kind, banks)
    stage.begin(np.random.default_rng(0))
    codec = stage.codec.eval()
    coder = build_coder(codec.bottleneck)
    # One large picture: the coder's last state must not count. Untrained scales are too small for
    # some symbols, whose escapes are cheaper than the least likelihood of training.
    image = torch.cat([banks[0].batch(1, np.random.default_rng(n)) for n in range(12)], dim=3)
    quality = torch.tensor([5])
    with torch.inference_mode():
        sent, latents = codec.transmit_image(image, quality), codec.encode(image, quality)
    arrays = {k: v[0].numpy().astype(np.int32) for k, v in latents._asdict().items()}
    bodies = coder.encode(arrays, 5)
    size = sum(len(body) for body in bodies.values())
    assert size == pytest.approx(float(sent.bits) / 8, rel=0.1)
    assert size == pytest.approx(sum(coder.estimate_bits(arrays, 5).values()) / 8, rel=0.01, abs=24)
    received = coder.received(arrays, 5)
    with torch.inference_mode():
        given = (torch.from_numpy(received[name])[None].float() for name in ("symbols", "hyper"))
        decoded = codec.decode(*given, quality)
    torch.testing.assert_close(decoded, sent.features, rtol=1e-4, atol=1e-4)


def test_a_backbone_of_the_zoo_has_its_latent_at_a_sixteenth() -> None:
    front, tail = make_backbone("tiny-zoo")
    assert isinstance(redundancy_codec(front, tail, TINY_ZOO), FullCodec)
    paper = replace(TINY_ZOO, filtered_stride=32)
    assert isinstance(redundancy_codec(front, tail, paper), DicmRe)
    package = DicmPackage(DicmSettings("dicm", "tiny-zoo"))
    assert isinstance(package.codec, Dicm)
    assert isinstance(package.codec.re, FullCodec)
    bare = DicmPackage(DicmSettings("dicm-light", "tiny-zoo", tail=False))
    assert not any(".tail." in name for name in bare.state_dict())
    with pytest.raises(ModelError, match="expected profile"):
        DicmSettings("dicm-heavy", "tiny-zoo")


def test_runs_of_one_sender_do_not_start_the_other() -> None:
    start = start_from(None, "tiny-zoo", None)
    assert isinstance(make_sender("light", start), LightCodec)
    light = replace(start, stage="light", tensors=tiny(LightCodec).state_dict())
    assert isinstance(make_sender("light", light), LightCodec)
    with pytest.raises(CdvisionError, match="expected --start with a run of it, found 'light'"):
        make_sender("full", light)
    with pytest.raises(CdvisionError, match="expected --backbone resnet50-msra, found resnet50v2"):
        make_sender("light", start_from(None, "resnet50v2", None))


def test_the_matrices_enlarge_as_bilinear_interpolation_does() -> None:
    picture = torch.rand(1, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    rows, columns = (torch.from_numpy(interpolation(n, m, n, 1)) for n, m in ((6, 15), (10, 23)))
    found = rows @ picture @ columns.T
    torch.testing.assert_close(found, enlarged(picture, (15, 23)), rtol=1e-5, atol=1e-6)


def test_a_tail_says_whether_it_enlarges() -> None:
    enlarging = cast(TailSpec, SimpleNamespace(settings={"resize_multiple": 32}))
    plain = cast(TailSpec, SimpleNamespace(settings={}))
    found = resizing_inputs(enlarging, (40, 30), (64, 32), (80, 60))
    assert (found["rows"].shape, found["columns"].shape) == ((1, 64, 32), (1, 96, 64))
    # Padding behind the enlarged photo is covered by nothing, and so is the decoded padding.
    assert found["rows"][0, 60:].max() == found["columns"][0, 80:].max() == 0
    assert found["columns"][0, :, 40:].max() == 0
    assert resizing_inputs(enlarging, (40, 30), (64, 32))["rows"][0] == pytest.approx(np.eye(32))
    assert resizing_inputs(plain, (40, 30), (64, 32)) == {}
    with pytest.raises(CdvisionError, match="this tail gives features of photos as they were"):
        resizing_inputs(plain, (40, 30), (64, 32), (80, 60))
    with pytest.raises(CdvisionError, match=r"expected at least the photo's \(40, 30\)"):
        resizing_inputs(enlarging, (40, 30), (64, 32), (80, 20))


def test_the_receivers_graph_enlarges_as_training_does(banks: list[PhotoBank]) -> None:
    stage = stage_of(LightCodec, banks)
    stage.begin(np.random.default_rng(0))
    codec = cast(LightCodec, stage.codec).eval()
    image, quality = banks[0].batch(1, np.random.default_rng(4)), torch.tensor([4])
    with torch.inference_mode():
        latents = codec.encode(image, quality)
        wanted = codec.decode(latents.symbols, latents.hyper, quality, (96, 128))
        rows, columns = (
            torch.from_numpy(interpolation(64, side, 64, 32))[None] for side in (96, 128)
        )
        (found,) = ResizedFeaturesGraph(codec)(
            latents.symbols.int(), latents.hyper.int(), quality, rows, columns
        )
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_photos_have_the_sizes_that_detectron2_gives_them() -> None:
    assert zoo_size((640, 480), 800) == (1067, 800)
    assert zoo_size((480, 640), 800) == (800, 1067)
    assert zoo_size((1000, 200), 800) == (1333, 267)  # the long side binds


def test_half_the_bytes_at_every_error_are_minus_fifty_percent() -> None:
    errors = [0.8, 0.4, 0.2, 0.1]
    points = [
        Point(codec, n, 512, share * 1000.0 * 2**n, 0.1, (9.0, 9.0, error))
        for codec, share in (("ours", 0.5), ("hevc", 1.0))
        for n, error in enumerate(errors)
    ]
    assert bytes_against(points, "ours", "hevc", 512, "res4") == pytest.approx(-50.0, abs=0.1)
    with pytest.raises(CdvisionError):
        bytes_against(points, "ours", "hevc", 512, "res2")  # every error is the same


def test_options_out_of_range_are_refused() -> None:
    assert SenderOptions().targets[0] == pytest.approx(0.1)
    assert math.prod(SenderOptions().targets[::7]) == pytest.approx(0.12)
    for wrong in ({"bpp": (1.0, 0.5)}, {"zoom": (0.5, 2.0)}, {"stage_weights": (-1.0, 0, 0)}):
        with pytest.raises(CdvisionError):
            SenderOptions(**cast(Any, wrong))


def test_modules_of_a_stage_are_the_checkpoint(banks: list[PhotoBank]) -> None:
    modules = stage_of(LightCodec, banks).modules()
    assert set(modules) == {"model", "average", "rate", "errors"}
    assert all(isinstance(module, nn.Module) for module in modules.values())
