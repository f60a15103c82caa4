"""Momentum contrast: two encoders, a queue of keys, and the InfoNCE loss between them.

Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020;
the two-layer head and the temperature of Chen et al., "Improved Baselines with Momentum
Contrastive Learning" (MoCo v2), 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.models.dicm.training.options import QUEUE

EMBEDDING = 128
MOMENTUM = 0.999
TEMPERATURE = 0.2


def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the mean of -log(e^{q·k+/τ} / (e^{q·k+/τ} + Σ e^{q·k-/τ})).

    All are unit vectors: queries (N, D), the keys of the same photos (N, D), other keys (K, D).
    """
    # A classification: the positive, column 0, is the right class among all keys.
    alike = (query * positive).sum(1, keepdim=True)  # (N, 1)
    logits = torch.cat([alike, query @ negatives.T], dim=1) / temperature  # (N, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


class KeyQueue(nn.Module):
    """First in, first out: the keys of the last batches, as negatives."""

    keys: Tensor
    cursor: Tensor

    def __init__(self, size: int = QUEUE, embedding: int = EMBEDDING) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, embedding), dim=1))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by new ones (N, D); N is at most the queue's size."""
        size = len(self.keys)
        if len(keys) > size:
            raise CdvisionError(
                f"the queue must hold at least one batch, but it holds {size} keys and the batch "
                f"has {len(keys)}: raise --queue or lower --batch"
            )
        # A ring: the cursor stands at the oldest key.
        places = (self.cursor + torch.arange(len(keys), device=keys.device)) % size
        self.keys[places] = keys.to(self.keys.dtype)
        self.cursor.copy_((self.cursor + len(keys)) % size)


class MomentumContrast(nn.Module):
    """An encoder's slow copy, the heads of both, the queue, and the loss of two views.

    The encoder, whose pooled features have ``channels``, is trained elsewhere.
    """

    def __init__(
        self, encoder: nn.Module, channels: int, *, queue: int = QUEUE, groups: int = 4
    ) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, EMBEDDING)
        )
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.queue, self.groups = KeyQueue(queue), groups
        self._key: Tensor | None = None  # of the batch that the optimiser learns from

    def query(self, pooled: Tensor) -> Tensor:
        """Return unit vectors (N, D) of pooled features (N, C) of the trained encoder."""
        return F.normalize(self.head(pooled).float(), dim=1)

    @torch.no_grad()
    def key(self, view: Tensor, pool: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Tensor:
        """Return unit vectors (N, D) of views (N, 3, S, S) by the slow encoder.

        ``pool`` maps an encoder, some views and their positions in the batch to features (n, C).
        """
        # Shuffled into several batches, so that the statistics of batch normalisation do not tell
        # which key belongs to which query: the paper's shuffled normalisation, on one device.
        order = torch.randperm(len(view), device="cpu").to(view.device)
        keys = view.new_empty(len(view), self.queue.keys.shape[1])
        for part in order.chunk(max(1, min(self.groups, len(view) // 2))):
            pooled = pool(self.key_encoder, view[part], part)
            keys[part] = F.normalize(self.key_head(pooled).float(), dim=1)
        return keys

    def loss(self, query: Tensor, key: Tensor) -> Tensor:
        """Return InfoNCE of a batch against the queue, where `advance` puts its keys later."""
        self._key = key
        # A copy: the queue moves on before gradients are computed.
        return info_nce(query, key, self.queue.keys.clone(), TEMPERATURE)

    @torch.no_grad()
    def advance(self, encoder: nn.Module) -> None:
        """After an optimiser's step: pull the slow copy along and push the batch's keys."""
        # Slow <- momentum * slow + (1 - momentum) * trained, parameter by parameter.
        for slow, trained in ((self.key_encoder, encoder), (self.key_head, self.head)):
            for mean, value in zip(slow.parameters(), trained.parameters(), strict=True):
                mean.lerp_(value.detach(), 1 - MOMENTUM)
        if self._key is not None:
            self.queue.push(self._key)
