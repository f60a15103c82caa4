"""Photos to what a receiver decodes of them: the sender runs as it is, nothing of it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdvision.engines import create_engine
from cdvision.entropy.coder import Latents
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import ImageError, UnsupportedTask
from cdvision.networks.graphs import latents_decoder, load_network
from cdvision.package.loader import ModelPackage
from cdvision.photo import fit_photo, read_photo
from cdvision.stream import Layer, write_stream

LEAST_SIDE = 32  # pixels of a photo's short side: what is smaller teaches how blur looks


class StreamReader:
    """A model's sender and the first part of its receiver.

    Args:
        package: the model.
        device: where the dequantiser runs, and on GPUs the encoder too.
        size: long side of network inputs; the model's own choice where None.

    Raises:
        UnsupportedTask: the model's streams hold no single map of latents.

    Attributes:
        decoder: integer latents, as floats, to the map that taps start from.
        source: channels and stride of that map.
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
        self.decoder, self.source = latents_decoder(package.card.network, network)

    def pixels(self, photo: bytes) -> NDArray[np.uint8]:
        """Decode a photo and fit it into a network input (H, W, 3); raises ImageError."""
        image = read_photo(photo)
        if min(image.size) < LEAST_SIDE:
            raise ImageError(
                f"{image.size[0]} x {image.size[1]} pixels: expected at least {LEAST_SIDE}"
            )
        return fit_photo(image, self.package.card.input, self.size).pixels

    def latents(self, pixels: NDArray[np.uint8], qualities: Sequence[int]) -> list[Latents]:
        """Return what a stream of each quality (1 and up) holds."""
        levels = np.array(qualities, np.int64) - 1
        images = np.repeat(pixels[None], len(levels), axis=0)
        found = self._engine.run("encoder", {"image": images, "quality": levels})
        coder = self.package.coder
        return [
            coder.received({SYMBOLS: symbols, HYPER: hyper}, int(level))
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

    def stream(self, pixels: NDArray[np.uint8], latents: Latents, quality: int) -> bytes:
        """Return the stream of a network input."""
        (height, width), coder = pixels.shape[:2], self.package.coder
        return write_stream(
            codec=self.package.card.codec,
            fingerprint=coder.fingerprint[:4],
            width=width,
            height=height,
            input_width=width,
            input_height=height,
            quality=quality,
            layers=[Layer(*body) for body in coder.encode(latents, quality - 1).items()],
        )

    def image(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return a network input as (1, 3, H, W) float RGB in 0..255 on the device."""
        return torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None].float()
