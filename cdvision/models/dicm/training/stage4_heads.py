"""Stage 4: task heads, and on request the tail, on features as they are or as they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.heads.two_stage.network import TwoStageDetector
from cdvision.models.dicm.codec import DicmCodec
from cdvision.models.dicm.training.detector_losses import detector_losses, keep_boxes_exact
from cdvision.models.dicm.training.options import HeadsOptions
from cdvision.models.dicm.training.rate_stage import draw_qualities
from cdvision.training.labelled_boxes import LabelledBank
from cdvision.training.labelled_classes import ClassBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, freeze, lay_out, pool, stages_of
from cdvision.training.stage import Stage

TAIL_SHARE = 0.1  # of the learning rate: a tail that knows much learns slowly
MEASURED = 64  # crops from which a classifier's inputs are standardised
WEIGHT_DECAY = 1e-4


class StandardisedLinear(nn.Module):
    """A linear layer (classes, C), trained in place, behind (x - mean) / spread."""

    # Averages of late features differ by hundredths from photo to photo: a layer that reads them
    # as they are needs weights of tens, and had not left its start after two thousand steps.
    mean: Tensor
    spread: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("mean", torch.zeros(linear.in_features))
        self.register_buffer("spread", torch.ones(linear.in_features))

    @torch.no_grad()
    def measure(self, samples: Tensor) -> None:
        """Take mean and spread from samples (n, C)."""
        spread = samples.std(0)
        self.mean.copy_(samples.mean(0))
        # With a floor: what hardly varies must count less, not more.
        self.spread.copy_(spread + 0.5 * spread.mean() + 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C) to (N, classes)."""
        logits: Tensor = self.linear((x - self.mean) / self.spread)
        return logits

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return the one linear layer that does the same."""
        # W (x - m) / s + b  =  (W / s) x  +  b - (W / s) m
        weight = self.linear.weight / self.spread
        folded = nn.Linear(self.linear.in_features, self.linear.out_features).to(weight.device)
        folded.weight.copy_(weight)
        folded.bias.copy_(self.linear.bias - weight @ self.mean)
        return folded


@dataclass(frozen=True)
class DetectionTask:
    """A detector, the photos it learns from, and how often it is drawn."""

    head: TwoStageDetector
    bank: LabelledBank
    classes: tuple[str, ...]
    share: float = 1.0

    speed: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        keep_boxes_exact(self.head)

    def losses(self, stage: HeadsStage, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return torchvision's losses of one batch."""
        batch = self.bank.batch(stage.plan.batch, rng)
        stages = stage.stages(batch.images, rng)
        found = [one.float() for one in stages[-len(self.head.strides) :]]
        return detector_losses(self.head, found, batch.sizes, batch.targets)

    def finished(self) -> nn.Module:
        """Return the detector."""
        return self.head


@dataclass(frozen=True)
class ClassificationTask:
    """A linear classifier of pooled features, its photos, and how often it is drawn."""

    head: StandardisedLinear
    bank: ClassBank
    classes: tuple[str, ...]
    share: float = 0.2

    speed: ClassVar[float] = 25.0  # one linear layer on standardised averages learns fast

    def standardise(self, stage: HeadsStage, rng: np.random.Generator) -> None:
        """Measure what the classifier reads."""
        size = stage.plan.batch
        images = [self.bank.batch(size, rng)[0] for _ in range(max(2, MEASURED // size))]
        pooled = [pool(stage.stages(image, rng)[-1]).detach() for image in images]
        self.head.measure(torch.cat(pooled))

    def losses(self, stage: HeadsStage, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the cross entropy of one batch."""
        image, labels = self.bank.batch(stage.plan.batch, rng)
        logits = self.head(pool(stage.stages(image, rng)[-1])).float()
        return {"classes": F.cross_entropy(logits, labels.to(logits.device))}

    def finished(self) -> nn.Module:
        """Return the linear layer that reads averages as they are."""
        return self.head.folded()


HeadTask = DetectionTask | ClassificationTask


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
    """Features as they arrive from a trained codec, at a quality drawn for each photo."""

    def __init__(self, model: DicmCodec) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Send and receive."""
        quality = draw_qualities(len(image), rng, image.device)
        return self.model.transmit_image(image, quality).features


class HeadsStage(Stage):
    """Train heads, one task a step, drawn by the tasks' shares.

    The tail, which the tasks share, is tuned with ``train_tail``; its statistics of batch
    normalisation stay. The source of features is never trained.
    """

    name = "heads"

    def __init__(
        self,
        tail: nn.Module,
        source: PixelFeatures | StreamFeatures,
        tasks: dict[str, HeadTask],
        plan: Plan,
        options: HeadsOptions,
    ) -> None:
        if not tasks:
            raise CdvisionError("heads: expected at least one task, found none")
        self.source, self.tasks, self.plan = source, tasks, plan
        rate, self.train_tail = options.learning_rate, options.train_tail
        heads = {name: task.head for name, task in tasks.items()}
        self.network = nn.ModuleDict(heads | {"tail": tail})
        lay_out(self.network, plan.device).train()
        freeze(lay_out(source, plan.device))
        self.tail = tail.requires_grad_(self.train_tail).eval()
        groups: list[dict[str, Any]] = [
            {"params": list(task.head.parameters()), "lr": rate * task.speed}
            for task in tasks.values()
        ]
        if self.train_tail:
            groups.append({"params": list(tail.parameters()), "lr": rate * TAIL_SHARE})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"network": self.network}

    def begin(self, rng: np.random.Generator) -> None:
        """Standardise what classifiers read."""
        for task in self.tasks.values():
            if isinstance(task, ClassificationTask):
                task.standardise(self, rng)

    def result(self) -> nn.Module:
        """Return heads by task, and the tail; a classifier reads averages as they are."""
        heads = {name: task.finished() for name, task in self.tasks.items()}
        return nn.ModuleDict(heads | {"tail": self.tail})

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one task on one batch."""
        names = list(self.tasks)
        shares = np.array([self.tasks[name].share for name in names])
        name = names[rng.choice(len(names), p=shares / shares.sum())]
        with self.plan.autocast():
            terms = self.tasks[name].losses(self, rng)
        named = {f"{name}/{key.removeprefix('loss_')}": value for key, value in terms.items()}
        return torch.stack([*terms.values()]).sum(), named

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        classes = {name: list(task.classes) for name, task in self.tasks.items()}
        return {"classes": classes, "tail_trained": self.train_tail}

    def stages(self, image: Tensor, rng: np.random.Generator) -> list[Tensor]:
        """Return features of (N, 3, H, W) and the stages behind them, finest first."""
        image = channels_last(image, self.plan.device)
        with torch.no_grad():
            features: Tensor = self.source(image, rng)
        with torch.set_grad_enabled(self.train_tail):
            return [features, *stages_of(self.tail, features)]
