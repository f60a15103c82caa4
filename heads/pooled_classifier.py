"""Classification head of a residual network: average pooling and one linear layer.

Its logits go to ``class_scores.py``, as those of every classifier.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class PooledClassifier(nn.Module):
    """The mean over the map and a linear layer; a dense graph for any size of map.

    >>> import torch
    >>> PooledClassifier(2048, classes=20)(torch.zeros(3, 2048, 7, 9)).shape
    torch.Size([3, 20])

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016.
    """

    def __init__(self, channels: int, *, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, h, w) features to (N, classes) logits."""
        return cast(Tensor, self.fc(features.mean(dim=(2, 3))))
