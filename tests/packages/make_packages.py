"""Writes the tiny packages `test-dicm-re` and `test-dicm`: the real architectures, few channels.

    python tests/packages/make_packages.py

Random weights, so their answers mean nothing; everything that is exact about a package is exact
about these. Their class names are made up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from cdvision.networks.dicm_package import DicmPackage, DicmSettings
from cdvision.package.builder import PackageFacts
from cdvision.package.dicm_builder import DicmFacts, build_dicm

FOLDER = Path(__file__).parent
CLASSES = {"classifier": ("round", "square", "striped"), "detector": ("thing", "other thing")}
DETECTOR = {
    "classes": 2,
    "channels": [24, 32],
    "strides": [8, 16],
    "out_channels": 8,
    "representation": 16,
    "mask_channels": [8],
    "anchor_sizes": [64, 128, 256],
    "proposals_per_level": 50,
    "proposals": 50,
}


def make(profile: str, folder: Path) -> None:
    """Write one package."""
    torch.manual_seed(0)
    model = DicmPackage(DicmSettings(profile, "tiny", classes=3, detector=DETECTOR))
    for parameter in model.parameters():  # layer scales of 1e-6 would hide most of the network
        if parameter.ndim == 1 and float(parameter.detach().abs().max()) < 1e-5:
            parameter.data += 0.3 * torch.randn_like(parameter)
    names = DicmFacts(f"test-{profile}", "For tests: random weights.", ())
    build_dicm(model, folder, names, PackageFacts(CLASSES, {"steps": 0}))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name in ("dicm-re", "dicm"):
        make(name, target / f"test-{name}")
