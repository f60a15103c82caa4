"""The native core: wrong arguments have their status, paths agree, loops let other threads run."""

from __future__ import annotations

import os
import threading
from ctypes import byref, c_size_t
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from core_calls import ARGUMENT, baseline_loops, refusal
from numpy.typing import NDArray
from small_coders import small_hyperprior

from cdvision.core import coding, library, networks
from cdvision.core.codecs import new_codec
from cdvision.core.coding import Coded, NotCodable, RangeReader, RansReader
from cdvision.core.library import LIBRARY, Handle, address
from cdvision.core.networks import LayerArrays
from cdvision.export.core_codec import codec_bytes

TRUNCATED, BAD_POINT, BAD_LENGTH, BAD_STATE, BAD_INDEX, BAD_TABLES, BAD_NETWORK = (
    1,
    3,
    4,
    5,
    7,
    8,
    9,
)
BAD_HEADER = 10
SKIP, NARROW, WIDE = range(3)


def tables_of(low: list[int], high: list[int], frequencies: list[int]) -> Handle:
    arrays = (np.array(low, np.int16), np.array(high, np.int16), np.array(frequencies, np.uint16))
    return coding.new_tables(*arrays)


@pytest.fixture(scope="module")
def tables() -> Handle:
    """A skipped table, one without an escape, and one with."""
    narrow, wide = [1000, 2000, 1096, 0], [*[16] * 255, 16]
    return tables_of([0, -1, -127], [0, 1, 127], [4096, 0, *narrow, *wide])


# --- tables


@pytest.mark.parametrize(
    ("low", "high", "frequencies"),
    [
        ([], [], []),
        ([0] * 4097, [0] * 4097, [4096, 0] * 4097),
        ([-128], [0], [*[1] * 129, 3967]),
        ([0], [128], [*[1] * 129, 3967]),
        ([1], [0], [4096]),
        ([0], [0], [4096]),
        ([0], [0], [4096, 0, 0]),
        ([0], [0], [4095, 0]),
        ([0], [0], [4095, 2]),
        ([0], [0], [65535, 4097]),
        ([0], [1], [4096, 0, 0]),
        ([0], [1], [0, 4096, 0]),
    ],
)
def test_frequencies_that_are_no_tables(
    low: list[int], high: list[int], frequencies: list[int]
) -> None:
    assert refusal(lambda: tables_of(low, high, frequencies)) == BAD_TABLES


# --- coders


def coded(symbols: list[int], index: list[int], tables: Handle) -> Coded:
    return Coded(np.array(symbols, np.int32), np.array(index, np.uint16), tables)


ENCODERS = pytest.mark.parametrize("encode", [coding.rans_encode, coding.range_encode])


@ENCODERS
def test_an_index_that_names_no_table_cannot_be_encoded(encode: Any, tables: Handle) -> None:
    assert refusal(lambda: encode([coded([0, 0], [NARROW, 3], tables)])) == BAD_INDEX
    assert refusal(lambda: encode([coded([0], [65535], tables)])) == BAD_INDEX


@ENCODERS
@pytest.mark.parametrize(
    ("symbol", "table"),
    [(2, NARROW), (1, SKIP), (2**20, WIDE), (-(2**31), WIDE), (2**31 - 1, WIDE)],
)
def test_a_symbol_that_its_table_cannot_code(
    encode: Any, symbol: int, table: int, tables: Handle
) -> None:
    sound = coded([0, 1], [SKIP, NARROW], tables)
    with pytest.raises(NotCodable) as caught:
        encode([sound, coded([0, symbol, 0], [SKIP, table, SKIP], tables)])
    assert (caught.value.segment, caught.value.position) == (1, 1)


@pytest.mark.parametrize("encode", ["cdv_rans_encode", "cdv_range_encode"])
def test_room_that_is_too_small_is_refused(encode: str, tables: Handle) -> None:
    one = coded([5, -5, 100], [WIDE] * 3, tables)
    segment = library.Segment(address(one.symbols), address(one.tables_of), 3, tables.pointer)
    needed = 16 + 6 * 3 if encode == "cdv_rans_encode" else 4 + 5 * 3
    out, written, at = np.zeros(needed, np.uint8), c_size_t(), c_size_t()
    for room in (0, 15, needed - 1):
        arguments = byref(segment), 1, address(out), room, byref(written), byref(at)
        assert getattr(LIBRARY, encode)(*arguments) == ARGUMENT
    assert not getattr(LIBRARY, encode)(
        byref(segment), 1, address(out), needed, byref(written), byref(at)
    )
    assert written.value <= needed


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_index_that_names_no_table_is_not_decoded(kind: Any, tables: Handle) -> None:
    body = coding.rans_encode([coded([0] * 9, [NARROW] * 9, tables)])
    for place in (0, 3, 8):
        index = np.full(9, NARROW, kind)
        index[place] = 3
        assert refusal(lambda index=index: RansReader(body).read(index, tables)) == BAD_INDEX
    short = coding.range_encode([coded([0] * 9, [NARROW] * 9, tables)])
    index = np.array([NARROW, 65535], np.uint16)
    assert refusal(lambda: RangeReader(short).read(index, tables)) == BAD_INDEX


def test_bytes_that_are_no_body(tables: Handle) -> None:
    body = coding.rans_encode([coded([5, 70, -3] * 9, [WIDE] * 27, tables)])
    index = np.full(27, WIDE, np.uint16)
    assert refusal(lambda: RansReader(b"")) == BAD_LENGTH
    assert refusal(lambda: RansReader(body + b"\0")) == BAD_LENGTH
    assert refusal(lambda: RansReader(bytes(16))) == BAD_STATE
    assert refusal(lambda: RansReader(body[:-2]).read(index, tables)) == TRUNCATED
    reader = RansReader(body + b"\0\0")
    reader.read(index, tables)
    assert refusal(reader.finish) == BAD_LENGTH


def test_bytes_that_are_no_short_body(tables: Handle) -> None:
    body = coding.range_encode([coded([5, 70, -3] * 9, [WIDE] * 27, tables)])
    index = np.full(27, WIDE, np.uint16)
    assert refusal(lambda: RangeReader(body[:3]).read(index, tables)) == TRUNCATED
    # No width is a multiple of 2^12, so behind the last slot lie points of no symbol.
    points = RangeReader(b"\xff" * 64)
    assert refusal(lambda: points.read(np.full(40, NARROW, np.uint16), tables)) == BAD_POINT
    body = coding.range_encode([coded([0] * 3, [NARROW] * 3, tables)])
    # The next point of the same interval would do as well, so it is refused.
    for wrong, status in ((body + b"\0", BAD_LENGTH), (bytes([body[0] + 1]), BAD_STATE)):
        reader = RangeReader(wrong)
        assert not reader.read(np.full(3, NARROW, np.uint16), tables).any()
        assert refusal(reader.finish) == status


# --- networks


def layer(**changes: Any) -> LayerArrays:
    rng = np.random.default_rng(2)
    weight = rng.integers(-40, 41, (16, 3, 3, 3)).astype(np.int8)
    bias = rng.integers(-300, 300, (2, 16)).astype(np.int32)
    return LayerArrays(weight, bias, 4, 0, 200, 2)._replace(**changes)


def weights(*shape: int, value: int = 1) -> NDArray[np.int8]:
    return np.full(shape, value, np.int8)


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 0},
        {"shift": 17},
        {"low": 201},
        {"low": -(2**24)},
        {"high": 2**24},
        {"upsample": 0},
        {"upsample": 3},
        {"upsample": 2**16},
        {"upsample": -2},
        {"weight": weights(16, 3, 2, 2)},
        {"weight": weights(16, 3, 9, 9)},
        {"bias": np.zeros((0, 16), np.int32)},
        {"bias": np.full((1, 16), 2**24, np.int32)},
        {"bias": np.full((1, 16), -(2**31), np.int32)},
        {"weight": weights(16, 1000, 3, 3, value=-128)},
    ],
)
def test_layers_that_are_no_network(changes: dict[str, Any]) -> None:
    assert refusal(lambda: networks.new_network([layer(**changes)], 127)) == BAD_NETWORK


def test_networks_that_are_none() -> None:
    fine, follower = layer(), layer(weight=weights(16, 4, 1, 1))
    networks.new_network([fine, follower], 127)
    for layers, bound in (
        ([fine, fine], 127),  # 4 channels out, 3 in
        ([fine._replace(high=40000), follower], 127),  # not int16
        ([fine], 0),
        ([fine], -1),
        ([fine], 2**15),
        ([fine] * 17, 127),
    ):
        refused = refusal(lambda layers=layers, bound=bound: networks.new_network(layers, bound))
        assert refused == BAD_NETWORK
    assert LIBRARY.cdv_network_new(None, 0, 127, byref(library.c_void_p())) == BAD_NETWORK


def test_inputs_beyond_the_bound_are_refused() -> None:
    network = networks.new_network([layer()], 15)
    x = np.zeros((3, 4, 5), np.int32)
    networks.planes_of(network, x, 0, (4, 8, 10))
    for value in (16, -16, 2**31 - 1, -(2**31)):
        x[2, 3, 4] = value
        assert refusal(lambda: networks.planes_of(network, x, 0, (4, 8, 10))) == ARGUMENT
        cells = np.ascontiguousarray(x.transpose(1, 2, 0))
        assert refusal(lambda: networks.cells_of(network, cells, 0, 2, 4)) == ARGUMENT  # noqa: B023


def test_more_output_than_there_is_is_refused() -> None:
    network, x = networks.new_network([layer()], 15), np.zeros((3, 4, 5), np.int32)
    for shape in ((4, 9, 10), (4, 8, 11)):
        refused = refusal(lambda shape=shape: networks.planes_of(network, x, 0, shape))
        assert refused == ARGUMENT
    for height, width in ((2**64 - 1, 1), (1, 2**64 - 1)):
        sizes = address(x), 4, 5, 0, height, width
        assert LIBRARY.cdv_network_planes(network.pointer, *sizes, None) == ARGUMENT
    empty = np.zeros((3, 0, 5), np.int32)
    assert refusal(lambda: networks.planes_of(network, empty, 0, (4, 0, 10))) == ARGUMENT


def test_outputs_that_are_no_bytes_have_no_planes() -> None:
    x = np.zeros((3, 4, 5), np.int32)
    for changes in ({"low": -1}, {"high": 256}):
        network = networks.new_network([layer(**changes)], 15)
        refused = refusal(lambda network=network: networks.planes_of(network, x, 0, (4, 8, 10)))
        assert refused == ARGUMENT


def random_network(rng: np.random.Generator) -> tuple[Handle, int, int, int]:
    """Return a network, its channels in and out, and how much it enlarges."""
    inputs = channels = int(rng.integers(1, 40))
    layers, enlarged = [], 1
    for _ in range(int(rng.integers(1, 4))):
        upsample, kernel = int(rng.integers(1, 4)), int(rng.choice([1, 3, 5, 7]))
        outs = int(rng.integers(1, 20)) * upsample**2
        weight = rng.integers(-20, 21, (outs, channels, kernel, kernel)).astype(np.int8)
        bias = rng.integers(-999, 999, (2, outs)).astype(np.int32)
        shift = int(rng.integers(4, 9))
        layers.append(LayerArrays(weight, bias, shift, 0, 127, upsample))
        channels, enlarged = outs // upsample**2, enlarged * upsample
    return networks.new_network(layers, 127), inputs, channels, enlarged


def outputs_of(
    network: Handle, x: NDArray[np.int32], outs: int, enlarged: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return cells (h, w, outs), and planes (outs, h, w)."""
    shape = outs, enlarged * x.shape[0], enlarged * x.shape[1]
    planes = networks.planes_of(network, x.transpose(2, 0, 1), 1, shape)
    return networks.cells_of(network, x, 1, enlarged, outs), planes


def test_every_path_gives_the_same_integers() -> None:
    rng = np.random.default_rng(8)
    for _ in range(25):
        network, inputs, outs, enlarged = random_network(rng)
        size = *rng.integers(1, 8, 2), inputs
        x = (rng.integers(-127, 128, size) * (rng.random(inputs) < 0.6)).astype(np.int32)
        cells, planes = outputs_of(network, x, outs, enlarged)
        with baseline_loops():
            slow_cells, slow_planes = outputs_of(network, x, outs, enlarged)
        assert np.array_equal(cells, slow_cells)
        assert np.array_equal(planes, slow_planes)
        assert np.array_equal(planes, cells.transpose(2, 0, 1))
        assert cells.any()


def test_the_baseline_can_be_asked_for() -> None:
    with baseline_loops():
        assert library.instructions() in ("baseline", "neon")


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"tokens": 65}, None),
        ({"known": 9}, None),
        ({"heads": 0}, None),
        ({"heads": 3}, None),
        ({"width": 0}, None),
        ({"width": 1025}, None),
        ({"shift": 0}, None),
        ({"shift": 17}, None),
        ({"exponent_count": 0}, None),
        ({"exponent_count": 2**16 + 1}, None),
        ({"exponents": [0, 0]}, None),
        ({"exponents": [4097, 1]}, None),
        ({"exponents": [1, 2]}, None),
        ({}, 128),
        ({}, -128),
        ({}, -(2**31)),
    ],
)
def test_attention_beyond_its_limits(changes: dict[str, Any], most: int | None) -> None:
    settings: dict[str, Any] = {
        "tokens": 8, "width": 8, "known": 8, "heads": 2, "shift": 3,
        "exponents": [256, 128], "exponent_count": 2,
    } | changes  # fmt: skip
    projected = np.zeros(65 * 3 * 1025, np.int32)
    projected[8 * 3 * 8 - 1] = most or 0
    exponents = np.array(settings["exponents"], np.uint16)
    attended = np.full(65 * 1025, 7, np.int32)
    sizes = (settings[name] for name in ("tokens", "width", "known", "heads", "shift"))
    table = address(exponents), settings["exponent_count"], address(attended)
    assert LIBRARY.cdv_attend(address(projected), *sizes, *table) == ARGUMENT
    assert (attended == 7).all()


def test_attention_to_nothing_is_nothing() -> None:
    projected = np.full((4, 12), 127, np.int32)
    assert not networks.attend(projected, 0, 2, 3, np.array([256, 128], np.uint16)).any()
    everything = networks.attend(projected, 4, 2, 3, np.array([256, 128], np.uint16))
    assert (everything == 127).all()


# --- codecs


def codec_file() -> bytes:
    return codec_bytes(small_hyperprior(), 7, 16)


def test_files_that_are_no_codec() -> None:
    data = codec_file()
    new_codec(data)
    for name, spoiled, status in (
        ("empty", b"\0", BAD_HEADER),
        ("magic", b"CDVD" + data[4:], BAD_HEADER),
        ("version", data[:4] + b"\2" + data[5:], BAD_HEADER),
        ("no layer", data[:16] + bytes(4), BAD_HEADER),
        ("nine layers", data[:16] + b"\x09" + data[17:], BAD_HEADER),
        ("kind", data[:24] + b"\2" + data[25:], ARGUMENT),
        ("qualities", data[:28] + bytes(4) + data[32:], ARGUMENT),
        ("stride", data[:32] + b"\x41" + data[33:], ARGUMENT),
        ("more bytes", data + b"\0", BAD_LENGTH),
        ("one quality less", data[:28] + b"\2" + data[29:], BAD_TABLES),
    ):
        assert refusal(lambda spoiled=spoiled: new_codec(spoiled)) == status, name


def test_no_part_of_a_codec_file_is_one() -> None:
    data = codec_file()
    for end in range(1, len(data), 7):
        assert refusal(lambda end=end: new_codec(data[:end])) in (BAD_HEADER, BAD_LENGTH)


# --- threads and files


def test_other_threads_run_while_the_core_computes() -> None:
    rng = np.random.default_rng(1)
    weight = rng.integers(-5, 6, (64, 64, 7, 7)).astype(np.int8)
    bias = np.zeros((1, 64), np.int32)
    network = networks.new_network([LayerArrays(weight, bias, 8, 0, 127, 1)], 15)
    x = rng.integers(-15, 16, (200, 200, 64)).astype(np.int32)
    spans: list[tuple[float, float]] = []

    def compute() -> None:
        started = perf_counter()
        networks.cells_of(network, x, 0, 1, 64)
        spans.append((started, perf_counter()))

    thread = threading.Thread(target=compute)
    thread.start()
    ticks = []
    while thread.is_alive():
        ticks.append(perf_counter())
    thread.join()
    ((started, ended),) = spans
    # With the lock held, no tick falls between the ends of one call.
    inner = [
        t for t in ticks if started + 0.2 * (ended - started) < t < ended - 0.2 * (ended - started)
    ]
    assert len(inner) > 10


def test_many_threads_use_one_network() -> None:
    network, inputs, outs, enlarged = random_network(np.random.default_rng(3))
    x = np.random.default_rng(9).integers(-127, 128, (6, 7, inputs)).astype(np.int32)
    expected, wrong = networks.cells_of(network, x, 0, enlarged, outs), []

    def compute() -> None:
        for _ in range(20):
            if not np.array_equal(networks.cells_of(network, x, 0, enlarged, outs), expected):
                wrong.append(1)

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=rf"{library.NAME} is missing; build it with"):
        library.load_library(tmp_path / library.NAME)


def test_a_library_that_is_older_than_its_sources_is_told(tmp_path: Path) -> None:
    (tmp_path / library.NAME).touch()
    library.warn_if_stale(tmp_path / library.NAME)
    source = tmp_path / "network.c"
    source.touch()
    later = (tmp_path / library.NAME).stat().st_mtime + 10
    os.utime(source, (later, later))
    with pytest.warns(UserWarning, match="older than its C files"):
        library.warn_if_stale(tmp_path / library.NAME)
