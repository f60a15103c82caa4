"""The golden sequence: what was written once plays to the same latents, anywhere and for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cdvision
from cdvision.entropy.delta_coder import MapState
from cdvision.stream.packets import read_packet
from cdvision.stream.sequence import SequenceReader

GOLDEN = Path(__file__).parent / "golden"
RECORD = json.loads((GOLDEN / "golden-sequence.json").read_text(encoding="utf-8"))
DATA = (GOLDEN / RECORD["sequence"]).read_bytes()
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")

PLAY = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from make_golden_sequence import latents_sha256
hashes = latents_sha256(pathlib.Path(sys.argv[2]).read_bytes())
engines = [name for name in ("onnxruntime", "torch", "tensorrt") if name in sys.modules]
print(json.dumps({"hashes": hashes, "engines": engines}))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_the_latents_are_those_that_were_written(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAY, str(GOLDEN), str(GOLDEN / RECORD["sequence"])],
        env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report == {"hashes": RECORD["latents_sha256"], "engines": []}
    assert len(DATA) == RECORD["bytes"]


def test_changes_that_are_coded_again_give_the_same_bytes() -> None:
    decoder, before = cdvision.VideoDecoder(), None
    for packet in map(read_packet, SequenceReader(DATA)):
        from cdvision.stream.packets import write_packet

        decoder.push(write_packet(packet))
        state = decoder._state
        assert isinstance(state, MapState)
        if before is not None and not packet.is_key:
            coder = cdvision.load("small").package.delta_coder
            assert coder.encode(before, state.symbols)[0] == packet.body
        before = state
