"""The integer network: equal to int64 arithmetic, in any order and on any number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdvision.entropy.integer_network import EXACT_LIMIT, IntegerLayer, IntegerNetwork
from cdvision.errors import ModelError

Int64 = NDArray[np.int64]


def int64_layer(layer: IntegerLayer, x: Int64, quality: int) -> Int64:
    """Convolve, shift, clip and shuffle in 64-bit integers, straight from the definition."""
    kernel, (_, height, width) = layer.weight.shape[2], x.shape
    margin, weight = kernel // 2, layer.weight.astype(np.int64)
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    bias = layer.bias[min(quality, len(layer.bias) - 1)].astype(np.int64)
    total = np.repeat(bias[:, None], height * width, axis=1).reshape(-1, height, width)
    for row in range(kernel):
        for column in range(kernel):
            seen = padded[:, row : row + height, column : column + width]
            total += np.einsum("oc,chw->ohw", weight[:, :, row, column], seen)
    total = np.clip((total + 2 ** (layer.shift - 1)) >> layer.shift, layer.low, layer.high)
    factor = layer.upsample
    out = np.empty((len(total) // factor**2, factor * height, factor * width), np.int64)
    for channel, values in enumerate(total):
        place, offset = divmod(channel, factor**2)
        out[place, offset // factor :: factor, offset % factor :: factor] = values
    return out


def apply(layer: IntegerLayer, x: Int64) -> NDArray[np.int32]:
    """Run one layer on (channels, h, w)."""
    last = np.ascontiguousarray(x.transpose(1, 2, 0), np.int32)
    return layer(last, 0).transpose(2, 0, 1)


def int64_network(network: IntegerNetwork, z: Int64, quality: int) -> Int64:
    x = z.astype(np.int64)
    for layer in network.layers:
        x = int64_layer(layer, x, quality)
    return x


def random_network(rng: np.random.Generator, *, extreme: bool) -> IntegerNetwork:
    """Draw one to three layers; extreme ones hold nothing but the ends of their ranges."""
    channels, layers = int(rng.integers(1, 7)), []
    bound = int(rng.choice([1, 15, 127]))
    for left in reversed(range(rng.integers(1, 4))):
        upsample, kernel = int(rng.integers(1, 4)), int(rng.choice([1, 3, 5]))
        out = int(rng.integers(1, 5)) * upsample**2
        shape, ends = (out, channels, kernel, kernel), np.array([-128, 127])
        weight = rng.choice(ends, shape) if extreme else rng.integers(-128, 128, shape)
        bias = rng.integers(-(10**6), 10**6, (int(rng.choice([1, 8])), out))
        low = 0 if left == 0 else int(rng.choice([-127, 0]))
        high, shift = int(rng.integers(low, 128)), int(rng.integers(1, 17))
        arrays = weight.astype(np.int8), bias.astype(np.int32)
        layers.append(IntegerLayer(*arrays, shift, low, high, upsample))
        channels = out // upsample**2
    return IntegerNetwork(tuple(layers), bound)


def random_input(rng: np.random.Generator, network: IntegerNetwork, *, extreme: bool) -> Int64:
    bound = network.bound
    shape = (network.layers[0].weight.shape[1], *rng.integers(1, 6, 2))
    values = rng.choice([-bound, bound], shape) if extreme else None
    return rng.integers(-bound, bound + 1, shape) if values is None else values.astype(np.int64)


@given(seed=st.integers(0, 2**32 - 1), extreme=st.booleans(), quality=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_equals_int64_arithmetic(seed: int, extreme: bool, quality: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, extreme=extreme)
    z = random_input(rng, network, extreme=extreme)
    found = network(z, quality)
    assert found.dtype == np.uint8
    assert found.shape[1:] == tuple(network.upsample * side for side in z.shape[1:])
    assert (found == int64_network(network, z, quality)).all()


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_smaller_size_is_the_top_left(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, extreme=False)
    z = random_input(rng, network, extreme=False)
    whole = network(z, 0)
    height, width = (data.draw(st.integers(1, side)) for side in whole.shape[1:])
    assert (network(z, 0, (height, width)) == whole[:, :height, :width]).all()


def layer_at_the_limit(excess: int = 0) -> IntegerLayer:
    """Return a layer whose largest sum is 2^24 - 1 + excess; its output is not clipped."""
    weight = np.full((1, 1040, 1, 1), 127, np.int8)
    weight[0, ::2] = -127
    rest = EXACT_LIMIT - 1 + excess - 1040 * 127 * 127
    return IntegerLayer(weight, np.array([[rest - 1]], np.int32), 1, -(2**23), 2**23)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_are_exact(sign: int) -> None:
    layer = layer_at_the_limit()
    assert layer.largest_sum(127) == EXACT_LIMIT - 1
    x = sign * 127 * np.sign(layer.weight[0]).astype(np.int64)
    assert abs(int64_layer(layer, x, 0)).max() > 2**22
    for step in range(64):  # the low bits are what rounding would lose
        x[step] -= np.sign(x[step])
        assert (apply(layer, x) == int64_layer(layer, x, 0)).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_order_of_summation_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (32, 48, 3, 3)).astype(np.int8)
    bias = rng.integers(-(2**20), 2**20, (1, 32)).astype(np.int32)
    layer = IntegerLayer(weight, bias, 1, -(2**23), 2**23)
    assert layer.largest_sum(127) < EXACT_LIMIT
    x = rng.integers(-127, 128, (48, 7, 5))
    order = rng.permutation(48)
    shuffled = IntegerLayer(np.ascontiguousarray(weight[:, order]), bias, 1, -(2**23), 2**23)
    assert (apply(shuffled, x[order]) == apply(layer, x)).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_float32_products_in_any_order_give_the_same_sums(seed: int) -> None:
    """A sender's engine may run a network in float32: its sums are the core's."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (32, 47, 3, 3)).astype(np.int8)
    layer = IntegerLayer(weight, zeros(32), 1, -(2**23), 2**23)
    assert layer.largest_sum(127) < EXACT_LIMIT
    padded = np.zeros((47, 9, 7), np.float32)
    padded[:, 1:-1, 1:-1] = x = rng.integers(-127, 128, (47, 7, 5))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    patches = windows.transpose(1, 2, 0, 3, 4).reshape(35, 9 * 47)
    matrix = np.ascontiguousarray(weight.reshape(32, -1).T, np.float32)
    total = apply(layer, x.astype(np.int64)).transpose(1, 2, 0).reshape(35, 32)
    order = rng.permutation(9 * 47)
    for product in (
        patches @ matrix,
        patches[:, order] @ matrix[order],
        sum(patches[:, order[i::7]] @ matrix[order[i::7]] for i in range(7)),
    ):
        assert (np.floor((product + 1) / 2) == total).all()


@pytest.mark.parametrize("outs", [5, 32, 40, 64])
@pytest.mark.parametrize("density", [0.0, 0.2, 0.7, 1.0])
def test_every_path_of_the_sums_is_exact(outs: int, density: float) -> None:
    """Blocks of 32 sums and what is left over; sparse inputs and dense ones; one column."""
    rng = np.random.default_rng(outs)
    for kernel, upsample in ((1, 1), (3, 2), (5, 1)):
        count = outs * upsample**2
        weight = rng.integers(-127, 128, (count, 7, kernel, kernel)).astype(np.int8)
        bias = rng.integers(-(2**20), 2**20, (1, count)).astype(np.int32)
        layer = IntegerLayer(weight, bias, 3, -(2**22), 2**22, upsample)
        last = IntegerLayer(weight, bias, 12, 0, 255, upsample)
        for size in ((1, 1), (4, 3), (2, 6)):
            x = rng.integers(1, 128, (7, *size)) * (rng.random((7, *size)) < density)
            assert (apply(layer, x) == int64_layer(layer, x, 0)).all()
            assert (IntegerNetwork((last,), 127)(x, 0) == int64_layer(last, x, 0)).all()


THREADED = """
import hashlib, json, sys
import numpy as np
from cdvision.models.small.receiver.coder import DescribedMapCoder
from cdvision.entropy.integer_network import IntegerLayer
with np.load(sys.argv[1]) as archive:
    coder = DescribedMapCoder.from_arrays(dict(archive)).map
rng = np.random.default_rng(0)
bound, digest = coder.network.bound, hashlib.sha256()
for quality in range(coder.qualities):
    z = rng.integers(-bound, bound + 1, (coder.hyper_channels, 24, 24))
    digest.update(coder.network(z, quality).tobytes())
weight = rng.integers(-127, 128, (256, 100, 3, 3)).astype(np.int8)
layer = IntegerLayer(weight, np.zeros((1, 256), np.int32), 1, -2**23, 2**23)
digest.update(layer(rng.integers(-127, 128, (40, 40, 100)).astype(np.int32), 0).tobytes())
print(json.dumps(digest.hexdigest()))
"""


def test_one_and_two_threads_agree() -> None:
    tables = (
        Path(__file__).parent.parent
        / "cdvision"
        / "models"
        / "small"
        / "packages"
        / "small"
        / "tables.npz"
    )
    digests = set()
    for threads in "12":
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", THREADED, str(tables)],
            env={**os.environ, **dict.fromkeys(names, threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(json.loads(done.stdout))
    assert len(digests) == 1


def test_equals_its_training_twin() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")  # the builder exports graphs too
    from cdvision.building.map_tables import build_integer_network
    from cdvision.networks.integer_hyper import IntegerHyperDecoder

    torch.manual_seed(3)
    twin = IntegerHyperDecoder(24, 96, hidden=32, qualities=8, levels=64)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            spread = 12.0 if "bias" in name else 0.25
            parameter.add_(torch.randn_like(parameter) * spread)
    network = build_integer_network(twin)
    rng, seen = np.random.default_rng(0), set()
    for quality in range(8):
        z = rng.integers(-15, 16, (24, *rng.integers(1, 8, 2)))
        with torch.no_grad():
            wanted = twin(torch.from_numpy(z[None]).float(), torch.tensor([quality]))[0].numpy()
        found = network(z, quality)
        assert (found == wanted).all()
        assert (found == int64_network(network, z, quality)).all()
        seen |= set(np.unique(found).tolist())
    assert len(seen) > 32, "the comparison has seen hardly any index"


@pytest.mark.parametrize("position", [0, 1])
def test_the_proof_refuses_sums_that_reach_2_to_24(position: int) -> None:
    first = IntegerLayer(np.full((1040, 1, 1, 1), 1, np.int8), zeros(1040), 1, -127, 127)

    def network(excess: int) -> IntegerNetwork:
        limit = layer_at_the_limit(excess)
        layer = IntegerLayer(limit.weight, limit.bias, limit.shift, 0, 255)
        if position == 0:
            return IntegerNetwork((layer,), 127)
        return IntegerNetwork((first, layer), 1)  # the range of the first layer counts, not this

    assert network(0).channels == 1
    with pytest.raises(ModelError, match=f"layer {position}: sums may reach 16777216"):
        network(1)


def zeros(out: int) -> NDArray[np.int32]:
    return np.zeros((1, out), np.int32)


def two_layers() -> IntegerNetwork:
    weight = np.arange(-54, 54).reshape(12, 1, 3, 3).astype(np.int8)
    last = np.ones((5, 3, 1, 1), np.int8)
    layers = (
        IntegerLayer(weight, zeros(12), 6, -9, 100, 2),
        IntegerLayer(last, np.arange(40, dtype=np.int32).reshape(8, 5), 2, 0, 63),
    )
    return IntegerNetwork(layers, 15)


def test_arrays_bring_it_back() -> None:
    network = two_layers()
    again = IntegerNetwork.from_arrays(network.to_arrays())
    assert again.canonical_bytes() == network.canonical_bytes()
    z = np.arange(-6, 6).reshape(1, 3, 4)
    assert (again(z, 5) == network(z, 5)).all()


def with_settings(position: int, value: int) -> Callable[[NDArray[np.generic]], object]:
    def changed(settings: NDArray[np.generic]) -> NDArray[np.generic]:
        copy = settings.copy()
        copy[position] = value
        return copy

    return changed


DAMAGES: dict[str, tuple[str, Callable[[NDArray[np.generic]], object]]] = {
    "object weights": ("0/weight", lambda a: a.astype(object)),
    "float weights": ("0/weight", lambda a: a.astype(np.float32)),
    "wide weights": ("0/weight", lambda a: a.astype(np.int16)),
    "flat weights": ("0/weight", lambda a: a.ravel()),
    "no weights": ("0/weight", lambda a: a[:0]),
    "even kernel": ("0/weight", lambda a: a[:, :, :2, :2]),
    "oblong kernel": ("0/weight", lambda a: a[:, :, :1]),
    "vast kernel": ("0/weight", lambda a: np.zeros((12, 1, 99, 99), np.int8)),
    "strange channels": ("1/weight", lambda a: np.repeat(a, 2, axis=1)),
    "float bias": ("0/bias", lambda a: a.astype(np.float32)),
    "long bias": ("0/bias", lambda a: a.astype(np.int64)),
    "bias of other channels": ("0/bias", lambda a: a[:, :-1]),
    "no quality": ("1/bias", lambda a: a[:0]),
    "overflowing bias": ("1/bias", lambda a: np.full_like(a, 2**31 - 1)),
    "object settings": ("0/settings", lambda a: a.astype(object)),
    "float settings": ("0/settings", lambda a: a + 0.5),
    "few settings": ("0/settings", lambda a: a[:3]),
    "no shift": ("0/settings", with_settings(0, 0)),
    "negative shift": ("0/settings", with_settings(0, -1)),
    "huge shift": ("0/settings", with_settings(0, 17)),
    "reversed range": ("0/settings", with_settings(1, 101)),
    "vast range": ("0/settings", with_settings(2, 2**31 - 1)),
    "negative index": ("1/settings", with_settings(1, -1)),
    "index over a byte": ("1/settings", with_settings(2, 256)),
    "no upsampling": ("0/settings", with_settings(3, 0)),
    "negative upsampling": ("0/settings", with_settings(3, -2)),
    "huge upsampling": ("0/settings", with_settings(3, 2**31 - 1)),
    "odd upsampling": ("0/settings", with_settings(3, 5)),
    "no bound": ("bound", lambda a: a * 0),
    "negative bound": ("bound", lambda a: -a),
    "huge bound": ("bound", lambda a: a * 1000),
    "float bound": ("bound", lambda a: a * np.nan),
    "two bounds": ("bound", lambda a: np.repeat(a, 2)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_array_is_a_model_error(name: str) -> None:
    key, damage = DAMAGES[name]
    arrays = two_layers().to_arrays()
    arrays[key] = np.asarray(damage(arrays[key]))
    with pytest.raises(ModelError, match="integer"):
        IntegerNetwork.from_arrays(arrays)


@pytest.mark.parametrize("key", two_layers().to_arrays())
def test_a_missing_or_renamed_array_is_a_model_error(key: str) -> None:
    arrays = two_layers().to_arrays()
    value = arrays.pop(key)
    with pytest.raises(ModelError, match="the stored arrays are not one"):
        IntegerNetwork.from_arrays(arrays)
    with pytest.raises(ModelError, match="the stored arrays are not one"):
        IntegerNetwork.from_arrays(arrays | {"other": value})


def test_no_arrays_and_too_many_layers_are_model_errors() -> None:
    arrays = two_layers().to_arrays()
    with pytest.raises(ModelError):
        IntegerNetwork.from_arrays({})
    with pytest.raises(ModelError):
        IntegerNetwork.from_arrays({"bound": arrays["bound"]})
    many = {f"{i}/{k}": arrays[f"1/{k}"] for i in range(17) for k in ("weight", "bias", "settings")}
    with pytest.raises(ModelError):
        IntegerNetwork.from_arrays(many | {"bound": arrays["bound"]})


def test_the_serialisation_separates_every_parameter() -> None:
    networks = [two_layers()]
    for key, value in two_layers().to_arrays().items():
        arrays = two_layers().to_arrays()
        if key == "bound":
            arrays[key] = value + 1
            networks.append(IntegerNetwork.from_arrays(arrays))
            continue
        for place in np.ndindex(value.shape):
            changed = value.copy()
            changed[place] += 1
            try:
                networks.append(IntegerNetwork.from_arrays(arrays | {key: changed}))
            except ModelError:
                continue  # an upsampling factor that does not divide the channels
    serialised = {network.canonical_bytes() for network in networks}
    assert len(serialised) == len(networks) > 150
