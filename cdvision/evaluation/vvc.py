"""VVC intra through Fraunhofer's ``vvencapp`` and ``vvdecapp``, where both are on the PATH.

::

    RGB ─ YCbCr ─ 4:2:0, sides even ─ in.yuv ─ vvencapp ─ out.266 ─▶ width, height + out.266
    RGB ◀─ cut ◀─ chroma enlarged ◀── out.yuv ◀─ vvdecapp ◀──────────────────────┘
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from PIL.Image import Image

ENCODER, DECODER = "vvencapp", "vvdecapp"
SIZE = struct.Struct("<HH")  # raw VVC is no file format: a receiver has to learn the picture's size
BIT_DEPTH = 10  # of the codec's own arithmetic, and of the samples that its decoder writes
ONE_PICTURE = f"-c yuv420 -r 1 -f 1 -ip 1 -t 1 -v 1 --qpa 0 --internal-bitdepth {BIT_DEPTH}"


@dataclass(frozen=True)
class VvcRival:
    """One VVC intra picture; its quality setting is the quantisation parameter.

    Perceptual adaptation is off (networks look elsewhere than people, and it costs PSNR). Preset
    ``slow`` takes 2.5 times as long as ``medium`` for 2 % fewer bytes.
    """

    name: str = "vvc"
    title: str = "VVC intra"
    qualities: tuple[int, ...] = (57, 52, 47, 42, 37, 32, 27)
    preset: str = "medium"

    def encode(self, picture: Image, quality: int) -> bytes:
        """Compress an RGB picture; 4 bytes of size come before the bitstream, and count."""
        width, height = (side + side % 2 for side in picture.size)
        with tempfile.TemporaryDirectory() as folder:
            source, coded = Path(folder, "in.yuv"), Path(folder, "out.266")
            source.write_bytes(to_yuv420(picture))
            files = ["-i", str(source), "-o", str(coded), "-s", f"{width}x{height}"]
            wanted = ["-q", str(quality), "--preset", self.preset]
            _call([ENCODER, *files, *wanted, *ONE_PICTURE.split()])
            return SIZE.pack(*picture.size) + coded.read_bytes()

    def decode(self, coded: bytes) -> Image:
        """Return the RGB picture."""
        with tempfile.TemporaryDirectory() as folder:
            stream, out = Path(folder, "in.266"), Path(folder, "out.yuv")
            stream.write_bytes(coded[SIZE.size :])
            _call([DECODER, "-b", str(stream), "-o", str(out), "-t", "1", "-v", "1"])
            samples = np.frombuffer(out.read_bytes(), "<u2")
        half = 1 << (BIT_DEPTH - 9)  # of a step of 8 bits: rounds to the nearest
        rounded = np.minimum((samples + half) >> (BIT_DEPTH - 8), 255).astype(np.uint8)
        return from_yuv420(rounded, SIZE.unpack_from(coded))

    def payload_bytes(self, coded: bytes) -> int:
        """Return the number of bytes: a raw bitstream has no container."""
        return len(coded)

    def describe(self) -> str:
        """Return the versions and settings that decide the bytes."""
        lines = [_call([tool, "--version"]).strip().splitlines()[-1] for tool in (ENCODER, DECODER)]
        return ", ".join([*lines, f"preset={self.preset}", "qpa=0"])


def to_yuv420(picture: Image) -> bytes:
    """Return planes Y, Cb, Cr of 8-bit samples; odd sides are made even by repeating the edge."""
    from PIL import Image

    pixels = np.asarray(picture)
    # Chroma has half the columns and rows, so luma needs even ones.
    odd = [(0, side % 2) for side in pixels.shape[:2]]
    even = Image.fromarray(np.pad(pixels, [*odd, (0, 0)], mode="edge"))
    luma, *chroma = even.convert("YCbCr").split()
    return b"".join([luma.tobytes(), *(plane.reduce(2).tobytes() for plane in chroma)])


def from_yuv420(samples: NDArray[np.uint8], size: Sequence[int]) -> Image:
    """Return the RGB picture of ``size`` (width, height) whose planes ``to_yuv420`` laid out."""
    from PIL import Image

    width, height = (side + side % 2 for side in size)
    if samples.size != width * height * 3 // 2:
        raise CdvisionError(
            f"{DECODER}: expected {width * height * 3 // 2} samples of a {width} x {height} "
            f"picture, found {samples.size}"
        )
    luma = Image.fromarray(samples[: width * height].reshape(height, width))
    chroma = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        for plane in samples[width * height :].reshape(2, height // 2, width // 2)
    ]
    return Image.merge("YCbCr", [luma, *chroma]).convert("RGB").crop((0, 0, size[0], size[1]))


def _call(command: Sequence[str]) -> str:
    """Run one of the tools and return what it printed."""
    if shutil.which(command[0]) is None:
        raise CdvisionError(
            f"vvc needs {ENCODER} and {DECODER} on the PATH "
            "(github.com/fraunhoferhhi/vvenc and vvdec); not found: " + command[0]
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise CdvisionError(f"{command[0]} failed with {done.returncode}: {lines[-1]}")
    return done.stdout
