"""Where the parts of encoders for any set of networks are."""

from __future__ import annotations

from cdvision.package.families import Family

HERE = "cdvision.models.any_network"

FAMILY = Family(
    graphs={"served": f"{HERE}.graphs"},
    commands={"train": {"encoder": f"{HERE}.commands.encoder:encoder"}},
    builders={"encoder": f"{HERE}.commands.encoder:build_package"},
)
