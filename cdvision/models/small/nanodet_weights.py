"""Loads the published weights of NanoDet-Plus into our modules, by name.

The file names its tensors after the layers of an exported graph; the table below says which of our
modules each layer is. The files and their licences: NOTICE and the model card.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cdvision.models.small.nanodet import PLAIN, WIDE, WIDTHS, NanoDetFront, NanoDetTail
from cdvision.networks.initial_weights import read_weights

FILES = {PLAIN: "nanodet_plus_m_416.safetensors", WIDE: "nanodet_plus_m_1.5x_416.safetensors"}


def load_nanodet(folder: Path, detector: str = PLAIN) -> tuple[NanoDetFront, NanoDetTail]:
    """Return a NanoDet-Plus of 416 pixels (COCO) as front and tail, in evaluation mode."""
    tensors = read_weights(folder / FILES[detector])
    # The file's first convolution reads BGR; ours reads RGB like the rest of the package.
    tensors["convrelu_0.weight"] = tensors["convrelu_0.weight"].flip(1)
    front, tail = NanoDetFront(WIDTHS[detector]), NanoDetTail(WIDTHS[detector])
    front.load_state_dict(_rename(tensors, _front_layers()))
    tail.load_state_dict(_rename(tensors, _tail_layers()))
    return front.eval(), tail.eval()


def _rename(tensors: dict[str, Tensor], layers: dict[str, str]) -> dict[str, Tensor]:
    return {
        f"{ours}.{part}": tensors[f"{theirs}.{part}"]
        for ours, theirs in layers.items()
        for part in ("weight", "bias")
    }


def _stage(prefix: str, *, conv: int, depthwise: int, repeats: int) -> dict[str, str]:
    """Name a ShuffleNet stage whose layers are numbered consecutively in the exported graph."""
    names = {
        f"{prefix}.0.left.0": f"convdw_{depthwise}",
        f"{prefix}.0.left.1.0": f"convrelu_{conv + 2}",
        f"{prefix}.0.right.0.0": f"convrelu_{conv}",
        f"{prefix}.0.right.1": f"convdw_{depthwise + 1}",
        f"{prefix}.0.right.2.0": f"convrelu_{conv + 1}",
    }
    for unit in range(1, repeats + 1):
        names |= {
            f"{prefix}.{unit}.right.0.0": f"convrelu_{conv + 1 + 2 * unit}",
            f"{prefix}.{unit}.right.1": f"convdw_{depthwise + 1 + unit}",
            f"{prefix}.{unit}.right.2.0": f"convrelu_{conv + 2 + 2 * unit}",
        }
    return names


def _front_layers() -> dict[str, str]:
    return (
        {"stem.0.0": "convrelu_0"}
        | _stage("stage2", conv=1, depthwise=161, repeats=3)
        | _stage("stage3", conv=10, depthwise=166, repeats=7)
    )


def _ghost_block(
    prefix: str, *, conv: int, cheap: int, linear: int, depthwise: int
) -> dict[str, str]:
    return {
        f"{prefix}.ghosts.0.primary.0": f"convrelu_{conv}",
        f"{prefix}.ghosts.0.cheap.0": f"convdwrelu_{cheap}",
        f"{prefix}.ghosts.1.primary": f"conv_{linear}",
        f"{prefix}.ghosts.1.cheap": f"convdw_{depthwise}",
        f"{prefix}.shortcut.0": f"convdw_{depthwise + 1}",
        f"{prefix}.shortcut.1": f"conv_{linear + 1}",
    }


def _pair(prefix: str, depthwise: int, conv: int) -> dict[str, str]:
    return {f"{prefix}.0.0": f"convdwrelu_{depthwise}", f"{prefix}.1.0": f"convrelu_{conv}"}


def _branch(level: int, depthwise: int, convs: tuple[int, int], last: int) -> dict[str, str]:
    prefix = f"head.branches.{level}"
    return {
        f"{prefix}.0.0": f"convdwrelu_{depthwise}",
        f"{prefix}.1.0": f"convrelu_{convs[0]}",
        f"{prefix}.2.0": f"convdwrelu_{depthwise + 1}",
        f"{prefix}.3.0": f"convrelu_{convs[1]}",
        f"{prefix}.4": f"conv_{last}",
    }


def _tail_layers() -> dict[str, str]:
    return (
        _stage("stage4", conv=27, depthwise=175, repeats=3)
        | {"neck.reduce.0.0": "convrelu_39", "neck.reduce.1.0": "convrelu_37"}
        | {"neck.reduce.2.0": "convrelu_36"}
        | _ghost_block("neck.up16", conv=38, cheap=0, linear=60, depthwise=181)
        | _ghost_block("neck.up8", conv=40, cheap=1, linear=63, depthwise=184)
        | _ghost_block("neck.fuse16", conv=42, cheap=3, linear=67, depthwise=188)
        | _ghost_block("neck.fuse32", conv=44, cheap=5, linear=71, depthwise=192)
        | _pair("neck.down16", 2, 41)
        | _pair("neck.down32", 4, 43)
        | _pair("neck.extra_in", 6, 46)
        | _pair("neck.extra_out", 7, 45)
        | _branch(0, 8, (47, 54), 77)
        | _branch(1, 10, (48, 53), 80)
        | _branch(2, 12, (49, 52), 83)
        | _branch(3, 14, (50, 51), 86)
    )
