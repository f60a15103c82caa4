"""The checkerboard's networks: training twin equal to the runtime, means in step, export."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.entropy.context_network import OFFSETS, ContextNetwork, board_of  # noqa: E402
from cdvision.errors import ModelError  # noqa: E402
from cdvision.models.dicm.checkerboard_mean import CheckerboardMean, odd_cells  # noqa: E402
from cdvision.models.dicm.integer_checkerboard import (  # noqa: E402
    IntegerCheckerboard,
    build_checkerboard_network,
)
from cdvision.networks.quantisation import gaussian_bits, round_straight_through  # noqa: E402

CHANNELS, HYPER_CHANNELS, QUALITIES, LEVELS = 20, 12, 8, 64


@cache
def random_twin() -> IntegerCheckerboard:
    """Return a twin with random weights whose indices are spread over all scales."""
    torch.manual_seed(3)
    twin = IntegerCheckerboard(
        HYPER_CHANNELS, CHANNELS, qualities=QUALITIES, levels=LEVELS, bound=15
    )
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "bias" in name:
                parameter.add_(12 * torch.randn_like(parameter))
            elif name in ("first.weight", "second.weight"):
                parameter.copy_(0.12 * torch.randn_like(parameter))
    return twin


def indices(twin: IntegerCheckerboard, z: Tensor, symbols: Tensor, quality: Tensor) -> Tensor:
    """Return the table of every symbol, as both passes code them."""
    features, odd = twin.features(z, symbols), odd_cells(symbols)
    second = twin.second_index(features, symbols, quality)
    return twin.first_index(features, quality) * odd + second * (1 - odd)


def random_inputs(seed: int, height: int, width: int, count: int = 1) -> tuple[Tensor, Tensor]:
    """Hyper-latents and heavy-tailed symbols, integers in float32."""
    rng, size = np.random.default_rng(seed), (math.ceil(height / 4), math.ceil(width / 4))
    z = rng.integers(-15, 16, (count, HYPER_CHANNELS, *size))
    symbols = np.rint(2 * rng.standard_cauchy((count, CHANNELS, height, width)))
    return torch.from_numpy(z).float(), torch.from_numpy(symbols).float()


SIZES = [(9, 11), (1, 1), (4, 8), (5, 2), (1, 7), (8, 1), (13, 6), (12, 12)]


@pytest.mark.parametrize(("quality", "size"), list(enumerate(SIZES)))
def test_the_twin_equals_the_runtime(quality: int, size: tuple[int, int]) -> None:
    twin, network, board = random_twin(), runtime(), board_of(*size)
    z, symbols = random_inputs(quality, *size)
    with torch.no_grad():
        wanted = indices(twin, z, symbols, torch.tensor([quality]))[0]
        wanted = wanted.reshape(CHANNELS, -1).numpy()
    features = network.features(z[0].numpy().astype(np.int32), quality, size)
    odd = symbols[0].reshape(CHANNELS, -1).numpy().astype(np.int32)[:, board.odd]
    first = network.first_index(features, board, quality)
    second = network.second_index(features, odd, board, quality)
    assert np.array_equal(first, wanted[:, board.odd])
    assert np.array_equal(second, wanted[:, board.even])
    assert size != (12, 12) or len(np.unique(second)) > 48, "hardly any index was seen"


@cache
def runtime() -> ContextNetwork:
    return build_checkerboard_network(random_twin())


def test_images_of_a_batch_do_not_meet() -> None:
    z, symbols = random_inputs(0, 6, 10, count=3)
    quality = torch.tensor([0, 4, 7])
    with torch.no_grad():
        together = indices(random_twin(), z, symbols, quality)
        for i in range(3):
            one = slice(i, i + 1)
            alone = indices(random_twin(), z[one], symbols[one], quality[one])
            assert torch.equal(alone[0], together[i])


def test_no_proof_no_network() -> None:
    twin = IntegerCheckerboard(HYPER_CHANNELS, CHANNELS, qualities=2, levels=LEVELS, bound=15)
    build_checkerboard_network(twin)
    with torch.no_grad():
        twin.second_bias[1, 3] = 2.0**16
    with pytest.raises(ModelError, match="expected less than 2\\^24"):
        build_checkerboard_network(twin)


def test_gradients_reach_every_parameter_and_both_inputs() -> None:
    twin = random_twin()
    z, symbols = random_inputs(1, 8, 8, count=8)
    z, symbols = (x.clamp(-3, 3).requires_grad_() for x in (z, symbols))
    index = indices(twin, z, symbols, torch.arange(8))
    gradients = torch.autograd.grad(index.square().sum(), [*twin.parameters(), z, symbols])
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    to_symbols = gradients[-1].abs().sum(dim=(0, 1))
    odd = odd_cells(symbols)[0, 0].bool()
    assert (to_symbols[odd] > 0).all()
    assert (to_symbols[~odd] == 0).all()


def loud_patches(count: int, generator: torch.Generator) -> Tensor:
    """Symbols whose scale changes from patch to patch, by 1 to 40, and z is silent about it."""
    loudness = torch.rand((count, 1, 4, 4), generator=generator) * math.log(40.0)
    scale = torch.exp(nn.functional.interpolate(loudness, size=12, mode="bilinear"))
    return torch.round(torch.randn((count, 4, 12, 12), generator=generator) * scale)


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW: it trains")
def test_context_lowers_the_rate_of_the_second_pass() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden": 4, "features": 4, "told": 4, "context": 16}
    twin = IntegerCheckerboard(2, 4, qualities=1, levels=LEVELS, bound=15, **sizes)
    for bias in (twin.first_bias, twin.second_bias):
        nn.init.constant_(bias, 32.0)
    optimiser = torch.optim.Adam(
        [{"params": [p], "lr": 0.5 if "bias" in n else 0.01} for n, p in twin.named_parameters()]
    )

    def bits(symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Bits a symbol of even cells: from z alone, and from odd neighbours too."""
        quality, even = torch.zeros(len(symbols), dtype=torch.int64), 1 - odd_cells(symbols)
        features = twin.features(torch.zeros(len(symbols), 2, 3, 3), symbols)
        alone = twin.first_index(features, quality)
        informed = twin.second_index(features, symbols, quality)
        rates = [gaussian_bits(symbols, 0.11 * torch.exp(0.101 * i)) for i in (alone, informed)]
        return tuple((2 * rate * even).mean() for rate in rates)

    for _ in range(100):
        optimiser.zero_grad()
        sum(bits(loud_patches(16, generator))).backward()
        optimiser.step()
    with torch.no_grad():
        alone, informed = bits(loud_patches(256, generator))
    assert informed < 0.93 * alone


def mean_network(channels: int = 3) -> CheckerboardMean:
    torch.manual_seed(0)
    module = CheckerboardMean(channels, QUALITIES, hidden=5)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return module.eval().requires_grad_(False)


def means(module: CheckerboardMean, base: Tensor, latents: Tensor) -> list[Tensor]:
    """What the module asks to resolve: the means of both phases, each of the whole map."""
    asked: list[Tensor] = []

    def resolve(mean: Tensor, phase: int) -> Tensor:
        assert phase == len(asked)
        asked.append(mean)
        return latents

    module(base, torch.tensor([5]), resolve)
    return asked


def test_second_means_depend_on_odd_neighbours_and_first_means_on_none() -> None:
    module, base = mean_network(), torch.randn(1, 3, 7, 8)
    values, reached = torch.randn(1, 3, 7, 8), set()
    before = means(module, base, values)
    assert torch.equal(before[0], base)
    for row in range(7):
        for column in range(8):
            changed = values.clone()
            changed[:, :, row, column] += 1
            moved = (means(module, base, changed)[1] != before[1])[0].any(0)
            moved &= odd_cells(values)[0, 0] == 0
            steps = {(row - int(r), column - int(c)) for r, c in torch.nonzero(moved)}
            assert (row + column) % 2 or not steps
            reached |= steps
    assert reached == set(OFFSETS)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1)])
def test_sender_and_receiver_resolve_the_same_latents(size: tuple[int, int]) -> None:
    module, quality = mean_network(), torch.tensor([2])
    base, latents = torch.randn(1, 3, *size), 5 * torch.randn(1, 3, *size)
    odd, symbols = odd_cells(base), torch.zeros_like(base)

    def send(mean: Tensor, phase: int) -> Tensor:
        rounded = torch.round(latents - mean)
        symbols.add_(rounded * (odd if phase == 0 else 1 - odd))
        return rounded + mean

    sent = module(base, quality, send)
    received = module(base, quality, lambda mean, phase: symbols + mean)
    assert torch.allclose(sent, received, atol=1e-5)
    assert (received - latents).abs().max() <= 0.5 + 1e-4


def test_at_first_the_mean_is_that_of_the_direct_neighbours() -> None:
    module = CheckerboardMean(2, 1)
    nn.init.zeros_(module.linear.bias)
    latents = torch.full((1, 2, 5, 5), 8.0)
    asked: list[Tensor] = []

    def resolve(mean: Tensor, phase: int) -> Tensor:
        asked.append(mean)
        return latents

    module(torch.zeros_like(latents), torch.tensor([0]), resolve)
    assert asked[1][0, :, 2, 2].tolist() == pytest.approx([0.3 * 8.0] * 2)
    in_the_corner = asked[1][0, 0, 0, 0].item()  # two of the four are not there
    assert in_the_corner == pytest.approx(0.3 * 4.0)


class Sender(nn.Module):
    """Everything that a graph needs of a checkerboard, in one."""

    def __init__(self) -> None:
        super().__init__()
        self.indices, self.mean = random_twin(), mean_network(CHANNELS)

    def forward(self, z: Tensor, latents: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        features = self.indices.features(z, latents)
        sent = self.indices.first_index(features, quality) > 0

        def resolve(mean: Tensor, phase: int) -> Tensor:
            return round_straight_through(latents - mean) * sent + mean

        decoded = self.mean(torch.zeros_like(latents), quality, resolve)
        return decoded, self.indices.second_index(features, latents, quality)


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW: an export")
def test_exported_with_dynamic_sizes_it_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, any_size = Sender().eval(), torch.export.Dim.DYNAMIC
    z, latents = random_inputs(0, 8, 12, count=2)
    map_shape = {0: any_size, 2: any_size, 3: any_size}
    shapes = (map_shape, map_shape, {0: any_size})
    program = torch.onnx.export(
        module, (z, latents, torch.tensor([1, 2])), dynamo=True, dynamic_shapes=shapes,
        input_names=["z", "latents", "quality"], opset_version=18, optimize=False,
        verbose=False,
    )  # fmt: skip
    program.save(tmp_path / "graph.onnx")
    session = runtime.InferenceSession(tmp_path / "graph.onnx")
    for seed, size in enumerate([(8, 12), (5, 7), (1, 2)]):
        z, latents = random_inputs(seed, *size)
        given = {"z": z.numpy(), "latents": latents.numpy(), "quality": np.array([seed])}
        decoded, index = session.run(None, given)
        with torch.no_grad():
            wanted = module(z, latents, torch.tensor([seed]))
        assert np.array_equal(index, wanted[1].numpy())
        near = np.abs(decoded - wanted[0].numpy()) <= 1e-4 * (1 + np.abs(decoded))
        assert near.mean() > 0.99  # a value on the edge of rounding may fall either way
