"""Integer attention: equal to 64-bit arithmetic and to its training twin, with proofs that bite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdvision.entropy.integer_attention import (
    MAX_TOKENS,
    TOKEN_BOUND,
    IntegerBlock,
    exponent_table,
    largest_attended,
    linear_arrays,
    linear_from,
)
from cdvision.entropy.integer_network import EXACT_LIMIT, IntegerLayer
from cdvision.errors import ModelError
from cdvision.models.faces.scale_transformer import IntegerLinear, IntegerTransformerBlock

Int64 = NDArray[np.int64]
WIDTH, HEADS, HIDDEN = 8, 2, 12


def linear(
    rng: np.random.Generator, out: int, inputs: int, low: int, high: int, *, extreme: bool
) -> IntegerLayer:
    ends = np.array([-128, 127])
    weight = rng.choice(ends, (out, inputs)) if extreme else rng.integers(-90, 91, (out, inputs))
    bias = rng.integers(-3000, 3000, (1, out)).astype(np.int32)
    return IntegerLayer(weight.astype(np.int8)[:, :, None, None], bias, 7, low, high)


def random_block(seed: int, *, extreme: bool = False, width: int = WIDTH) -> IntegerBlock:
    rng = np.random.default_rng(seed)

    def drawn(out: int, inputs: int, low: int, high: int) -> IntegerLayer:
        return linear(rng, out, inputs, low, high, extreme=extreme)

    return IntegerBlock(
        project_in=drawn(3 * width, width, -127, 127),
        project_out=drawn(width, width, -255, 255),
        expand=drawn(HIDDEN, width, 0, 127),
        contract=drawn(width, HIDDEN, -255, 255),
        heads=HEADS,
        shift=7,
        exponents=exponent_table(),
    )


def random_tokens(seed: int, tokens: int, width: int = WIDTH, *, extreme: bool = False) -> Int64:
    rng = np.random.default_rng(seed)
    if extreme:
        return rng.choice([-TOKEN_BOUND, TOKEN_BOUND], (tokens, width))
    return rng.integers(-TOKEN_BOUND, TOKEN_BOUND + 1, (tokens, width))


def int64_linear(layer: IntegerLayer, x: Int64) -> Int64:
    total = x @ layer.weight[:, :, 0, 0].astype(np.int64).T + layer.bias[0]
    return np.clip((total + 2 ** (layer.shift - 1)) >> layer.shift, layer.low, layer.high)


def int64_attention(block: IntegerBlock, projected: Int64, known: int) -> Int64:
    queries, keys, values = np.split(projected, 3, axis=1)
    found = []
    for part in np.split(np.arange(block.width), block.heads):
        scores = queries[:, part] @ keys[:known, part].T
        scores = (scores + 2 ** (block.shift - 1)) >> block.shift
        distance = scores.max(axis=1, keepdims=True) - scores
        exponents = block.exponents.astype(np.int64)[np.minimum(distance, len(block.exponents) - 1)]
        mass = exponents.sum(axis=1, keepdims=True)
        weights = (512 * exponents + mass) // (2 * mass)
        assert weights.sum(axis=1).max() <= 256 + known // 2
        found.append((weights @ values[:known, part] + 128) >> 8)
    return np.concatenate(found, axis=1)


def int64_block(block: IntegerBlock, tokens: Int64, known: int) -> Int64:
    """Run a block in 64-bit integers, straight from its definition."""
    attended = int64_attention(block, int64_linear(block.project_in, tokens), known)
    assert np.abs(attended).max() <= largest_attended()
    tokens = np.clip(tokens + int64_linear(block.project_out, attended), -255, 255)
    hidden = int64_linear(block.expand, tokens)
    return np.clip(tokens + int64_linear(block.contract, hidden), -255, 255)


@given(
    seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 12), data=st.data(), extreme=st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_a_block_equals_64_bit_arithmetic(
    seed: int, tokens: int, data: st.DataObject, extreme: bool
) -> None:
    block, x = random_block(seed, extreme=extreme), random_tokens(seed, tokens, extreme=extreme)
    known = data.draw(st.integers(1, tokens))
    assert np.array_equal(block(x.astype(np.int32), known), int64_block(block, x, known))


@pytest.mark.parametrize("threads", [1, 2])
def test_any_order_of_float32_sums_gives_the_same(threads: int) -> None:
    """The widest sums that a block may hold, as BLAS libraries add them: in orders of their own."""
    width = 512
    rng = np.random.default_rng(threads)
    layer = linear(rng, width, width, -255, 255, extreme=True)
    x = random_tokens(3, 40, width, extreme=True)
    x[0] = np.where(layer.weight[0, :, 0, 0] > 0, TOKEN_BOUND, -TOKEN_BOUND)
    assert layer.largest_sum(TOKEN_BOUND) < EXACT_LIMIT
    weight = layer.weight[:, :, 0, 0].astype(np.float32)
    exact = x @ weight.astype(np.int64).T
    assert np.abs(exact).max() >= 127 * 255 * width
    assert np.array_equal(x.astype(np.float32) @ weight.T, exact)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    by_torch = torch.from_numpy(x.astype(np.float32)) @ torch.from_numpy(weight).T
    torch.set_num_threads(before)
    assert np.array_equal(by_torch.numpy(), exact)


def test_tokens_attend_to_known_ones_only() -> None:
    block, x = random_block(1), random_tokens(2, 9).astype(np.int32)
    before, changed = block(x, 5), x.copy()
    changed[5:] += 1
    assert np.array_equal(block(changed, 5)[:5], before[:5])
    changed = x.copy()
    changed[4] -= 40
    assert (block(changed, 5)[:4] != before[:4]).any()


def test_as_many_tokens_as_the_proof_allows() -> None:
    block, x = random_block(4), random_tokens(5, MAX_TOKENS)
    x[:] = x[0]  # every key weighs the same: the rounded weights add up to most
    assert np.array_equal(block(x.astype(np.int32), MAX_TOKENS), int64_block(block, x, MAX_TOKENS))


def test_arrays_bring_a_block_back() -> None:
    block, x = random_block(6), random_tokens(7, 6).astype(np.int32)
    again = IntegerBlock.from_arrays(block.to_arrays())
    assert np.array_equal(again(x, 3), block(x, 3))
    layer = linear_from(linear_arrays(block.expand))
    assert (layer.low, layer.high, layer.shift) == (0, 127, 7)


def changed(name: str, **changes: object) -> Callable[[], IntegerBlock]:
    return lambda: replace(
        random_block(1), **{name: replace(getattr(random_block(1), name), **changes)}
    )


def with_part(**changes: object) -> Callable[[], IntegerBlock]:
    return lambda: replace(random_block(1), **changes)


def large(rows: int) -> NDArray[np.int32]:
    return np.full((1, rows), EXACT_LIMIT - 1, np.int32)


def silent_block(width: int) -> IntegerBlock:
    def silent(out: int, inputs: int) -> IntegerLayer:
        weight, bias = np.zeros((out, inputs, 1, 1), np.int8), np.zeros((1, out), np.int32)
        return IntegerLayer(weight, bias, 7, -127, 127)

    layers = silent(3 * width, width), silent(width, width), silent(4, width), silent(width, 4)
    return IntegerBlock(*layers, heads=2, shift=7, exponents=exponent_table())


MISFITS: dict[str, tuple[str, Callable[[], IntegerBlock]]] = {
    "sums of queries": ("project_in: sums", changed("project_in", bias=large(3 * WIDTH))),
    "sums behind heads": ("project_out: sums", changed("project_out", bias=large(WIDTH))),
    "sums of hidden channels": ("expand: sums", changed("expand", bias=large(HIDDEN))),
    "sums behind them": ("contract: sums", changed("contract", bias=large(WIDTH))),
    "scores": ("scores: sums", lambda: silent_block(2200)),
    "queries beyond their range": ("project_in: expected outputs", changed("project_in", high=128)),
    "an addition beyond the range": ("project_out: expected", changed("project_out", low=-256)),
    "the other one": ("contract: expected", changed("contract", high=256)),
    "other hidden channels": (
        "contract: expected weights",
        lambda: replace(random_block(1), expand=random_block(1).project_in),
    ),
    "heads that do not divide": ("heads that divide", with_part(heads=3)),
    "no heads": ("heads that divide", with_part(heads=0)),
    "no shift": ("shift of 1 to 16", with_part(shift=0)),
    "no exponents": ("exponents", with_part(exponents=np.zeros(0, np.uint16))),
    "a best key of no weight": ("exponents", with_part(exponents=np.zeros(3, np.uint16))),
    "a heavy exponent": ("exponents", with_part(exponents=np.array([4097], np.uint16))),
    "rising exponents": ("exponents", with_part(exponents=np.array([5, 6], np.uint16))),
    "other integers": ("exponents", with_part(exponents=np.array([5, 1], np.int64))),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_a_model_error(name: str) -> None:
    message, build = MISFITS[name]
    with pytest.raises(ModelError, match=message):
        build()


def twin_block(seed: int, *, loud: bool) -> IntegerTransformerBlock:
    torch.manual_seed(seed)
    twin = IntegerTransformerBlock(WIDTH, HEADS, HIDDEN)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(8 if loud else 2).add_(0.1 * torch.randn_like(parameter))
    return twin


@pytest.mark.parametrize("loud", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_twin_computes_the_same_integers(seed: int, loud: bool) -> None:
    twin = twin_block(seed, loud=loud)
    block = twin.block()
    for tokens in (1, 5, 12):
        x = random_tokens(seed, tokens, extreme=loud)
        for known in {1, (tokens + 1) // 2, tokens}:
            found = twin(torch.from_numpy(x[None]).float(), known)[0].detach().numpy()
            assert np.array_equal(found, block(x.astype(np.int32), known))
            assert np.array_equal(found, int64_block(block, x, known))


def test_the_twins_division_is_exact() -> None:
    """Every mass that 64 keys may have, and every exponent: as 64-bit integers divide."""
    twin, table = twin_block(0, loud=False), exponent_table().astype(np.int64)
    mass = np.arange(1024, 64 * 1024 + 1)
    for exponent in np.unique(table)[::7]:
        dividend, divisor = (torch.from_numpy(v).float() for v in (512 * exponent + mass, 2 * mass))
        quotient = torch.floor(dividend / divisor)
        expected = (512 * exponent + mass) // (2 * mass)
        assert np.array_equal(quotient.numpy(), expected)
    assert np.array_equal(twin.exponents.numpy(), table)


def test_gradients_reach_every_parameter() -> None:
    twin = twin_block(3, loud=False)
    x = torch.from_numpy(random_tokens(1, 6)[None] * 0.3).round().requires_grad_(True)
    twin(x.float(), 3).square().sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(1) > 0).all()
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_one_layer_for_each_token() -> None:
    torch.manual_seed(0)
    twin = IntegerLinear(5, 4, tokens=3, shift=6, low=-100, high=100)
    extra = torch.randn(2, 3, 4)
    x = torch.randint(-30, 31, (2, 3, 5)).float()
    found = twin(x, extra).detach().numpy()
    layers = twin.layers(extra)
    for quality in range(2):
        for token, layer in enumerate(layers):
            runtime = layer(x[quality, token].numpy()[None, None], quality)[0, 0]
            assert np.array_equal(found[quality, token], runtime)
