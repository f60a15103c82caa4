"""Selection of a two-stage detector in numpy: proposals, RoIAlign, boxes, masks.

Results equal torchvision's. An engine runs the dense parts between the steps.
"""

from __future__ import annotations

from cdvision.heads.two_stage.config import TwoStageConfig
from cdvision.heads.two_stage.detector import detect_two_stage

__all__ = ["TwoStageConfig", "detect_two_stage"]
