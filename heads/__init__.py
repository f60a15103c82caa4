"""Task heads: a dense network and its numpy post-processing, side by side.

The post-processing is shared by all engines; it needs numpy, and numba for boxes and masks.
"""

from __future__ import annotations

from cdvision.heads.class_scores import classification_from_logits
from cdvision.heads.dense_detection import detect_from_dense

__all__ = ["classification_from_logits", "detect_from_dense"]
