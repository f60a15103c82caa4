"""Stage 4: task heads, and on request the tail, on features as they are or as they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.heads.two_stage.network import TwoStageDetector
from cdvision.models.dicm.training.detector_losses import detector_losses, keep_boxes_exact
from cdvision.models.dicm.training.options import HeadsOptions
from cdvision.models.dicm.training.rate_stage import draw_qualities
from cdvision.models.dicm.training.standardised import StandardisedLinear
from cdvision.training.labelled_boxes import LabelledBank
from cdvision.training.labelled_classes import ClassBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import (
    CodecModel,
    RedundancyModel,
    channels_last,
    freeze,
    lay_out,
    pool,
    stages_of,
)
from cdvision.training.stage import Stage

TAIL_SHARE = 0.1  # of the learning rate: a tail that knows much learns slowly
LINEAR_RATE = 25  # times as fast: one linear layer on standardised averages
MEASURED = 64  # crops from which a classifier's inputs are standardised
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class DetectionTask:
    """A detector, the photos it learns from, and how often it is drawn."""

    detector: TwoStageDetector
    bank: LabelledBank
    classes: tuple[str, ...]
    share: float = 1.0


@dataclass(frozen=True)
class ClassificationTask:
    """A linear classifier of pooled features, its photos, and how often it is drawn."""

    classifier: StandardisedLinear
    bank: ClassBank
    classes: tuple[str, ...]
    share: float = 0.2


class PixelFeatures(nn.Module):
    """Features of the uncompressed network: (N, 3, H, W) -> (N, 256, H/4, W/4)."""

    def __init__(self, front: nn.Module) -> None:
        super().__init__()
        self.front = front

    def forward(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Run the front."""
        features: Tensor = self.front(image)
        return features


class StreamFeatures(nn.Module):
    """Features as they arrive at a quality drawn for each photo.

    Args:
        model: a trained RE model for the profile `dicm-re`, or a trained codec for `dicm`.
        qualities: of the model.
    """

    def __init__(self, model: nn.Module, *, qualities: int = 8) -> None:
        super().__init__()
        self.model, self.qualities = model, qualities

    def forward(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Send and receive."""
        quality = draw_qualities(self.qualities, len(image), rng, image.device)
        if not hasattr(self.model, "re"):
            re = cast(RedundancyModel, self.model)
            return re.transmit(re.front(image), quality).features
        codec = cast(CodecModel, self.model)
        filtered = codec.re.transmit(codec.re.front(image), quality).features
        return codec.transmit(filtered, quality).features


class HeadsStage(Stage):
    """Train heads, one task a step, drawn by the tasks' shares.

    Args:
        tail: shared by the tasks; frozen unless ``train_tail``.
        source: module that makes features of (N, 3, H, W) and a generator; never trained.
        tasks: by name.
        plan: length, batch, device.
        options: learning rate of the heads (a linear classifier's is ``LINEAR_RATE`` times as
            much), and whether the tail is tuned too; its statistics of batch normalisation stay.
    """

    name = "heads"

    def __init__(
        self,
        tail: nn.Module,
        source: PixelFeatures | StreamFeatures,
        tasks: dict[str, DetectionTask | ClassificationTask],
        plan: Plan,
        options: HeadsOptions | None = None,
    ) -> None:
        if not tasks:
            raise CdvisionError("heads: expected at least one task, found none")
        self.source, self.tasks, self.plan = source, tasks, plan
        options = options or HeadsOptions()
        rate, self.train_tail = options.learning_rate, options.train_tail
        heads = {name: head_of(task) for name, task in tasks.items()}
        for head in heads.values():
            if isinstance(head, TwoStageDetector):
                keep_boxes_exact(head)
        self.network = nn.ModuleDict(heads | {"tail": tail})
        lay_out(self.network, plan.device).train()
        freeze(lay_out(source, plan.device))
        self.tail = tail.requires_grad_(self.train_tail).eval()
        groups: list[dict[str, Any]] = [
            {
                "params": list(head.parameters()),
                "lr": rate * (LINEAR_RATE if isinstance(head, StandardisedLinear) else 1),
            }
            for head in heads.values()
        ]
        if self.train_tail:
            groups.append({"params": list(tail.parameters()), "lr": rate * TAIL_SHARE})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"network": self.network}

    def begin(self, rng: np.random.Generator) -> None:
        """Standardise what classifiers read."""
        batches = max(2, MEASURED // self.plan.batch)
        for task in self.tasks.values():
            if isinstance(task, ClassificationTask):
                images = [task.bank.batch(self.plan.batch, rng)[0] for _ in range(batches)]
                pooled = [pool(self._stages(image, rng)[-1]).detach() for image in images]
                task.classifier.measure(torch.cat(pooled))

    def result(self) -> nn.Module:
        """Return heads by task, and the tail; a classifier reads averages as they are."""
        parts = self.network.items()
        folded = {n: p.folded() if isinstance(p, StandardisedLinear) else p for n, p in parts}
        return nn.ModuleDict(folded)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one task on one batch."""
        names = list(self.tasks)
        shares = np.array([self.tasks[name].share for name in names])
        name = names[rng.choice(len(names), p=shares / shares.sum())]
        task = self.tasks[name]
        run = self._detect if isinstance(task, DetectionTask) else self._classify
        with self.plan.autocast():
            terms = run(task, rng)  # type: ignore[arg-type]
        named = {f"{name}/{key.removeprefix('loss_')}": value for key, value in terms.items()}
        return torch.stack([*terms.values()]).sum(), named

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        classes = {name: list(task.classes) for name, task in self.tasks.items()}
        return {"classes": classes, "tail_trained": self.train_tail}

    def _detect(self, task: DetectionTask, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = task.bank.batch(self.plan.batch, rng)
        stages = self._stages(batch.images, rng)
        found = [stage.float() for stage in stages[-len(task.detector.strides) :]]
        return detector_losses(task.detector, found, batch.sizes, batch.targets)

    def _classify(self, task: ClassificationTask, rng: np.random.Generator) -> dict[str, Tensor]:
        image, labels = task.bank.batch(self.plan.batch, rng)
        logits = task.classifier(pool(self._stages(image, rng)[-1])).float()
        return {"classes": F.cross_entropy(logits, labels.to(logits.device))}

    def _stages(self, image: Tensor, rng: np.random.Generator) -> list[Tensor]:
        """Features and the stages behind them, finest first."""
        image = channels_last(image, self.plan.device)
        with torch.no_grad():
            features: Tensor = self.source(image, rng)
        with torch.set_grad_enabled(self.train_tail):
            return [features, *stages_of(self.tail, features)]


def head_of(task: DetectionTask | ClassificationTask) -> nn.Module:
    """Return the network that a task trains."""
    return task.detector if isinstance(task, DetectionTask) else task.classifier
