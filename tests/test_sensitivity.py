"""The metric of features: what the networks depend on counts, what they ignore does not."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.models.small.nanodet import FINE_CHANNELS, DetectorFeatures, NanoDetFront, NanoDetTail  # noqa: E402
from cdvision.models.small.network import PACKED_CHANNELS, pack  # noqa: E402
from cdvision.models.small.training.distillation import Sensitivity, Teacher, _probe  # noqa: E402
from cdvision.training.feature_metric import blocks  # noqa: E402

IGNORED = 5  # channel of the finer map that the neck below does not read


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    network = Teacher(NanoDetFront(), NanoDetTail())
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=0.5)
    network.tail.neck.reduce[0][0].weight[:, IGNORED] = 0
    return network.eval()


def test_the_metric_knows_what_is_ignored_and_its_unit(teacher: Teacher) -> None:
    torch.manual_seed(1)
    images = [255 * torch.rand(4, 3, 64, 64) for _ in range(2)]
    sensitivity = Sensitivity()
    sensitivity.measure(teacher, images)
    root = sensitivity.root
    torch.testing.assert_close(root, root.T, atol=1e-4, rtol=1e-3)
    weight = (root @ root).diagonal()[: 4 * FINE_CHANNELS].view(FINE_CHANNELS, 4).mean(1)
    assert weight.argmin() == IGNORED
    assert weight[IGNORED] < 0.2 * weight.median()
    with torch.no_grad():
        features = pack(teacher.front(torch.cat(images)))
    mean = blocks(features, 1).mean(0).view(1, PACKED_CHANNELS, 1, 1)
    nothing = sensitivity.error(mean.expand_as(features), features)
    assert float(nothing) == pytest.approx(1.0, rel=0.1)  # a code that sends nothing loses 1
    assert float(sensitivity.error(features, features)) == 0


def test_answers_are_probed_by_their_variance_and_confidence() -> None:
    class Detector(nn.Module):
        def front(self, image: Tensor) -> DetectorFeatures:
            return DetectorFeatures(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))

        def tail(self, features: DetectorFeatures) -> tuple[Tensor, Tensor]:
            scores = features.coarse.flatten(2) * torch.tensor([1.0, 2.0]) - 1  # logits 0 and 1
            return scores, 3 * features.fine.flatten()[:1].view(1, 1, 1)

    torch.manual_seed(0)
    cells, gradient = _probe(Detector(), torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]
    torch.manual_seed(0)
    draws, surest = torch.randn(1, 1, 2), torch.sigmoid(torch.tensor(1.0))
    p = torch.tensor([0.5, float(surest)])
    slope = (draws.flatten() * (p * (1 - p)).sqrt() * torch.tensor([1.0, 2.0])).sum()
    box = 0.1 * torch.randn(1, 1, 1).flatten() * surest.sqrt() * 3
    assert cells.tolist() == [[1.0] * 5]
    wanted = torch.cat([box, torch.zeros(3), slope[None]])
    torch.testing.assert_close(gradient[0], wanted)


def test_blocks_are_the_cells_of_the_latents() -> None:
    features = torch.arange(1 * 2 * 4 * 4.0).view(1, 2, 4, 4)
    samples = blocks(features)
    assert samples.shape == (4, 8)
    assert samples[1].tolist() == features[0, :, :2, 2:].flatten().tolist()
