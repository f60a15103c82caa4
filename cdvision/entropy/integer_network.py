"""The integer hyper-network: side information to table indices, exact on every machine.

Weights are int8, activations int16, sums int32. A package is only accepted if, for every output
channel, ``sum |w| * max|x| + |b| < 2^24`` holds: then no partial sum overflows, whatever the order
of summation, the number of threads and the vector width, here and in float32 on a sender's engine.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from cdvision.core.library import CoreError, Handle
from cdvision.core.networks import LayerArrays, cells_of, new_network, planes_of
from cdvision.entropy.tables import CodingError
from cdvision.errors import ModelError

EXACT_LIMIT = 2**24
MAX_LAYERS = 16
MAX_UPSAMPLE = 8
MAX_BOUND = 127
MAX_INPUT = 2**15 - 1
KERNELS = (1, 3, 5, 7)
LAYER_ARRAYS = ("weight", "bias", "settings")

Integers = NDArray[np.int32]
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """Convolution of integers, shift, clip, then pixel shuffle.

    ``out = clip((sum(w * x) + b[quality] + 2^(shift-1)) >> shift, low, high)``

    Raises:
        ModelError: the parameters are not such a layer.
    """

    # (out, channels, kernel, kernel) int8; odd kernel up to 7, "same" zero padding.
    weight: NDArray[np.int8]
    # (qualities, out) int32; one row where the bias does not depend on the quality.
    bias: NDArray[np.int32]
    shift: int  # bits dropped after the sum, 1 to 16
    low: int  # least output
    high: int  # greatest output
    upsample: int = 1  # pixel-shuffle factor applied at the end

    def __post_init__(self) -> None:
        weight, bias = self.weight, self.bias
        sound = (
            weight.dtype == np.int8
            and bias.dtype == np.int32
            and (weight.ndim, bias.ndim) == (4, 2)
            and weight.size * bias.size > 0
            and weight.shape[2] == weight.shape[3]
            and weight.shape[2] in KERNELS
            and bias.shape[1] == weight.shape[0]
            and 1 <= self.shift <= 16
            and -EXACT_LIMIT < self.low <= self.high < EXACT_LIMIT
            and 1 <= self.upsample <= MAX_UPSAMPLE
            and len(weight) % self.upsample**2 == 0
        )
        if not sound:
            raise ModelError(
                f"integer layer: unsound parameters: weight {weight.dtype}{weight.shape}, "
                f"bias {bias.dtype}{bias.shape}, shift {self.shift}, "
                f"range [{self.low}, {self.high}], upsample {self.upsample}"
            )

    @property
    def channels(self) -> int:
        """Channels of the output, after the pixel shuffle."""
        return len(self.weight) // self.upsample**2

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[2])

    @property
    def arrays(self) -> LayerArrays:
        """The layer as the core takes it."""
        return LayerArrays(self.weight, self.bias, self.shift, self.low, self.high, self.upsample)

    @property
    def largest_output(self) -> int:
        """Bound of any output's magnitude."""
        return max(abs(self.low), abs(self.high))

    @cached_property
    def _magnitudes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sum of the weights' magnitudes and largest offset of each output channel."""
        # In int64: the magnitude of int8's -128 would wrap around to -128.
        weights = np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3))
        return weights, np.abs(self.bias.astype(np.int64)).max(axis=0) + 2 ** (self.shift - 1)

    def largest_sum(self, largest_input: int) -> int:
        """Bound of any partial sum's magnitude, rounding offset included."""
        weights, offsets = self._magnitudes
        return int((weights * largest_input + offsets).max())

    @cached_property
    def largest_input(self) -> int:
        """Bound of the inputs for which every sum is exact, of int16's at the most."""
        weights, offsets = self._magnitudes
        return min(int(((EXACT_LIMIT - 1 - offsets) // np.maximum(weights, 1)).min()), MAX_INPUT)

    def __call__(self, x: Integers, quality: int) -> Integers:
        """Map integers (h, w, channels) within ``largest_input`` to (u * h, u * w, out / u^2)."""
        native = native_network((self,), self.largest_input)
        return cells_of(native, x, quality, self.upsample, self.channels)


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A chain of integer layers from a hyper-latent to table indices.

    Raises:
        ModelError: some sum could reach 2^24 and stop being exact, the layers do not fit each
            other, or the outputs do not fit into bytes.
    """

    layers: tuple[IntegerLayer, ...]  # in order
    bound: int  # the inputs lie in [-bound, bound]

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS or not 1 <= self.bound <= MAX_BOUND:
            raise ModelError(
                f"integer network: expected 1 to {MAX_LAYERS} layers and a bound of 1 to "
                f"{MAX_BOUND}, found {len(self.layers)} and {self.bound}"
            )
        for position, (layer, follower) in enumerate(pairwise(self.layers)):
            if layer.channels != follower.weight.shape[1]:
                raise ModelError(
                    f"integer layer {position + 1}: expected {layer.channels} input channels, "
                    f"found {follower.weight.shape[1]}"
                )
        low, high = self.layers[-1].low, self.layers[-1].high
        if low < 0 or high > 255:
            raise ModelError(f"integer network: expected indices 0 to 255, found {low} to {high}")
        self._prove_exact()

    def _prove_exact(self) -> None:
        largest_input = self.bound
        for position, layer in enumerate(self.layers):
            if (largest := layer.largest_sum(largest_input)) >= EXACT_LIMIT:
                raise ModelError(
                    f"integer layer {position}: sums may reach {largest}, expected less than 2^24"
                )
            # Clipping bounds what the next layer is given, whatever this one was given.
            largest_input = layer.largest_output
            if largest_input > MAX_INPUT and layer is not self.layers[-1]:
                raise ModelError(
                    f"integer layer {position}: outputs may reach {largest_input}, which do not "
                    "fit into int16"
                )

    @property
    def inputs(self) -> int:
        """Channels of the input."""
        return int(self.layers[0].weight.shape[1])

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.layers[-1].channels

    @property
    def highest(self) -> int:
        """Greatest output that can come out."""
        return self.layers[-1].high

    @cached_property
    def upsample(self) -> int:
        """Height of the output over height of the input."""
        return prod(layer.upsample for layer in self.layers)

    def __call__(
        self, z: NDArray[np.integer], quality: int, size: Size | None = None
    ) -> NDArray[np.uint8]:
        """Return indices (C, u * h, u * w) of ``z`` (C_z, h, w), |z| <= bound; quality from 0.

        Of a smaller ``size`` (height, width), only the top left is computed.
        """
        height, width = size or (self.upsample * z.shape[1], self.upsample * z.shape[2])
        native = native_network(self.layers, self.bound)
        try:
            return planes_of(native, z, quality, (self.channels, height, width))
        except CoreError as error:
            limits = f"[-{self.bound}, {self.bound}]"
            found = f"[{z.min(initial=0)}, {z.max(initial=0)}]"
            raise CodingError(
                f"integer network: expected a map within {limits}, found {z.shape} within {found}"
            ) from error

    def canonical_bytes(self) -> bytes:
        """Serialise in the one fixed little-endian layout that fingerprints hash."""
        parts = [b"CDVI", struct.pack("<BB", len(self.layers), self.bound)]
        for layer in self.layers:
            parts.append(struct.pack("<Biib", layer.shift, layer.low, layer.high, layer.upsample))
            parts.append(struct.pack("<4I", *layer.weight.shape) + layer.weight.tobytes())
            parts.append(struct.pack("<2I", *layer.bias.shape) + layer.bias.astype("<i4").tobytes())
        return b"".join(parts)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays that an npz file stores; ``from_arrays`` reads them back."""
        arrays: dict[str, NDArray[np.generic]] = {"bound": np.array([self.bound], np.int32)}
        for i, layer in enumerate(self.layers):
            settings = [layer.shift, layer.low, layer.high, layer.upsample]
            arrays[f"{i}/weight"], arrays[f"{i}/bias"] = layer.weight, layer.bias
            arrays[f"{i}/settings"] = np.array(settings, np.int32)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> IntegerNetwork:
        """Rebuild a network from ``to_arrays``, proof included; raises ModelError."""
        count = (len(arrays) - 1) // 3
        try:
            if not 1 <= count <= MAX_LAYERS or len(arrays) != 3 * count + 1:
                raise ValueError(f"{len(arrays)} arrays")
            parts = [[arrays[f"{i}/{part}"] for part in LAYER_ARRAYS] for i in range(count)]
            bound = arrays["bound"]
        except (KeyError, ValueError) as error:
            raise ModelError(f"integer network: the stored arrays are not one ({error})") from error
        layers = [
            IntegerLayer(weight, bias, *integers(settings, 4))  # type: ignore[arg-type]
            for weight, bias, settings in parts
        ]
        return cls(tuple(layers), *integers(bound, 1))


# Layers hash by identity: a few models' worth stay ready.
@lru_cache(maxsize=256)
def native_network(layers: tuple[IntegerLayer, ...], bound: int) -> Handle:
    """Return layers in the form that the core runs."""
    return new_network([layer.arrays for layer in layers], bound)


def integers(array: NDArray[np.generic], count: int) -> list[int]:
    """Read a vector of settings; raises ModelError."""
    if array.dtype != np.int32 or array.shape != (count,):
        raise ModelError(
            f"integer network: expected {count} int32 settings, "
            f"found {array.dtype} of shape {array.shape}"
        )
    numbers: list[int] = array.tolist()
    return numbers


def joined_bytes(parts: Sequence[bytes]) -> bytes:
    """Length-prefix and join byte strings, so that no two lists share one serialisation."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)
