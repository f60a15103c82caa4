"""VideoEncoder and VideoDecoder: one state on both sides, stale after a loss, never wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving_scene import SIZE, packets, scene

import cdvision
from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream.packets import read_packet, write_packet
from cdvision.video.motion_gate import MotionGate


def symbols_of(view: Any) -> np.ndarray:
    return np.asarray(view.stream.latents_for("nanodet_plus_m")["symbols"])


@pytest.fixture(scope="module")
def lossless() -> list[Any]:
    decoder = cdvision.VideoDecoder()
    return [decoder.push(packet) for packet in packets()]


def test_the_receiver_has_what_the_sender_has(lossless: list[Any]) -> None:
    sender = cdvision.VideoEncoder(cdvision.load("small"), 4, key_seconds=1.6, size=SIZE)
    for frame, view in zip((*scene(), *scene()), lossless, strict=True):
        sender.push(frame)
        assert sender._state is not None
        assert np.array_equal(symbols_of(view), sender._state.symbols)
        assert not view.stale


def test_keys_come_by_time_and_on_demand() -> None:
    assert [n for n, one in enumerate(packets()) if read_packet(one).is_key] == [0, 8]
    sender = cdvision.VideoEncoder("small", 4, size=SIZE)
    sender.push(scene()[0])
    sender.request_key()
    assert read_packet(sender.push(scene()[1])).is_key
    assert not read_packet(sender.push(scene()[2])).is_key
    assert read_packet(sender.push(scene()[3][:, :200])).is_key  # another size


def test_deltas_are_smaller_than_keys_and_still_ones_are_framing() -> None:
    sizes = list(map(len, packets()))
    assert max(sizes[1:8]) < sizes[0]
    assert sizes[6:8] == [6, 6]


def test_a_still_packet_costs_no_network_run(
    lossless: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lossless[7].stream is lossless[6].stream
    before = lossless[6].detect()

    def no_run(*_: object) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(lossless[7].stream.model.engine, "run", no_run)
    assert np.array_equal(lossless[7].detect().xyxy, before.xyxy)


def test_the_gate_spares_the_sender_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = cdvision.VideoEncoder("small", 4, size=SIZE)
    frame = scene()[0]
    sender.push(frame)
    noise = np.random.default_rng(0).normal(0, 3, frame.shape)
    noisy = np.clip(frame + noise, 0, 255).astype(np.uint8)
    monkeypatch.setattr(sender._sender, "next_symbols", None)
    assert len(sender.push(noisy)) == 6


def test_the_gate_sees_small_things_move() -> None:
    gate, frame = MotionGate(), np.full((64, 64, 3), 100, np.uint8)
    assert not gate.is_still(frame)
    assert gate.is_still(frame)
    frame[5:11, 5:11] = 180
    assert not gate.is_still(frame)


def test_times_are_told_in_steps_of_the_rate() -> None:
    sender, decoder = cdvision.VideoEncoder("small", 4, fps=5, size=SIZE), cdvision.VideoDecoder()
    times = [decoder.push(sender.push(scene()[0], time=t)).time for t in (0.0, 0.21, 0.25, 1.0)]
    assert times == [0.0, 0.2, 0.4, 1.0]


@pytest.mark.parametrize("lost", range(16))
def test_a_lost_packet_makes_views_stale_until_the_next_key(lossless: list[Any], lost: int) -> None:
    decoder, next_key = cdvision.VideoDecoder(), 8 if lost < 8 else 16
    for number, packet in enumerate(packets()):
        if number == lost:
            continue
        view = decoder.push(packet)
        assert view.stale == (lost < number < next_key)
        if view.stale and view.stream is None:
            with pytest.raises(BitstreamError, match="key"):
                view.detect()
        elif not view.stale:
            assert np.array_equal(symbols_of(view), symbols_of(lossless[number]))
            assert view.time == pytest.approx(number / 5)


def test_random_losses_are_never_wrong_silently(lossless: list[Any]) -> None:
    for seed in range(100):
        rng, decoder = np.random.default_rng(seed), cdvision.VideoDecoder()
        for number, packet in enumerate(packets()):
            if rng.random() < 0.2:
                continue
            view = decoder.push(packet)
            if not view.stale:
                assert np.array_equal(symbols_of(view), symbols_of(lossless[number]))


def test_packets_that_come_twice_or_late_change_nothing(lossless: list[Any]) -> None:
    decoder = cdvision.VideoDecoder()
    for number in (0, 1, 1, 2, 1, 3):
        view = decoder.push(packets()[number])
        assert not view.stale
    assert np.array_equal(symbols_of(view), symbols_of(lossless[3]))


def test_a_damaged_packet_is_refused_and_the_next_ones_are_stale() -> None:
    decoder = cdvision.VideoDecoder()
    decoder.push(packets()[0])
    damaged = bytearray(packets()[1])
    damaged[5] ^= 4
    with pytest.raises(BitstreamError):
        decoder.push(damaged)
    assert decoder.push(packets()[2]).stale


def test_bodies_that_are_damaged_behind_a_true_checksum_do_no_harm() -> None:
    """A result, stale or BitstreamError, at every byte of a key and of a delta."""
    for number in (0, 1):
        packet = read_packet(packets()[number])
        for place in range(len(packet.body)):
            body = bytearray(packet.body)
            body[place] ^= 0x55
            decoder = cdvision.VideoDecoder()
            for one in packets()[:number]:
                decoder.push(one)
            try:
                decoder.push(write_packet(replace(packet, body=bytes(body))))
            except BitstreamError:
                assert decoder.push(packets()[2]).stale


def test_another_models_key_is_refused() -> None:
    key = read_packet(packets()[0])
    assert key.picture is not None
    other = replace(key, picture=replace(key.picture, fingerprint=b"none"))
    with pytest.raises(BitstreamError, match="fingerprint"):
        cdvision.VideoDecoder().push(write_packet(other))


@pytest.mark.parametrize(
    "options", [{"quality": 9}, {"key_seconds": 0}, {"fps": float("nan")}, {"size": 100}]
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(CdvisionError):
        cdvision.VideoEncoder("small", **options)


def test_models_without_delta_packets_are_refused() -> None:
    with pytest.raises(CdvisionError, match="not videos"):
        cdvision.VideoEncoder("hsc")


def test_a_video_becomes_a_sequence_and_plays(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    source, out = tmp_path / "scene.mp4", tmp_path / "scene.cdvs"
    with av.open(str(source), "w") as container:
        track = container.add_stream("libx264", rate=10)
        track.width, track.height, track.pix_fmt = 224, 168, "yuv420p"
        for frame in scene(12):
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode())
    assert cdvision.encode_video(source, out, fps=5, quality=4, size=SIZE) == 6
    views = list(cdvision.open_video(out))
    assert [view.time for view in views] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert not any(view.stale for view in views)
    assert len(list(cdvision.open_video(out.read_bytes()[:-40]))) < 6


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(CdvisionError, match="cannot be read"):
        cdvision.encode_video(tmp_path / "no.mp4", tmp_path / "out.cdvs")
