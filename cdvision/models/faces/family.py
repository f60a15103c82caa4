"""Where the parts of the face models are."""

from __future__ import annotations

from cdvision.package.families import Family

HERE = "cdvision.models.faces"

FAMILY = Family(
    graphs={"faces": f"{HERE}.graphs"},
    commands={
        "train": {"faces": f"{HERE}.commands.group:faces"},
        "bench": {"faces": f"{HERE}.commands.bench:faces"},
    },
)
