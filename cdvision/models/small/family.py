"""Where the parts of `small` are."""

from __future__ import annotations

from cdvision.package.families import Family

HERE = "cdvision.models.small"

FAMILY = Family(
    graphs={"small": f"{HERE}.graphs"},
    commands={
        "train": {
            "small": f"{HERE}.commands.stages:small",
            "receiver": f"{HERE}.commands.stages:receiver",
            "descriptor": f"{HERE}.commands.stages:descriptor",
            "average": f"{HERE}.commands.stages:average",
            "sequence": f"{HERE}.commands.sequence:sequence",
            "masks": f"{HERE}.commands.masks:masks",
            "add-masks": f"{HERE}.commands.masks:add_masks",
        }
    },
    builders={"small": f"{HERE}.package_builder:build_package"},
    costs={"small": f"{HERE}.cost:parts", "small-next": f"{HERE}.cost:wide_parts"},
    uncompressed={"small": f"{HERE}.uncompressed:uncompressed_networks"},
)
