"""The `sfic-style` codec: W+ rows of a face in three layers, basic, middle and enhanced.

::

    basic    ─ tables[quality, row, channel] ───────────────────────── body 0
    middle   ─ tables[ transformer(basic) ] ────────────────────────── body 1
    enhanced ─ tables[ transformer(basic, middle) ] ────────────────── body 2

With no transformer, fixed tables code the later layers as well: then a row's prediction from the
layers before it is what removes redundancy, and only its scale is fixed. Either way predictions are
the engine's business: they may float, and never touch a bit.

Source of the idea: Mao et al., "Scalable Face Image Coding via StyleGAN Prior", IEEE TIP 2024; the
details are not public, the design is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Latents, LayerSpec, symbol_range
from cdvision.entropy.integer_network import integers, joined_bytes
from cdvision.entropy.layered_coder import Code, LayeredCoder
from cdvision.entropy.tables import SymbolTables, named_parts, part_of
from cdvision.errors import ModelError
from cdvision.models.faces.receiver.scale_transformer import ScaleTransformer

Index = NDArray[np.uint16]
LAYERS = ("basic", "middle", "enhanced")


@dataclass(frozen=True, eq=False)
class StyleLayersCoder(LayeredCoder):
    """Latents (rows, symbols) of every layer to one body each, and back.

    Raises:
        ModelError: the parts do not fit each other.
    """

    tables: SymbolTables  # what symbols are coded with; a table of one symbol costs nothing
    fixed: tuple[Index, ...]  # (qualities, rows, symbols): tables of the first layers' symbols
    transformer: ScaleTransformer | None = None  # chooses those of all layers behind one fixed
    qualities: int = field(init=False)
    layers: ClassVar[tuple[LayerSpec, ...]] = tuple(
        LayerSpec(place, (name,), needs=tuple(range(place))) for place, name in enumerate(LAYERS)
    )

    def __post_init__(self) -> None:
        if not self.fixed or any(f.ndim != 3 or f.dtype != np.uint16 for f in self.fixed):
            raise ModelError(
                "style layers: expected fixed tables (qualities, rows, symbols), uint16"
            )
        if len({len(f) for f in self.fixed}) != 1 or min(f.size for f in self.fixed) == 0:
            raise ModelError("style layers: expected fixed tables for the same qualities")
        object.__setattr__(self, "qualities", len(self.fixed[0]))
        if self.transformer is not None:
            self._check_transformer(self.transformer)
        if len(self._shapes()) != len(LAYERS):
            raise ModelError(f"style layers: expected three layers, found {len(self._shapes())}")
        # Checked once here: no stream can then ask for a table that is not there.
        highest = max(int(f.max()) for f in self.fixed)
        if self.transformer is not None:
            highest = max(highest, self.transformer.highest)
        if highest >= len(self.tables):
            raise ModelError(
                f"style layers: expected table indices below {len(self.tables)}, found {highest}"
            )

    def _check_transformer(self, transformer: ScaleTransformer) -> None:
        found = (self.qualities, self.fixed[0].shape[1:], len(self.fixed))
        expected = (transformer.qualities, transformer.shapes[0], 1)
        if found != expected:
            raise ModelError(
                "style layers: qualities, shape of layer 0 and layers of fixed tables: the "
                f"transformer expects {expected}, found {found}"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Rows and symbols a row of each layer."""
        return dict(zip(LAYERS, self._shapes(), strict=True))

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        if self.transformer is not None:
            return self.transformer.shapes
        return tuple(index.shape[1:] for index in self.fixed)

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest symbol of each layer."""
        return dict.fromkeys(LAYERS, symbol_range(self.tables))

    def _code_layer(self, layer: int, known: Latents, quality: int, code: Code) -> None:
        code(..., self._index(layer, known, quality), self.tables)

    def _index(self, layer: int, known: Latents, quality: int) -> NDArray[np.integer]:
        if self.transformer is None or layer == 0:
            index: NDArray[np.integer] = self.fixed[layer][quality]
            return index
        return self.transformer([known[name] for name in LAYERS[:layer]], quality)

    def canonical_parts(self) -> list[bytes]:
        """Serialise everything that decides which bits mean which latents."""
        arrays = self.to_arrays()
        return [b"CDVS", *(_canonical_bytes(name, arrays[name]) for name in sorted(arrays))]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""
        layers: dict[str, NDArray[np.generic]] = {"layers": np.array([len(LAYERS)], np.int32)}
        parts: dict[str, Mapping[str, NDArray[np.generic]]] = {
            "tables": self.tables.to_arrays(),
            "fixed": {str(layer): index for layer, index in enumerate(self.fixed)},
        }
        if self.transformer is not None:
            parts["transformer"] = self.transformer.to_arrays()
        return layers | named_parts(parts)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> StyleLayersCoder:
        """Rebuild a coder from ``tables.npz``, checking everything; raises ModelError."""
        parts = {name: part_of(arrays, name) for name in ("tables", "fixed", "transformer")}
        fixed, network = parts["fixed"], parts["transformer"]
        expected = {str(layer) for layer in range(len(fixed))}
        strange = set(arrays) - set(named_parts(parts)) - {"layers"}
        if strange or set(fixed) != expected or "layers" not in arrays:
            raise ModelError(
                "tables.npz: expected layers, tables, fixed/0, fixed/1, ... without a gap, and at "
                f"most a transformer; unknown: {sorted(strange)}"
            )
        coder = cls(
            tables=SymbolTables.from_arrays(parts["tables"]),
            fixed=tuple(fixed[str(layer)] for layer in range(len(fixed))),  # type: ignore[misc]
            transformer=ScaleTransformer.from_arrays(network) if network else None,
        )
        if integers(arrays["layers"], 1) != [len(LAYERS)]:
            raise ModelError(
                f"tables.npz: expected tables of {arrays['layers'].tolist()} layers, "
                f"found {len(LAYERS)}"
            )
        return coder


def _canonical_bytes(name: str, array: NDArray[np.generic]) -> bytes:
    """Serialise an array with its name, type and shape, little-endian."""
    # The same bytes on machines of either byte order.
    kind = array.dtype.newbyteorder("<")
    head = f"{name} {kind.kind}{kind.itemsize} {array.shape}".encode()
    return joined_bytes([head, array.astype(kind).tobytes()])
