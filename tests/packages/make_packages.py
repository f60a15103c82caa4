"""Writes the tiny `test-*` packages: the real architectures with few channels.

    python tests/packages/make_packages.py

Random weights, so their answers mean nothing; everything that is exact about a package is exact
about these. Their class names are made up.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from cdvision.building.package_builder import PackageFacts
from cdvision.heads.attribute_answers import AttributeCalibration
from cdvision.models.dicm.backbones import TINY_ZOO, make_backbone
from cdvision.models.dicm.light_codec import LightCodec
from cdvision.models.dicm.network import DicmPackage, DicmSettings
from cdvision.models.dicm.package_builder import DicmFacts, build_dicm
from cdvision.models.dicm.training.map_start import start_codec
from cdvision.models.dicm.training.stage_errors import StageErrors
from cdvision.models.faces.hsc import HscCodec
from cdvision.models.faces.network import FacePackage, FaceSettings
from cdvision.models.faces.package_builder import FaceFacts, build_faces
from cdvision.models.faces.style_layers import StyleLayers, style_layout
from cdvision.models.faces.training.codec_stage import target_bytes
from cdvision.models.faces.training.face_bank import FaceCodes
from cdvision.models.faces.training.hsc_start import start_hsc
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.models.faces.training.style_start import start_style_layers
from cdvision.models.faces.widths import FACE_TINY, tiny_widths

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


LATER = {"hsc": (1.0,), "sfic-style": (0.6, 0.4)}  # shares of the layers behind the first
ATTRIBUTES = tuple(f"Attribute_{number}" for number in range(1, 41))


def make_faces(profile: str, folder: Path) -> None:
    """Write the package of a face profile."""
    torch.manual_seed(0)
    layout = replace(style_layout(FACE_TINY), width=16, heads=2, blocks=1)
    codec = tiny_widths() if profile == "hsc" else layout
    model = FacePackage(FaceSettings(profile, asdict(FACE_TINY), asdict(codec)))
    model.score.threshold.fill_(-1e4)  # tests code anything
    spread_symbols(model.eval())
    rows = np.ones((3, len(ATTRIBUTES)))
    calibration = AttributeCalibration(rows, 0 * rows, rows / 2, ATTRIBUTES[:5])
    names = FaceFacts(f"test-{profile}", "For tests: random weights.", "none", (), calibration)
    build_faces(model, folder, names, PackageFacts({"attributes": ATTRIBUTES}, {"steps": 0}))


def spread_symbols(model: FacePackage) -> None:
    """Set gains and tables by made-up pictures: random ones leave all symbols at zero."""
    side = model.widths.resolution
    coarse = 255 * torch.rand(200, 3, 8, 8)
    with torch.no_grad():
        codes = model.encoder(torch.nn.functional.interpolate(coarse, (side, side)))
    faces = FaceCodes(codes.rows, codes.feature.half(), torch.zeros(200, 0))
    metric = StyleMetric(faces.rows[0].numel())
    metric.measure(faces.rows[:64], (model.generator.synthesise,))
    targets = target_bytes((30, 90), (100, 350), later=LATER[model.settings.profile])
    with torch.no_grad():
        if isinstance(model.codec, HscCodec):
            start_hsc(model.codec, metric, model.generator, faces, targets)
        elif isinstance(model.codec, StyleLayers):
            start_style_layers(model.codec, metric, faces.rows, targets)


def make(profile: str, folder: Path) -> None:
    """Write one package."""
    torch.manual_seed(0)
    model = DicmPackage(DicmSettings(profile, "tiny", classes=3, detector=DETECTOR))
    for parameter in model.parameters():  # layer scales of 1e-6 would hide most of the network
        if parameter.ndim == 1 and float(parameter.detach().abs().max()) < 1e-5:
            parameter.data += 0.3 * torch.randn_like(parameter)
    names = DicmFacts(f"test-{profile}", "For tests: random weights.", ())
    build_dicm(model, folder, names, PackageFacts(CLASSES, {"steps": 0}))


def make_light(profile: str, folder: Path) -> None:
    """Write the package of `dicm-light`, begun as a linear code of made-up photos."""
    torch.manual_seed(0)
    codec = LightCodec(*make_backbone("tiny-zoo"), TINY_ZOO)
    coarse = 255 * torch.rand(12, 3, 12, 12)
    photos = torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic").clamp(0, 255)
    errors = StageErrors((16, 24, 32))
    start_codec(
        codec, errors, [(photos, 128)], [photos], (60, 120, 240, 480, 960, 1920, 3840, 7680)
    )
    model = DicmPackage(DicmSettings(profile, "tiny-zoo", tail=False))
    state = {k: v for k, v in codec.state_dict().items() if not k.startswith("tail.")}
    model.codec.load_state_dict({name: value.half().float() for name, value in state.items()})
    names = DicmFacts(f"test-{profile}", "For tests: random weights.", ())
    build_dicm(model, folder, names, PackageFacts({}, {"steps": 0}))


MAKERS = {
    "dicm-light": make_light,
    "dicm-re": make,
    "dicm": make,
    "hsc": make_faces,
    "sfic-style": make_faces,
}

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, write in MAKERS.items():
        write(name, target / f"test-{name}")
