"""Photos to what a receiver decodes of them: the sender runs as it is, nothing of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdvision.engines import create_engine
from cdvision.entropy.coder import Coder, Latents
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import UnsupportedTask
from cdvision.networks.graphs import latents_decoder, load_network
from cdvision.package.loader import ModelPackage
from cdvision.photo import fit_photo
from cdvision.stream import Layer, write_stream

if TYPE_CHECKING:
    from PIL.Image import Image


class StreamReader:
    """A model's sender and the first part of its receiver; raises UnsupportedTask without a map.

    ``size`` is the long side of network inputs, or None for the model's own choice.
    """

    def __init__(self, package: ModelPackage, device: torch.device, size: int | None) -> None:
        if SYMBOLS not in package.card.latents:
            raise UnsupportedTask(
                f"model {package.card.name!r} sends several layers: taps can be fitted to models "
                "whose streams hold one map of latents, such as small"
            )
        self.package, self.device, self.size = package, device, size
        engine = "torch" if device.type == "cuda" else "onnx"
        threads = torch.get_num_threads() if engine == "onnx" else None
        self._engine = create_engine(engine, package, device=device.type, threads=threads)
        network = load_network(package.card.network, package.weights_path).to(device)
        # Integer latents, as floats, to the map that taps start from; its channels and stride.
        self.decoder, self.source = latents_decoder(package.card.network, network)

    def pixels(self, image: Image) -> NDArray[np.uint8]:
        """Fit a photo into a network input (H, W, 3)."""
        return fit_photo(image, self.package.card.input, self.size).pixels

    def latents(self, pixels: NDArray[np.uint8], qualities: Sequence[int]) -> list[Latents]:
        """Return what a stream of each quality (1 and up) holds."""
        levels = np.array(qualities, np.int64) - 1
        # The encoder takes one quality an image: a batch of copies asks for all of them at once.
        images = np.repeat(pixels[None], len(levels), axis=0)
        found = self._engine.run("encoder", {"image": images, "quality": levels})
        return [
            # Symbols that are skipped never arrive: the tap must not learn from them.
            self.package.coder.received({SYMBOLS: symbols, HYPER: hyper}, int(level))
            for symbols, hyper, level in zip(found[SYMBOLS], found[HYPER], levels, strict=True)
        ]

    @torch.no_grad()
    def decode(self, latents: Sequence[Latents], qualities: Sequence[int]) -> Tensor:
        """Return the dequantised maps (Q, C, h, w) of one photo's latents, on the device."""
        symbols, hyper = (
            torch.from_numpy(np.stack([one[name] for one in latents])).to(self.device).float()
            for name in (SYMBOLS, HYPER)
        )
        levels = torch.tensor(qualities, device=self.device) - 1
        decoded: Tensor = self.decoder(symbols, hyper, levels)
        return decoded


def stream_size(
    codec: int,
    coder: Coder,
    latents: Latents,
    quality: int,
    source: tuple[int, ...],
    pixels: NDArray[np.uint8],
) -> int:
    """Return the bytes of a stream as a sender would write it.

    ``quality`` is 1 and up, ``source`` the photo's width and height, ``pixels`` its network input.
    """
    stream = write_stream(
        codec=codec,
        fingerprint=coder.fingerprint[:4],
        width=source[0],
        height=source[1],
        input_width=pixels.shape[1],
        input_height=pixels.shape[0],
        quality=quality,
        layers=[Layer(*body) for body in coder.encode(latents, quality - 1).items()],
    )
    return len(stream)


def image_tensor(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return a network input (H, W, 3) as (1, 3, H, W) float RGB in 0..255 on a device."""
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float()
