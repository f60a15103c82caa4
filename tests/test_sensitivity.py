"""The metric of features: what the networks depend on counts, what they ignore does not."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from cdvision.networks.mobilenet_v2 import MobileNetFront, MobileNetTail  # noqa: E402
from cdvision.networks.nanodet import NanoDetFront, NanoDetTail  # noqa: E402
from cdvision.training.distillation import Teachers  # noqa: E402
from cdvision.training.sensitivity import Sensitivity, blocks  # noqa: E402


@pytest.fixture(scope="module")
def teachers() -> Teachers:
    torch.manual_seed(0)
    networks = Teachers((NanoDetFront(), NanoDetTail()), (MobileNetFront(), MobileNetTail()))
    for part in networks.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=0.5)
    first = networks.classifier_tail.features["7"].conv[0][0]
    first.weight[:, 5] = 0  # the classifier ignores the sixth channel of its features
    return networks.eval()


def test_the_metric_knows_what_is_ignored_and_its_unit(teachers: Teachers) -> None:
    torch.manual_seed(1)
    images = [255 * torch.rand(4, 3, 64, 64) for _ in range(2)]
    sensitivity = Sensitivity()
    sensitivity.measure(teachers, images)
    root = sensitivity.classifier
    torch.testing.assert_close(root, root.T, atol=1e-4, rtol=1e-3)
    weight = (root @ root).diagonal().view(32, 4).mean(1)
    assert weight.argmin() == 5
    assert weight[5] < 0.2 * weight.median()
    with torch.no_grad():
        features = teachers.classifier_front(teachers.classifier_view(torch.cat(images)))
    mean = blocks(features).mean(0).view(1, 32, 4).mean(2)[:, :, None, None]
    nothing = sensitivity.classifier_error(mean.expand_as(features), features)
    assert float(nothing) == pytest.approx(1.0, rel=0.1)  # a code that sends nothing loses 1
    assert float(sensitivity.classifier_error(features, features)) == 0


def test_blocks_are_the_cells_of_the_latents() -> None:
    features = torch.arange(1 * 2 * 4 * 4.0).view(1, 2, 4, 4)
    samples = blocks(features)
    assert samples.shape == (4, 8)
    assert samples[1].tolist() == features[0, :, :2, 2:].flatten().tolist()
