"""DICM's networks: every size of METHODS.md 1.1, their details, their cost, and their export."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cdvision.cli.command_line import command_line
from cdvision.errors import ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from cdvision.models.dicm.autoencoders import (  # noqa: E402
    FeatureAnalysis,
    FeatureSynthesis,
    RedundancyDecoder,
    RedundancyEncoder,
)
from cdvision.models.dicm.conv2former import (  # noqa: E402
    ChannelNorm,
    Conv2FormerBlock,
    LayerScale,
)
from cdvision.models.dicm.hornet import (  # noqa: E402
    GatedConvolution,
    GlobalLocalFilter,
    HorNetBlock,
)
from cdvision.models.dicm.transformer import (  # noqa: E402
    HyperEncoder,
    RelativePosition,
    SparseAttention,
    TransformerBlock,
)
from cdvision.networks.cost import cost_table, count  # noqa: E402

# METHODS.md section 1.1, "Size and cost": million parameters and GMAC at 256 x 256.
PUBLISHED = {
    "ResNet head": (0.23, 1.0),
    "RE encoder": (1.36, 1.47),
    "RE decoder": (2.28, 2.60),
    "codec encoder": (3.49, 5.11),
    "codec decoder": (3.53, 5.09),
    "hyper-encoder": (8.13, 0.80),
}
# Of the same table: the paper's float entropy model, which ours has in integers.
REPLACED = {"hyper-decoder": 1.10, "context transformer": 3.19, "parameter network": 0.45}


@pytest.fixture(scope="module")
def parts() -> dict[str, nn.Module]:
    """One network of each kind, without memory for its weights: shapes only."""
    with torch.device("meta"):
        return {
            "re_encoder": RedundancyEncoder(),
            "re_decoder": RedundancyDecoder(),
            "analysis": FeatureAnalysis("filter"),
            "synthesis": FeatureSynthesis("filter"),
            "hyper_encoder": HyperEncoder(),
        }


def blank(channels: int, height: int, width: int, batch: int = 2) -> Tensor:
    return torch.zeros(batch, channels, height, width, device="meta")


@pytest.mark.parametrize(("height", "width"), [(256, 256), (192, 320)])
def test_every_tensor_has_the_published_shape(
    parts: dict[str, nn.Module], height: int, width: int
) -> None:
    def at(stride: int) -> tuple[int, int]:
        return height // stride, width // stride

    f1 = blank(256, *at(4))
    y1 = parts["re_encoder"](f1)
    assert y1.shape == (2, 192, *at(32))
    assert parts["re_decoder"](y1).shape == f1.shape
    for spatial in ("filter", "depthwise"):
        with torch.device("meta"):
            analysis, synthesis = FeatureAnalysis(spatial), FeatureSynthesis(spatial)
        y2 = analysis(f1)
        assert y2.shape == (2, 192, *at(16))
        assert synthesis(y2).shape == f1.shape
    z = parts["hyper_encoder"](y2)
    assert z.shape == (2, 192, *at(64))


class TestConv2Former:
    def test_norm_is_a_layer_norm_over_channels(self) -> None:
        # In float64: beside a mean of 7 float32 leaves three digits of such a deviation.
        x = 1e-3 * torch.randn(2, 5, 3, 4, dtype=torch.float64) + 7
        norm = ChannelNorm(5).double()
        norm.weight.data.uniform_(0.5, 2.0)
        norm.bias.data.normal_()
        centred = x - x.mean(1, keepdim=True)
        wanted = centred / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        wanted = wanted * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(norm(x), wanted, rtol=1e-6, atol=1e-6)

    def test_block_computes_what_the_paper_says(self) -> None:
        block = Conv2FormerBlock(4)
        for scale in (block.modulation[2], block.mlp[2]):
            scale.weight.data.uniform_(0.5, 1.5)
        modulation, mlp = block.modulation[1], block.mlp[1]
        x = torch.randn(1, 4, 6, 5)
        n = block.modulation[0](x)
        one, gelu, wide = modulation.attention
        a = F.conv2d(gelu(one(n)), wide.weight, wide.bias, padding=5, groups=4)
        y = x + block.modulation[2].weight.view(4, 1, 1) * modulation.project(
            a * modulation.values(n)
        )
        h = F.gelu(mlp.expand(block.mlp[0](y)))
        near = F.conv2d(h, mlp.position.weight, mlp.position.bias, padding=1, groups=16)
        wanted = y + block.mlp[2].weight.view(4, 1, 1) * mlp.project(h + F.gelu(near))
        torch.testing.assert_close(block(x), wanted)
        assert wide.weight.shape == (4, 1, 11, 11)
        assert mlp.expand.out_channels == 16

    def test_a_new_block_is_all_but_the_identity(self) -> None:
        for block in (Conv2FormerBlock(8), HorNetBlock(8, 2), HorNetBlock(8, 3, spatial="filter")):
            scales = [m for m in block.modules() if isinstance(m, LayerScale)]
            assert [scale.weight.tolist() for scale in scales] == [[pytest.approx(1e-6)] * 8] * 2
            x = torch.randn(1, 8, 12, 12)
            torch.testing.assert_close(block(x), x, rtol=0, atol=1e-4)


class TestRedundancyElimination:
    def test_layers_are_the_published_ones(self, parts: dict[str, nn.Module]) -> None:
        def outline(module: nn.Module) -> list[Any]:
            found: list[Any] = []
            for layer in module.layers.children():
                if isinstance(layer, nn.Sequential):
                    found.append(len(layer))
                elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    found.append((layer.in_channels, layer.out_channels, *layer.kernel_size[:1],
                                  *layer.stride[:1]))  # fmt: skip
                else:
                    found.append((type(layer), layer.epsilon, len(layer.weight)))
            return found

        norm, last = (ChannelNorm, 1e-6, 128), (ChannelNorm, 1e-6, 192)
        down, up = (128, 128, 3, 2), (128, 128, 5, 2)
        assert outline(parts["re_encoder"]) == [
            (256, 128, 1, 1), 1, down, norm, 1, down, norm, 2, (128, 192, 3, 2), last
        ]  # fmt: skip
        assert outline(parts["re_decoder"]) == [
            (192, 128, 5, 2), norm, 1, up, norm, 1, up, norm, 2, (128, 256, 1, 1)
        ]  # fmt: skip
        for layer in parts["re_decoder"].modules():
            if isinstance(layer, nn.ConvTranspose2d):
                assert (layer.padding, layer.output_padding) == ((2, 2), (1, 1))

    def test_weights_start_from_a_narrow_normal_distribution(self) -> None:
        encoder = RedundancyEncoder()
        convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
        spreads = [conv.weight.std().item() for conv in convs]
        assert spreads == pytest.approx([0.02] * len(convs), rel=0.1)
        assert not any(conv.bias.any() for conv in convs)
        y = encoder.eval()(torch.rand(1, 256, 16, 16))
        torch.testing.assert_close(y.std(1), torch.ones(1, 2, 2), rtol=0.01, atol=0)


class TestHorNet:
    @pytest.mark.parametrize(
        ("channels", "order", "ladder"),
        [
            (256, 2, (128, 256)),
            (128, 3, (32, 64, 128)),
            (192, 4, (24, 48, 96, 192)),
            (256, 4, (32, 64, 128, 256)),
            (192, 2, (96, 192)),
        ],
    )
    def test_ladder(self, channels: int, order: int, ladder: tuple[int, ...]) -> None:
        with torch.device("meta"):
            gated = GatedConvolution(channels, order, spatial="depthwise")
        assert gated.ladder == ladder
        assert gated.project_in.out_channels == 2 * channels == ladder[0] + sum(ladder)
        assert gated.spatial.weight.shape == (sum(ladder), 1, 7, 7)
        steps = [(step.in_channels, step.out_channels) for step in gated.climb]
        assert steps == list(pairwise(ladder))

    def test_the_codec_uses_each_order_where_the_paper_does(
        self, parts: dict[str, nn.Module]
    ) -> None:
        def blocks(module: nn.Module) -> list[Any]:
            gated = [m for m in module.modules() if isinstance(m, GatedConvolution)]
            drops = [m.drop.p for m in module.modules() if isinstance(m, HorNetBlock)]
            return [
                (g.ladder[-1], len(g.ladder), isinstance(g.spatial, GlobalLocalFilter), drop)
                for g, drop in zip(gated, drops, strict=True)
            ]

        assert blocks(parts["analysis"]) == [
            (256, 2, False, 0), (128, 3, False, 0.25), (192, 4, True, 0.5)
        ]  # fmt: skip
        assert blocks(parts["synthesis"]) == [
            (192, 2, False, 0), (128, 3, False, 0.25), (256, 4, True, 0.5)
        ]  # fmt: skip

    @pytest.mark.parametrize("order", [2, 3, 4])
    def test_gated_convolution_is_a_product_of_neighbourhoods(self, order: int) -> None:
        gated = GatedConvolution(16, order, spatial="depthwise")
        x = torch.randn(1, 16, 5, 6)
        p, q = gated.project_in(x).tensor_split([gated.ladder[0]], dim=1)
        conv = gated.spatial
        q = F.conv2d(q, conv.weight, conv.bias, padding=3, groups=len(conv.weight)) / 3
        start = 0
        for k, width in enumerate(gated.ladder):
            if k > 0:
                p = gated.climb[k - 1](p)
            p = p * q[:, start : start + width]
            start += width
        torch.testing.assert_close(gated(x), gated.project_out(p))

    def test_a_flat_spectrum_is_the_identity_for_the_global_half(self) -> None:
        layer = GlobalLocalFilter(6)
        assert layer.spectrum.shape == (3, 24, 13, 2)
        layer.spectrum.data[..., 0], layer.spectrum.data[..., 1] = 1.0, 0.0
        x = torch.randn(2, 6, 7, 10)  # an odd side too
        torch.testing.assert_close(layer._filter(x[:, 3:]), x[:, 3:])
        n = layer.norm_in(x)
        halves = layer.local(n[:, :3]), n[:, 3:]
        interleaved = [half[:, i] for i in range(3) for half in halves]
        torch.testing.assert_close(layer(x), layer.norm_out(torch.stack(interleaved, 1)))

    def test_the_lowest_frequency_stays_the_lowest_at_any_size(self) -> None:
        layer = GlobalLocalFilter(2)
        layer.spectrum.data.zero_()
        layer.spectrum.data[0, 0, 0, 0] = 2.0
        for size in ((24, 24), (9, 40)):
            x = torch.randn(1, 1, *size)
            mean = layer._filter(x).mean()
            torch.testing.assert_close(mean, 2 * x.mean(), rtol=1e-3, atol=1e-5)

    def test_stochastic_depth_leaves_branches_out_in_training_only(self) -> None:
        torch.manual_seed(0)
        block = HorNetBlock(4, 2, drop=0.5)
        for module in block.modules():
            if isinstance(module, LayerScale):
                module.weight.data.fill_(1.0)
        x = torch.randn(1, 4, 8, 8).expand(32, -1, -1, -1)
        trained = block(x)
        untouched = (trained == x).flatten(1).all(1)
        assert 1 <= untouched.sum() <= 20  # a quarter of 32 on average
        torch.testing.assert_close(block.eval()(x), block(x[:1]).expand_as(x))


class TestTransformer:
    @pytest.mark.parametrize(("side", "near"), [(7, 25), (5, 13)])
    def test_far_offsets_share_one_vector(self, side: int, near: int) -> None:
        position = RelativePosition(side, 4)
        assert position.table.shape == (side * side, 4)
        index = position.offsets(9, 10, torch.device("cpu"))
        own: dict[int, tuple[int, int]] = {}
        for query in range(90):
            for key in range(90):
                down, right = key // 10 - query // 10, key % 10 - query % 10
                row = int(index[query, key])
                if abs(down) + abs(right) > side // 2:
                    assert row == 0
                else:
                    assert own.setdefault(row, (down, right)) == (down, right)
        assert len(own) == near
        assert 0 not in own

    @pytest.mark.parametrize("keep", [3, 50])
    def test_attention_is_dense_attention_to_the_strongest_keys(self, keep: int) -> None:
        torch.manual_seed(0)
        attention = SparseAttention(7).requires_grad_(False)
        attention.position.table.data.normal_()
        tokens, size = torch.randn(2, 20, 384), (4, 5)
        q, k, v = attention.project_in(tokens).view(2, 20, 3, 6, 64).permute(2, 0, 3, 1, 4)
        vectors = attention.position.table[attention.position.offsets(*size, tokens.device)]
        scores = torch.einsum("bhqc,bhkc->bhqk", q, k) + torch.einsum("bhqc,qkc->bhqk", q, vectors)
        scores = scores / 384**0.5
        for row in scores.reshape(-1, 20):
            row[row.argsort(descending=True)[keep:]] = -torch.inf
        mixed = torch.einsum("bhqk,bhkc->bqhc", scores.softmax(-1), v).reshape(2, 20, 384)
        torch.testing.assert_close(attention(tokens, size, keep), attention.project_out(mixed))

    def test_sizes_of_a_block(self) -> None:
        with torch.device("meta"):
            block = TransformerBlock(7)
        assert block.attention.project_in.weight.shape == (3 * 384, 384)
        assert block.attention.position.table.shape == (49, 384 // 6)
        assert block.mlp[1].weight.shape == (4 * 384, 384)
        assert block.mlp[2].negative_slope == 0.2

    def test_fewer_keys_at_coarser_scales(self, parts: dict[str, nn.Module]) -> None:
        seen: list[tuple[int, int]] = []

        def note(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append((2 * block.attention.position.radius + 1, inputs[1]))

        blocks = parts["hyper_encoder"].blocks
        hooks = [block.register_forward_pre_hook(note) for block in blocks]
        parts["hyper_encoder"].eval()(blank(192, 16, 16))
        assert seen == [(7, 32), (5, 16), (5, 8)]
        seen.clear()
        for _ in range(40):
            parts["hyper_encoder"].train()(blank(192, 4, 4))
        finest = [keep for side, keep in seen if side == 7]
        assert (min(finest) >= 16, max(finest) < 64, len(set(finest)) > 10) == (True,) * 3
        for hook in hooks:
            hook.remove()


class TestCost:
    def test_every_part_costs_what_the_dossier_says(self) -> None:
        table = {cost.part: cost for cost in cost_table("dicm")}
        for part, (parameters, multiply_adds) in PUBLISHED.items():
            assert table[part].parameters / 1e6 == pytest.approx(parameters, rel=0.05), part
            assert table[part].multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.05), part

    def test_integers_cost_a_tenth_of_the_transformers_that_they_replace(self) -> None:
        ours = next(cost for cost in cost_table("dicm") if cost.part == "tables and means")
        assert ours.sides == ("sender", "receiver")
        assert 0 < ours.multiply_adds / 1e9 < sum(REPLACED.values()) / 10

    def test_the_short_profile_is_cheap_to_send(self) -> None:
        sender = [cost for cost in cost_table("dicm-re", 192, 256) if "sender" in cost.sides]
        assert sum(c.multiply_adds for c in sender) / 1e9 == pytest.approx(0.75 * 2.5, rel=0.05)
        assert sum(c.parameters for c in sender) / 1e6 == pytest.approx(1.7, rel=0.1)

    def test_layers_are_counted_as_the_textbook_does(self) -> None:
        x = torch.zeros(1, 6, 8, 10)
        cases: list[tuple[nn.Module, Tensor, int]] = [
            (nn.Conv2d(6, 4, 5, 2, 2), x, 4 * 5 * 4 * 6 * 25),
            (nn.Conv2d(6, 6, 3, 1, 1, groups=6), x, 8 * 10 * 6 * 9),
            (nn.ConvTranspose2d(6, 4, 5, 2, 2, 1), x, 8 * 10 * 6 * 4 * 25),
            (nn.Linear(10, 3), x, 6 * 8 * 10 * 3),
            (nn.LayerNorm(10), x, 0),
        ]
        for layer, given, wanted in cases:
            parameters = sum(parameter.numel() for parameter in layer.parameters())
            assert count(layer, given) == (parameters, wanted)

    def test_convolutions_cost_in_proportion_to_pixels(self) -> None:
        whole, half = (cost_table("small", 256, width) for width in (256, 128))
        assert half[0].multiply_adds * 2 == whole[0].multiply_adds > 1e7

    @pytest.mark.parametrize("size", [(0, 256), (256, 100)])
    def test_an_impossible_size_is_refused(self, size: tuple[int, int]) -> None:
        with pytest.raises(ModelError, match="multiples of 64 pixels"):
            cost_table("dicm", *size)

    def test_command_prints_the_table(self) -> None:
        text = CliRunner().invoke(command_line, ["models", "--cost", "dicm"]).stdout
        rows = dict.fromkeys(PUBLISHED) | {"ResNet tail": None, "all that a sender runs": None}
        assert all(f"\n{row}  " in text for row in rows)
        lines = CliRunner().invoke(command_line, ["models", "--cost", "small", "--json"]).stdout
        records = [json.loads(line) for line in lines.splitlines()]
        assert records[0].keys() == {"part", "sides", "parameters", "multiply_adds"}

    def test_command_says_what_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = CliRunner().invoke(command_line, ["models", "--cost", "dicn"])
        assert answer.exit_code == 2
        assert (
            "'dicn': expected one of small, small-next, dicm, dicm-re, dicm-light" in answer.stderr
        )
        monkeypatch.setitem(sys.modules, "cdvision.networks.cost", None)
        answer = CliRunner().invoke(command_line, ["models", "--cost", "dicm"])
        assert answer.exit_code == 2
        assert "pip install 'cdvision[torch]'" in answer.stderr


def started(module: nn.Module) -> nn.Module:
    """Give every residual branch weight, or a block could compute anything and still agree."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, LayerScale):
            part.weight.data.normal_(generator=generator)
        if isinstance(part, RelativePosition):
            part.table.data.normal_(generator=generator)
    return module.eval().requires_grad_(False)


def check_parity(module: nn.Module, channels: int, shapes: list[tuple[int, int]]) -> None:
    """Export once, at another batch and size than those compared."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module, (torch.rand(2, channels, *shapes[0]),), dynamo=True, opset_version=18,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},), input_names=["x"],
        optimize=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for number, shape in enumerate(shapes[1:]):
        x = torch.rand(1 + number, channels, *shape)
        (found,) = session.run(None, {"x": x.numpy()})
        wanted = module(x).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW: an export")
def test_every_kind_of_layer_exports() -> None:
    """One small graph of all that the five networks below are made of."""
    torch.manual_seed(0)

    class Transformer(TransformerBlock):
        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            return super().forward(x, keep=16)

    graph = nn.Sequential(
        Conv2FormerBlock(8), nn.Conv2d(8, 16, 3, 2, 1), ChannelNorm(16), HorNetBlock(16, 4),
        nn.ConvTranspose2d(16, 16, 5, 2, 2, 1), Transformer(5, width=16, heads=2),
    )  # fmt: skip
    check_parity(started(graph), 8, [(4, 6), (2, 2), (8, 4)])


NETWORKS: list[tuple[Callable[[], nn.Module], int, int]] = [
    (RedundancyEncoder, 256, 16),
    (RedundancyDecoder, 192, 2),
    (FeatureAnalysis, 256, 16),
    (FeatureSynthesis, 192, 4),
    (HyperEncoder, 192, 4),
]


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW: half a minute")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("network", "channels", "unit"), NETWORKS)
def test_every_network_exports(network: Callable[[], nn.Module], channels: int, unit: int) -> None:
    """``unit`` is 64 pixels; the sizes are 64 x 64 and 192 x 128."""
    torch.manual_seed(0)
    sizes = [(2 * unit, 3 * unit), (unit, unit), (3 * unit, 2 * unit)]
    check_parity(started(network()), channels, sizes)
