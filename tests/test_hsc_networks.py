"""The networks of hsc: training twin equal to the runtime, both ends in step, sizes, gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from stylegan2_widths import stylegan2_widths  # noqa: E402
from torch import Tensor  # noqa: E402

from cdvision.entropy.coder import Symbols  # noqa: E402
from cdvision.entropy.tables import SymbolTables  # noqa: E402
from cdvision.errors import CdvisionError, ModelError  # noqa: E402
from cdvision.models.faces.hsc import BASE_BOUND, HscCodec  # noqa: E402
from cdvision.models.faces.hsc_transforms import SemanticNetwork  # noqa: E402
from cdvision.models.faces.integer_slices import base_tables, build_slice_networks  # noqa: E402
from cdvision.models.faces.inversion_encoder import InversionCodes  # noqa: E402
from cdvision.models.faces.receiver.hsc import HscCoder  # noqa: E402
from cdvision.models.faces.widths import (  # noqa: E402
    FACE,
    FACE_TINY,
    HscWidths,
    our_widths,
    paper_widths,
    tiny_widths,
)
from cdvision.networks.scales import QUALITIES  # noqa: E402

KINDS = pytest.mark.parametrize("dense", [False, True], ids=["convolutions", "dense"])
BIG_FEATURE = replace(FACE_TINY, feature_side=16)  # two steps from the base's 2x2 to the detail


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def random_codec(dense: bool) -> HscCodec:
    """Return a codec with random weights whose symbols and indices are spread widely."""
    torch.manual_seed(3)
    codec = HscCodec(tiny_widths(BIG_FEATURE, dense=dense)).eval()
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "gain" in name:
                parameter.add_(1.5 + 0.3 * torch.randn_like(parameter))
            elif "scales" in name and "bias" in name:
                parameter.add_(9 * torch.randn_like(parameter))
            elif "third" in name or "means" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        codec.base_log_rescale.copy_(-codec.base_log_gain)
        codec.detail_log_rescale.copy_(-codec.detail_log_gain)
        codec.scales.index_bias.add_(18)
        codec.prior.log_scale.copy_(
            torch.linspace(-4, 2, codec.widths.base)[:, None].expand(codec.prior.log_scale.shape)
        )
        codec.prior.location.mul_(0.1)
    return codec


@cache
def coder_of(dense: bool) -> HscCoder:
    return random_codec(dense).build_coder()


def random_codes(seed: int, count: int) -> InversionCodes:
    generator, w = torch.Generator().manual_seed(seed), random_codec(False).widths
    rows = torch.randn((count, w.rows, w.style), generator=generator)
    size = (count, w.features, w.feature_side, w.feature_side)
    return InversionCodes(rows, torch.randn(size, generator=generator), rows[:, 0])


def integers(tensor: Tensor) -> Symbols:
    return tensor.numpy().astype(np.int32)


@KINDS
@pytest.mark.parametrize("quality", range(QUALITIES))
def test_the_twin_equals_the_runtime(dense: bool, quality: int) -> None:
    codec, coder = random_codec(dense), coder_of(dense)
    rng, shapes = np.random.default_rng(quality), coder.shapes
    base = rng.integers(-BASE_BOUND, BASE_BOUND + 1, shapes["base"]).astype(np.int32)
    loud = np.rint(2 * rng.standard_cauchy(shapes["detail"])).astype(np.int32)
    kept = coder.received({"base": base, "detail": loud}, quality)
    seen: list[NDArray[np.integer]] = []

    def code(part: Any, index: NDArray[np.integer], tables: SymbolTables) -> Symbols:
        assert tables is coder.symbol_tables
        seen.append(index)
        return kept["detail"][part]

    coder._code_layer(1, {"base": kept["base"]}, quality, code)
    tensors = [torch.from_numpy(part).float()[None] for part in kept.values()]
    with torch.no_grad():
        wanted = codec.scales(*tensors, torch.tensor([quality]))[0].numpy()
    assert np.array_equal(np.concatenate(seen), wanted)
    assert len(np.unique(wanted)) > 12, "hardly any index was seen"


@KINDS
def test_what_is_decoded_is_what_was_sent(dense: bool) -> None:
    codec, coder = random_codec(dense), coder_of(dense)
    codes, quality = random_codes(1, QUALITIES), torch.arange(QUALITIES)
    with torch.no_grad():
        sent = codec.encode(codes, quality)
        trained = codec(codes.rows, codes.feature, quality)
    for face in range(QUALITIES):
        latents = {name: integers(part[face]) for name, part in sent.items()}
        kept = coder.decode(coder.encode(latents, face), face, coder.shapes)
        silent = latents["base"] != kept["base"]
        assert silent.any(axis=(1, 2)).sum() <= codec.widths.base // 2
        if not silent.any():  # else scales, and so skipped symbols, may be others
            assert np.array_equal(kept["detail"], latents["detail"])
    with torch.no_grad():
        decoded = codec.decode(sent, 1 + quality % 2, quality)
        base = codec.decode_base(sent["base"], quality)
    assert decoded.feature is not None
    assert torch.allclose(decoded.rows, trained.rows, atol=1e-4)
    assert torch.allclose(decoded.feature[0], trained.feature, atol=1e-3)
    assert decoded.feature[1].tolist() == [False, True] * (QUALITIES // 2)
    assert torch.equal(base.rows, decoded.rows)
    assert base.feature is None
    assert torch.unique(sent["detail"]).numel() > 5


def test_faces_of_a_batch_do_not_meet() -> None:
    codec, codes = random_codec(True), random_codes(2, 3)
    quality = torch.tensor([0, 4, 7])
    with torch.no_grad():
        together = codec.encode(codes, quality)
        for i in range(3):
            one = InversionCodes(*(part[i : i + 1] for part in codes))
            alone = codec.encode(one, quality[i : i + 1])
            assert torch.equal(alone["base"][0], together["base"][i])
            difference = alone["detail"][0] - together["detail"][i]
            assert difference.abs().max() <= 1  # floats may tie


@KINDS
def test_gradients_reach_every_parameter(dense: bool) -> None:
    torch.manual_seed(0)
    codec = HscCodec(tiny_widths(BIG_FEATURE, dense=dense)).train()
    with torch.no_grad():
        for parameter in codec.parameters():  # leave the zeros of the start
            parameter.add_(0.05 * torch.randn_like(parameter))
        codec.base_log_gain.add_(1.0)
        codec.detail_log_gain.add_(1.0)
        codec.scales.index_bias.add_(20)
    rows, feature, _ = random_codes(7, QUALITIES)
    sent = codec(rows, feature, torch.arange(QUALITIES))
    errors = (sent.rows - rows).square().mean() + (sent.feature - feature).square().mean()
    (errors + sent.noisy_bits.sum(1).mean()).backward()
    missing = [n for n, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_no_proof_no_network() -> None:
    twin = HscCodec(tiny_widths()).scales
    build_slice_networks(twin)
    with torch.no_grad():
        twin.index_bias[1, 3, 0] = 2.0**16
    with pytest.raises(ModelError, match="expected less than 2\\^24"):
        build_slice_networks(twin)


def test_concentrated_channels_cost_nothing_and_tables_are_cut_where_nothing_is() -> None:
    tables = base_tables(random_codec(True).prior)
    silent = (tables.low == 0) & (tables.high == 0)
    assert 0 < silent.sum() < len(tables)
    assert tables.estimate_bits(np.zeros(int(silent.sum()), int), np.flatnonzero(silent)) == 0
    width = tables.high.astype(int) - tables.low
    assert width.max() > 20
    assert width[~silent].min() < 12
    assert not tables.has_escapes


def test_the_methods_own_sizes() -> None:
    widths = paper_widths(stylegan2_widths(1024))
    assert (widths.image_channels, widths.image_side, widths.detail_side) == (9, 32, 8)
    assert (widths.base, widths.detail, widths.slices, widths.slice_channels) == (192, 192, 8, 24)
    ours = our_widths(FACE)
    assert (ours.image_channels, ours.image_side, ours.detail_side) == (3, 32, 8)
    network = SemanticNetwork(replace(widths, semantic=2, base=3))
    y = network.analyse(torch.zeros(1, 18, 512))
    assert y.shape == (1, 3, 2, 2)
    assert network.synthesise(y).shape == (1, 18, 512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detail": 9}, "9 channels do not cut into 4 slices"),
        ({"rows": 3, "style": 5}, "15 values of style"),
        ({"feature_side": 4}, "a feature of 4 cells"),
        ({"rows": 1, "style": 16, "feature_side": 16}, "no smaller than the detail's map"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    widths: HscWidths = tiny_widths()
    with pytest.raises(CdvisionError, match=message):
        replace(widths, **change)
