"""Where the parts of DICM are."""

from __future__ import annotations

from cdvision.package.families import Family

HERE = "cdvision.models.dicm"

FAMILY = Family(
    graphs={"dicm": f"{HERE}.graphs"},
    commands={
        "train": {
            "dicm": f"{HERE}.commands.stages:dicm",
            "convert-zoo": f"{HERE}.commands.package:convert_zoo",
        },
        "bench": {"fidelity": f"{HERE}.commands.fidelity:fidelity"},
    },
    costs={
        "dicm": f"{HERE}.cost:dicm_parts",
        "dicm-re": f"{HERE}.cost:dicm_re_parts",
        "dicm-light": f"{HERE}.cost:dicm_light_parts",
    },
)
