"""A receiver with a wider detector than the sender's: widths, its start, its training, its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from cdvision.errors import CdvisionError  # noqa: E402
from cdvision.models.small.detector_taps import WideDetectorTap  # noqa: E402
from cdvision.models.small.graphs import graphs  # noqa: E402
from cdvision.models.small.nanodet import (  # noqa: E402
    PLAIN,
    WIDE,
    WIDTHS,
    DetectorFeatures,
    DetectorWidth,
    NanoDetFront,
    NanoDetTail,
)
from cdvision.models.small.network import Small, detector_of, pack, unpack  # noqa: E402
from cdvision.models.small.package_builder import _card, build_described_coder  # noqa: E402
from cdvision.models.small.training.options import ReceiverOptions  # noqa: E402
from cdvision.models.small.training.receiver import receiver_groups  # noqa: E402
from cdvision.models.small.training.wide_start import (  # noqa: E402
    UNIT,
    Example,
    fill_beside_detector,
    reduce_rank,
    regress,
    start_wide_tap,
)
from cdvision.training.finished import Finished  # noqa: E402

NARROW = DetectorWidth(fine=4, coarse=8, deep=16, pyramid=8)
LATENTS = 6

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(module: nn.Module, seed: int = 0) -> Any:
    """Draw weights at which nothing dies; zero-started layers among them."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval().requires_grad_(False)


# --- the networks by width


@pytest.mark.parametrize(("detector", "parameters"), [(PLAIN, 1_186_346), (WIDE, 2_461_080)])
def test_networks_have_the_published_sizes(detector: str, parameters: int) -> None:
    width = WIDTHS[detector]
    front, tail = NanoDetFront(width), NanoDetTail(width)
    found = front(torch.zeros(1, 3, 64, 96))
    assert found.fine.shape == (1, width.fine, 8, 12)
    assert found.coarse.shape == (1, width.coarse, 4, 6)
    assert [level.shape[1] for level in tail.pyramid(found)] == [width.pyramid] * 4
    assert sum(p.numel() for part in (front, tail) for p in part.parameters()) == parameters


def test_packed_features_come_apart_by_width() -> None:
    width = WIDTHS[WIDE]
    features = DetectorFeatures(
        torch.randn(2, width.fine, 4, 6), torch.randn(2, width.coarse, 2, 3)
    )
    packed = pack(features)
    assert packed.shape == (2, width.packed, 2, 3)
    for back, wanted in zip(unpack(packed, width), features, strict=True):
        assert torch.equal(back, wanted)


def test_a_model_is_built_of_its_weights_names() -> None:
    wide = Small(WIDE)
    assert detector_of(wide.state_dict()) == WIDE
    assert detector_of(Small().state_dict()) == PLAIN
    again = Small.from_state(wide.state_dict())
    assert again.detector == WIDE
    assert isinstance(again.detector_tap, WideDetectorTap)


# --- the start of its tap


def test_regression_finds_a_line_and_its_offset() -> None:
    inputs = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0]]), torch.tensor([5.0, -2.0])
    targets = inputs @ weight + bias
    halves = [(inputs[:20], targets[:20]), (inputs[20:], targets[20:])]
    found = regress(halves)
    torch.testing.assert_close(found.weight, weight.double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.bias, bias.double(), rtol=0, atol=1e-3)
    assert float(found.moment[-1, -1]) == 60  # the last input counts the samples


@pytest.mark.parametrize(("root", "kept"), [((1.0, 10.0), 1), ((10.0, 1.0), 0)])
def test_a_rank_goes_to_what_the_metric_weighs(root: tuple[float, float], kept: int) -> None:
    """Two outputs of equal variance from two inputs: one direction is enough for one of them."""
    inputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) + 4
    found = regress([(inputs, inputs * 3)])
    inward, outward = reduce_rank(found, torch.diag(torch.tensor(root)).double(), 1)
    product = inward @ outward
    wanted = torch.zeros(2, 2, dtype=torch.float64)
    wanted[kept, kept] = 3.0
    torch.testing.assert_close(product, wanted, rtol=0, atol=1e-3)
    between = inputs.double() @ inward
    assert float(between.std(unbiased=False)) == pytest.approx(UNIT, abs=1e-3 * UNIT)


def test_a_wide_tap_starts_at_what_regression_can_tell() -> None:
    """Features that a tap of this shape gives are found again: to the edge, at both scales."""
    truth = drawn(WideDetectorTap(LATENTS, NARROW, hidden=8, blocks=1, rank=NARROW.packed))
    tap = WideDetectorTap(LATENTS, NARROW, hidden=8, blocks=1, rank=NARROW.packed)
    maps = [torch.randn(4, LATENTS, 6, 8) for _ in range(12)]
    examples = [Example(y, truth(y)) for y in maps]
    root = torch.eye(NARROW.packed)
    start_wide_tap(tap, plain=truth.context, stage3=truth.stage3, root=root, examples=examples[:11])
    with torch.no_grad():
        found, wanted = tap(maps[11]), examples[11].wanted
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours - theirs).square().mean() / theirs.var()) < 1e-4


# --- its training


def test_all_but_the_detector_comes_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = drawn(Small()), Small(WIDE)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    monkeypatch.setattr(Finished, "weights", lambda self: plain.state_dict())
    returned = fill_beside_detector(model, Finished(Path("run"), {}))
    assert torch.equal(returned.detector_tap.fine.weight, plain.detector_tap.fine.weight)
    for name, value in model.state_dict().items():
        ours = name.startswith(("taps.nanodet", "tails.nanodet"))
        assert torch.equal(value, own[name] if ours else plain.state_dict()[name]), name


def test_a_wide_start_has_no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Finished, "weights", lambda self: Small(WIDE).state_dict())
    with pytest.raises(CdvisionError, match=r"found one of nanodet_plus_m_1\.5x"):
        fill_beside_detector(Small(), Finished(Path("run"), {}))


def test_tap_and_tail_learn_at_rates_of_their_own() -> None:
    model = Small(WIDE)
    tap, tail = receiver_groups(model, ReceiverOptions(tap_rate=2e-4, tail_rate=3e-5))
    assert (tap["lr"], tail["lr"]) == (2e-4, 3e-5)
    learning = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert learning == {"taps", "tails"}
    assert not any(p.requires_grad for p in model.taps["mobilenet_v2"].parameters())
    wanted = sum(1 for _ in model.detector_tap.parameters())
    assert len(tap["params"]) == wanted


# --- its graphs and its card


def test_its_graphs_and_card_name_the_wide_detector() -> None:
    model = drawn(Small(WIDE))
    names = set(graphs(model))
    assert {f"tap.{WIDE}", f"answer.{WIDE}", "encoder", "descriptor"} <= names
    assert f"reference.{WIDE}" not in names  # nobody has a front of it here
    model.add_wide_front()
    (module,) = (g.module for name, g in graphs(model).items() if name == f"reference.{WIDE}")
    assert module.wide_front is model.wide_front
    stored = {f"network.{name}" for name in model.state_dict()}
    assert {f"network.{name}" for name in module.state_dict()} <= stored
    assert Small.from_state(model.state_dict()).wide_front is not None
    coder = build_described_coder(model)
    card = _card(coder, WIDE)
    assert card.name == "small-next"
    assert card.tail_for("detect") == WIDE
    assert card.tails[WIDE].features.channels == 352
    assert card.tail_for("segment") is None
    told = {entry["part"]: entry["initialised_from"] for entry in card.provenance}
    assert told["encoder.front"].startswith("NanoDet-Plus-m 416")
    (tail,) = (part for part in told if "tails.nanodet_plus_m_1_5x" in part)
    assert told[tail].startswith("NanoDet-Plus-m-1.5x 416")


def test_the_answer_is_tap_tail_and_sigmoid() -> None:
    model = drawn(Small(WIDE))
    symbols = torch.randint(-2, 3, (1, 128, 4, 6), dtype=torch.int32)
    hyper, quality = torch.zeros(1, 24, 1, 2, dtype=torch.int32), torch.tensor([5])
    coarse, fine, scores, distances = graphs(model)[f"answer.{WIDE}"].module(
        symbols, hyper, quality
    )
    y = model.dequantiser(symbols.float(), hyper.float(), quality)
    features = model.detector_tap(y)
    dense = model.detector_tail(features)
    torch.testing.assert_close(coarse, features.coarse)
    torch.testing.assert_close(fine, features.fine)
    torch.testing.assert_close(scores, torch.sigmoid(dense.scores))
    torch.testing.assert_close(distances, dense.distances)
    assert np.prod(scores.shape) == 80 * (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)
