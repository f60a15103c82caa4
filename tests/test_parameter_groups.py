"""What learns how fast, and what each stage adds up: tables of groups and of losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.models.any_network.network import AnyNetworkModel, AnyNetworkShape  # noqa: E402
from cdvision.models.any_network.training import stage as encoder_stage  # noqa: E402
from cdvision.models.any_network.training.start import _projections  # noqa: E402
from cdvision.models.dicm.backbones import TINY, TinyFront, TinyTail  # noqa: E402
from cdvision.models.dicm.codec import Dicm, DicmRe  # noqa: E402
from cdvision.models.dicm.training import stage1_redundancy, stage2_joint, stage3_codec  # noqa: E402
from cdvision.models.dicm.training.options import (  # noqa: E402
    CodecOptions,
    ContrastiveOptions,
    HeadsOptions,
    JointOptions,
    RedundancyOptions,
)
from cdvision.models.dicm.training.rates import rate_groups, spread  # noqa: E402
from cdvision.models.dicm.training.stage0_contrastive import ContrastiveStage  # noqa: E402
from cdvision.models.dicm.training.stage4_heads import (  # noqa: E402
    ClassificationTask,
    HeadsStage,
    PixelFeatures,
    StandardisedLinear,
)
from cdvision.models.dicm.training.views import ViewBank  # noqa: E402
from cdvision.models.faces.hsc import HscCodec  # noqa: E402
from cdvision.models.faces.style_layers import StyleLayers  # noqa: E402
from cdvision.models.faces.training.face_bank import (  # noqa: E402
    FaceBank,
    FaceCodes,
    encode_faces,
)
from cdvision.models.faces.training.hsc_stage import HscStage  # noqa: E402
from cdvision.models.faces.training.networks import (  # noqa: E402
    FaceNetworks,
    load_face_networks,
    packaged_codec,
)
from cdvision.models.faces.training.options import (  # noqa: E402
    GeneratorOptions,
    HscOptions,
    InversionOptions,
)
from cdvision.models.faces.training.stage_generator import GeneratorStage  # noqa: E402
from cdvision.models.faces.training.stage_inversion import InversionStage  # noqa: E402
from cdvision.models.faces.training.stage_rows import RowsStage  # noqa: E402
from cdvision.models.faces.training.stage_trunk import TrunkStage  # noqa: E402
from cdvision.models.faces.training.style_layers_stage import StyleLayersStage  # noqa: E402
from cdvision.models.faces.widths import tiny_widths  # noqa: E402
from cdvision.models.small.network import Small  # noqa: E402
from cdvision.models.small.training.map_stage import parameter_groups  # noqa: E402
from cdvision.models.small.training.options import MapOptions  # noqa: E402
from cdvision.package.card import FeatureSpec  # noqa: E402
from cdvision.training.learning_rates import group_by_rate  # noqa: E402
from cdvision.training.photo_bank import CropPlan, PhotoBank  # noqa: E402
from cdvision.training.plan import Plan  # noqa: E402
from cdvision.training.protocols import Backbone  # noqa: E402
from cdvision.training.rate_control import REFERENCE_PIXELS  # noqa: E402

PLAN = Plan(minutes=60.0, steps=3, batch=4, device=torch.device("cpu"))
PACKAGES = Path(__file__).parent / "packages"
pytestmark = pytest.mark.usefixtures("one_thread")


def rates(network: nn.Module, groups: Any) -> dict[str, float]:
    """Return the learning rate of every parameter that is in a group, each in one only."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = [(names[p], group["lr"]) for group in groups for p in group["params"]]
    assert len(dict(found)) == len(found)
    return dict(found)


def check(found: Mapping[str, float], table: Mapping[str, float | None]) -> None:
    """Compare with a table of names' beginnings; None: in no group."""
    for part, rate in table.items():
        named = [value for name, value in found.items() if name.startswith(part)]
        assert named == [pytest.approx(rate)] * len(named) if rate else named == [], part
        assert bool(named) is bool(rate), part


def test_groups_of_smalls_map() -> None:
    model = Small()
    groups = parameter_groups(model, MapOptions(1e-3, 1e-5, 1e-7))
    check(rates(model, groups), {
        "encoder.front.stem.": None, "encoder.front.stage2.": None, "descriptor.": None,
        "taps.mobilenet_v2.": None, "tails.mobilenet_v2.": None,
        "encoder.front.stage3": 1e-7, "tails.nanodet_plus_m": 1e-7,
        "encoder.analysis.linear": 1e-5, "taps.nanodet_plus_m.fine": 1e-5,
        "taps.nanodet_plus_m.coarse": 1e-5, "encoder.analysis.context": 1e-3,
        "encoder.hyper_analysis": 1e-3, "dequantiser.mean": 1e-3,
        "encoder.log_gain": 1e-2, "dequantiser.log_rescale": 1e-2, "hyper_prior": 1e-2,
        "hyper_decoder.conv1.weight": 1e-2, "hyper_decoder.conv2.weight": 1e-3,
        "hyper_decoder.conv3.bias": 4e-2, "hyper_decoder.quality_bias": 4e-2,
    })  # fmt: skip


def test_groups_of_an_encoder_of_ones_own() -> None:
    shape = AnyNetworkShape(16, {"mine": FeatureSpec(8, 16)}, width=16, depth=1)
    model = AnyNetworkModel(shape)
    check(rates(model, group_by_rate(model, encoder_stage._learning_rate)), {
        "encoder.analysis.linear": 1e-4, "encoder.analysis.context": 5e-4,
        "taps.mine.blocks": 1e-3, "taps.mine.opening": 2e-4, "taps.mine.closing": 2e-4,
        "encoder.log_gain": 5e-3, "hyper_prior": 5e-3, "hyper_decoder.quality_bias": 2e-2,
    })  # fmt: skip


def test_every_served_network_weighs_the_same() -> None:
    stage = encoder_stage.EncoderStage.__new__(encoder_stage.EncoderStage)
    stage.networks = {"a": None, "b": None}  # type: ignore[dict-item]
    terms = {"a/features": 1.0, "a/outputs": 10.0, "b/features": 100.0}
    total = stage._weighted_sum({name: torch.tensor(value) for name, value in terms.items()})
    # Sixteen for both: 0.7 and 0.3 of a's eight, and all of b's, which has no outputs to compare.
    assert float(total) == pytest.approx(8 * (0.7 + 0.3 * 10) + 8 * 100)


def test_outputs_are_probed_in_units_of_their_spread() -> None:
    outputs = {"x": torch.tensor([1.0, 3.0, 5.0], requires_grad=True), "y": torch.ones(2)}
    torch.manual_seed(0)
    (found,) = _projections(outputs)  # what passes no gradient is left out
    torch.manual_seed(0)
    probe = torch.randn(3)
    wanted = (outputs["x"].detach() * probe).sum() / 8**0.5  # squares around the mean: 4, 0, 4
    torch.testing.assert_close(found.detach(), wanted)


def test_groups_of_dicm_and_what_decays() -> None:
    model = Dicm(DicmRe(TinyFront(), TinyTail(), TINY))
    model.re.requires_grad_(False)
    groups = rate_groups(model, 1e-4)
    check(rates(model, groups), {
        "re.": None, "analysis": 1e-4, "synthesis": 1e-4,
        "bottleneck.log_gain": 1e-3, "bottleneck.log_rescale": 1e-3, "bottleneck.hyper_prior": 1e-3,
    })  # fmt: skip
    decays = sorted((group["lr"], group.get("weight_decay")) for group in groups)
    assert decays == [(1e-4, None), (pytest.approx(1e-3), 0.0), (pytest.approx(4e-3), 0.0)]


# --- stages of dicm


@pytest.fixture(scope="module")
def banks() -> list[PhotoBank]:
    generator = torch.Generator().manual_seed(0)
    photos = [
        torch.randint(0, 256, (3, 90, 120), generator=generator, dtype=torch.uint8)
        for _ in range(2)
    ]
    return [PhotoBank(photos, CropPlan(sides=(64,), least=0.7, share=1.0))]


def tiny_re() -> DicmRe:
    torch.manual_seed(0)
    return DicmRe(TinyFront(), TinyTail(), TINY)


def dicm_stages(banks: list[PhotoBank]) -> dict[str, tuple[Any, float]]:
    """Return stages, and the multiplier of bits per pixel around which their qualities spread."""
    redundancy, codec = stage1_redundancy.RedundancyStage, stage3_codec.CodecStage
    joint, distillation = stage2_joint.JointStage, stage2_joint.DistillationStage
    views = ViewBank(banks[0].photos, 64, every=2.0, heat_side=64)
    distil, normalised = JointOptions(distil=True), CodecOptions(normalised=True)
    return {
        "redundancy": (redundancy(tiny_re(), banks, PLAN, RedundancyOptions()), 1.0),
        "joint": (joint(tiny_re(), views, PLAN, JointOptions(queue=8), channels=32), 0.1),
        "distillation": (distillation(tiny_re(), banks, PLAN, distil), 1.0),
        "codec": (codec(Dicm(tiny_re()), banks, PLAN, CodecOptions()), 0.08),
        "normalised": (codec(Dicm(tiny_re()), banks, PLAN, normalised), 1.0),
    }


@pytest.mark.parametrize("name", ["redundancy", "joint", "distillation", "codec", "normalised"])
def test_a_stage_adds_up_distortion_and_rate(name: str, banks: list[PhotoBank]) -> None:
    stage, weight = dicm_stages(banks)[name]
    prices = torch.exp(stage.rate.log_multiplier) * REFERENCE_PIXELS / 8
    assert prices.tolist() == pytest.approx(spread(weight), rel=1e-4)

    def loss(done: float) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(1)
        found, parts = stage.loss(np.random.default_rng(1), done)
        return found.detach(), {name: value.detach() for name, value in parts.items()}

    total, terms = loss(1.0)
    assert float(total) == pytest.approx(float(torch.stack([*terms.values()]).sum()), rel=1e-5)
    assert all(float(value) > 0 for value in terms.values())
    ramped = name in ("redundancy", "codec", "normalised")
    early = loss(0.15)[1]["rate"]  # half of the way between a twentieth and a quarter
    assert float(early) == pytest.approx(float(terms["rate"]) * (0.5 if ramped else 1), rel=1e-4)
    if name != "joint":  # what is compared is what was sent, and the sender learns from it
        _, terms = stage.loss(np.random.default_rng(1), 1.0)
        sender = stage.model.analysis if "codec" in type(stage).__name__.lower() else (
            stage.model.encoder)  # fmt: skip
        for term in (v for k, v in terms.items() if k != "rate"):
            gradients = torch.autograd.grad(
                term, list(sender.parameters()), retain_graph=True, allow_unused=True
            )
            assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


@pytest.mark.parametrize(("name", "weight"), [("redundancy", 128.0), ("joint", 0.1)])
def test_absolute_errors_have_the_papers_weight(
    name: str, weight: float, banks: list[PhotoBank], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"redundancy": stage1_redundancy, "joint": stage2_joint}[name]
    monkeypatch.setattr(module, "mean_absolute_error", lambda found, wanted: torch.tensor(2.0))
    terms = dicm_stages(banks)[name][0].loss(np.random.default_rng(1), 1.0)[1]
    assert float(terms["l1"]) == pytest.approx(2 * weight)


def test_sgd_rates_of_contrast_grow_with_the_batch(banks: list[PhotoBank]) -> None:
    views = ViewBank(banks[0].photos, 64)
    re = tiny_re()
    backbone = Backbone(re.front, re.tail)
    stage = ContrastiveStage(backbone, views, PLAN, ContrastiveOptions(queue=8), channels=32)
    assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(0.03 * 4 / 256)
    joint = dicm_stages(banks)["joint"][0]
    assert joint.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 4 / 256)


def test_groups_of_heads() -> None:
    re, linear = tiny_re(), StandardisedLinear(nn.Linear(32, 3))
    task = ClassificationTask(linear, None, ("a", "b", "c"))  # type: ignore[arg-type]
    source, tasks = PixelFeatures(re.front), {"x": task}
    stage = HeadsStage(re.tail, source, tasks, PLAN, HeadsOptions(train_tail=True))
    check(rates(stage.network, stage.optimizer.param_groups), {"x.": 5e-3, "tail.": 2e-5})
    frozen = HeadsStage(re.tail, source, tasks, PLAN, HeadsOptions(learning_rate=1e-3))
    check(rates(frozen.network, frozen.optimizer.param_groups), {"x.": 2.5e-2, "tail.": None})


def test_tasks_are_drawn_by_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    re = tiny_re()
    tasks: Any = {
        name: ClassificationTask(StandardisedLinear(nn.Linear(32, 2)), None, ("a", "b"), share)  # type: ignore[arg-type]
        for name, share in (("rare", 0.2), ("usual", 0.6))
    }
    stage = HeadsStage(re.tail, PixelFeatures(re.front), tasks, PLAN, HeadsOptions())
    monkeypatch.setattr(
        ClassificationTask,
        "losses",
        lambda task, stage, rng: {"classes": torch.ones(()), "loss_more": torch.ones(())},
    )
    drawn = []
    for seed in range(400):
        loss, terms = stage.loss(np.random.default_rng(seed), 0.0)
        assert float(loss) == 2
        drawn.append(min(terms))
    assert set(drawn) == {"rare/classes", "usual/classes"}
    assert drawn.count("rare/classes") / 400 == pytest.approx(0.25, abs=0.06)


# --- stages of faces


@pytest.fixture(scope="module")
def networks() -> FaceNetworks:
    return load_face_networks(PACKAGES / "test-hsc")


@pytest.fixture(scope="module")
def bank(networks: FaceNetworks) -> FaceBank:
    generator = torch.Generator().manual_seed(0)
    side = networks.widths.resolution
    images = torch.randint(0, 256, (12, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (12, 40), generator=generator).float()
    return FaceBank(images, labels, tuple(f"a{i}" for i in range(40)))


@pytest.fixture(scope="module")
def codes(networks: FaceNetworks, bank: FaceBank) -> FaceCodes:
    return encode_faces(networks, bank, mirror=True)


def fresh() -> FaceNetworks:
    return load_face_networks(PACKAGES / "test-hsc")


class Lucky:
    """A generator of random numbers whose plain draws are all 0: what is rare happens."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def random(self, *size: Any) -> Any:
        return np.zeros(size) if size else 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


def test_the_generators_game_weighs_what_is_drawn_rarely(bank: FaceBank) -> None:
    stage = GeneratorStage(fresh(), bank, PLAN, GeneratorOptions(r1=3.0, path=5.0))
    assert stage.average.memory == pytest.approx(0.5 ** (4 / 10_000))
    for optimizer in (stage.optimizer, stage.opponent):
        assert optimizer is not None
        assert optimizer.defaults["lr"] == 0.0025
        assert optimizer.defaults["betas"] == (0.0, 0.99)
    loss, terms = stage.opponent_loss(Lucky(0), 0.0)  # type: ignore[arg-type]
    wanted = terms["judged"] + 16 * 3 * terms["r1"]
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    loss, terms = stage.loss(Lucky(0), 0.0)  # type: ignore[arg-type]
    wanted = terms["drawn"] + 4 * 5 * terms["path"]
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_two_styles_meet_at_a_row_inside(bank: FaceBank) -> None:
    stage = GeneratorStage(fresh(), bank, PLAN, GeneratorOptions(mixing=1.0))
    changes = set()
    for seed in range(12):
        rows = stage._rows(np.random.default_rng(seed)).detach()
        differs = (rows[:, 1:] != rows[:, :-1]).any(2)
        assert (differs.sum(1) == 1).all()
        changes |= set(differs.float().argmax(1).tolist())
    assert changes == set(range(rows.shape[1] - 1))
    stage.options = GeneratorOptions(mixing=0.0)
    rows = stage._rows(np.random.default_rng(0)).detach()
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    before = stage.generator.mapping.mean.clone()
    torch.manual_seed(3)
    mean = stage.generator.mapping(torch.randn(8, rows.shape[2])).detach().mean(0)
    torch.manual_seed(3)
    stage._rows(np.random.default_rng(0), follow=True)
    torch.testing.assert_close(stage.generator.mapping.mean, before + 0.005 * (mean - before))


def test_groups_of_trunk_inversion_and_rows(bank: FaceBank, codes: FaceCodes) -> None:
    stage: Any = TrunkStage(fresh(), bank, bank, PLAN)
    check(rates(stage.networks, stage.optimizer.param_groups), {
        "encoder.trunk": 2e-4, "encoder.hidden": 1e-3, "encoder.styles": 1e-3, "head": 1e-3,
        "encoder.feature": None, "generator": None,
    })  # fmt: skip
    stage = InversionStage(fresh(), bank, bank, PLAN, options=InversionOptions(tune_generator=True))
    check(rates(stage.networks, stage.optimizer.param_groups), {
        "encoder.trunk": 5e-5, "encoder.hidden": 1e-3, "encoder.feature": 1e-3, "head": 1e-3,
        "generator": 2e-3,
    })  # fmt: skip
    stage = RowsStage(fresh(), bank, codes, bank, PLAN)
    check(rates(stage.networks, stage.optimizer.param_groups), {
        "refiner.directions": 3e-5, "refiner.out": 1e-3, "encoder": None, "generator": None,
    })  # fmt: skip


def test_codes_of_the_second_half_are_of_mirrored_faces(bank: FaceBank, codes: FaceCodes) -> None:
    stage = RowsStage(fresh(), bank, codes, bank, PLAN)
    count = len(bank.images)
    found = stage._pictures(torch.tensor([0, count - 1, count, 2 * count - 1]))
    first, last = (bank.images[i].float() / 127.5 - 1 for i in (0, -1))
    for picture, wanted in zip(found, (first, last, first.flip(2), last.flip(2)), strict=True):
        torch.testing.assert_close(picture, wanted)


def test_features_are_compared_with_the_generators_own(bank: FaceBank) -> None:
    stage = InversionStage(fresh(), bank, bank, PLAN, options=InversionOptions(tune_generator=True))
    codes = stage.networks.encoder(bank.images[:2].float())
    _, error = stage._picture(codes, "feature")
    assert error is not None
    own = stage.networks.generator.activation(codes.rows)
    wanted = (codes.feature - own).square().mean()
    torch.testing.assert_close(error, wanted)
    constant = stage.networks.generator.constant  # both sides move: encoder and generator
    gradients = torch.autograd.grad(error, [constant, codes.feature])
    assert all(bool(g.abs().sum() > 0) for g in gradients)


def test_inversion_and_rows_weigh_their_terms(bank: FaceBank, codes: FaceCodes) -> None:
    inversion = InversionStage(fresh(), bank, bank, PLAN, options=InversionOptions(drawn=0.5))
    weights = {"l1": 2.0, "l2": 2.0, "feature": 0.05, "attributes": 0.5, "rows": 1.0}
    rows = RowsStage(fresh(), bank, codes, bank, PLAN)
    for stage, table in ((inversion, weights), (rows, {"l1": 2.0, "l2": 2.0, "attributes": 1.0})):
        seen = set()
        for seed in range(12):
            loss, terms = stage.loss(np.random.default_rng(seed), 0.0)
            named = [n for n in terms if not n.startswith("l1_")]
            seen |= set(terms)
            wanted = sum(table[name] * float(terms[name].detach()) for name in named)
            assert float(loss.detach()) == pytest.approx(wanted, rel=1e-4)
        layers = ("basic", "rows", "feature") if stage is inversion else (
            "basic", "middle", "enhanced")  # fmt: skip
        assert {f"l1_{layer}" for layer in layers} <= seen
        assert set(table) <= seen


def test_groups_of_hsc(networks: FaceNetworks, codes: FaceCodes) -> None:
    codec = HscCodec(tiny_widths(networks.widths, dense=True))
    stage = HscStage(networks, codec, codes, PLAN)
    check(rates(codec, stage.optimizer.param_groups), {
        "base_log_gain": 4e-3, "base_log_rescale": 4e-3, "detail_log_gain": 4e-3, "prior": 4e-3,
        "semantic.analysis.weight": 8e-6, "semantic.analysis_more.0": 8e-6,
        "semantic.analysis_more.2": 4e-5, "semantic.synthesis": 2e-5, "feature.down": 4e-4,
    })  # fmt: skip


def test_the_hsc_stage_by_hand(networks: FaceNetworks, codes: FaceCodes) -> None:
    codec = packaged_codec(PACKAGES / "test-hsc", HscCodec)
    assert codec is not None
    options = HscOptions(attribute_weight=10.0, label_weight=2.0)
    stage = HscStage(networks, codec, codes, PLAN, options, goes_on=True)
    stage.begin(np.random.default_rng(0))
    units = torch.arange(1.0, 9.0)
    stage.unit.get_buffer("rows_error").copy_(units)
    batch, quality = codes.at(torch.arange(3)), torch.tensor([0, 3, 7])
    torch.manual_seed(0)
    sent = codec(batch.rows, batch.feature, quality)
    terms = stage._errors(sent, batch, quality) | stage._answers(sent, batch)
    wanted = (stage.metric(sent.rows, batch.rows) / torch.tensor([1.0, 4.0, 8.0])).mean()
    assert float(terms["rows"]) == pytest.approx(float(wanted), rel=1e-5)
    share = ((sent.feature - batch.feature) / codec.feature.spread).square().mean()
    assert float(terms["feature"]) == pytest.approx(float(share), rel=1e-5)
    head, entropy = networks.head, nn.functional.binary_cross_entropy_with_logits
    truth = torch.sigmoid(head(batch.rows))
    divergence = entropy(head(sent.rows), truth) - entropy(head(batch.rows), truth)
    assert float(terms["attributes_base"]) == pytest.approx(10 * float(divergence), rel=1e-4)
    labels = 2 * entropy(head(sent.rows), batch.attributes)
    assert float(terms["labels"]) == pytest.approx(float(labels), rel=1e-5)
    prices = [torch.exp(control.log_multiplier)[quality] for control in stage.rates]
    stage.rates.eval()
    rate = (prices[0] * sent.noisy_bits[:, 0] + prices[1] * sent.noisy_bits[:, 1]).mean() / 8
    assert float(stage._rate(sent, quality)) == pytest.approx(float(rate), rel=1e-5)
    torch.manual_seed(1)
    loss, terms = stage.loss(np.random.default_rng(1), 0.0)
    torch.manual_seed(1)
    batch = codes.batch(4, rng := np.random.default_rng(1))
    quality = torch.from_numpy(rng.integers(8, size=4))
    rate = stage._rate(codec(batch.rows, batch.feature, quality), quality)
    total = torch.stack([*terms.values()]).sum() + rate
    assert float(loss) == pytest.approx(float(total), rel=1e-4)


def test_the_style_stage_by_hand(networks: FaceNetworks, codes: FaceCodes) -> None:
    codec = packaged_codec(PACKAGES / "test-sfic-style", StyleLayers)
    assert codec is not None
    stage = StyleLayersStage(networks, codec, codes.rows, PLAN, goes_on=True)
    stage.begin(np.random.default_rng(0))
    check(rates(codec, stage.optimizer.param_groups), {
        "analysis": None, "synthesis": 1e-4, "linear": 1e-5, "log_gain": 1e-2, "fixed": 1e-2,
    })  # fmt: skip
    rows, quality = codes.rows[:2], torch.tensor([1, 6])
    stage.start.get_buffer("errors").copy_(torch.arange(1.0, 25.0).view(8, 3))
    sent = codec(rows, quality)
    terms = stage._errors(sent, rows, quality)
    for layer, found in enumerate(sent.rows):
        unit = torch.tensor([4.0 + layer, 19.0 + layer])  # of qualities 1 and 6, counted from 0
        wanted = (stage.metric(found, rows) / unit).mean()
        assert float(terms[f"rows_{layer}"]) == pytest.approx(float(wanted), rel=1e-5)
    stage.basic_rate.eval()
    stage.later_rate.eval()
    first, later = (
        torch.exp(control.log_multiplier)[quality]
        for control in (stage.basic_rate, stage.later_rate)
    )
    bits = first * sent.noisy_bits[:, 0] + later * sent.noisy_bits[:, 1:].sum(1)
    assert float(stage._rate(sent, quality)) == pytest.approx(float(bits.mean()) / 8, rel=1e-5)
    targets = [torch.exp(c.log_target) for c in (stage.basic_rate, stage.later_rate)]
    assert (targets[0] + targets[1])[[0, 7]].tolist() == pytest.approx([60, 300])
