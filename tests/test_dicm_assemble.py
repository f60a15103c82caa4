"""Finished runs of `cdvision train dicm` put together into the network of a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.heads.pooled_classifier import PooledClassifier  # noqa: E402
from cdvision.models.dicm.network import DicmPackage, DicmSettings  # noqa: E402
from cdvision.models.dicm.training.assemble import assemble  # noqa: E402
from cdvision.training.stage_run import RECORD, write_result  # noqa: E402

DETECTOR: dict[str, Any] = {
    "classes": 2, "channels": [24, 32], "strides": [8, 16], "out_channels": 8,
    "representation": 16, "mask_channels": [8], "anchor_sizes": [64, 128, 256],
}  # fmt: skip
NAMES = {"classify": ["round", "square", "striped"], "detect": ["thing", "other thing"]}
TASKS = tuple(NAMES)


def finished_run(folder: Path, network: nn.Module, **record: Any) -> Path:
    """Write what ``run_stage`` leaves behind."""
    folder.mkdir()
    write_result(network, folder)
    text = json.dumps({"backbone": "tiny", "origin": "random", **record})
    (folder / RECORD).write_text(text, encoding="utf-8")
    return folder


def random_package(seed: int, profile: str = "dicm-re") -> DicmPackage:
    torch.manual_seed(seed)
    return DicmPackage(DicmSettings(profile, "tiny", classes=3, detector=DETECTOR))


def codec_run(folder: Path, model: DicmPackage) -> Path:
    stage = "codec" if model.settings.profile == "dicm" else "redundancy"
    return finished_run(folder, model.codec, stage=stage)


def heads_run(
    folder: Path, model: DicmPackage, tasks: tuple[str, ...] = TASKS, *, tail: bool = False
) -> Path:
    assert isinstance(model.classifier, PooledClassifier)
    assert model.detector is not None
    heads: dict[str, nn.Module] = {"classify": model.classifier.fc, "detect": model.detector}
    network = nn.ModuleDict({task: heads[task] for task in tasks} | {"tail": model.codec.tail})
    record = {"classes": {task: NAMES[task] for task in tasks}, "tail_trained": tail}
    facts = {"detector": {"arguments": DETECTOR}} if "detect" in tasks else {}
    return finished_run(folder, network, stage="heads", **record, **facts)


def halves(module: nn.Module) -> dict[str, Tensor]:
    """Parameters as a run stores them; buffers keep their precision."""
    names = {name for name, _ in module.named_parameters()}
    return {k: v.half().float() if k in names else v for k, v in module.state_dict().items()}


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), halves(second)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("profile", ["dicm-re", "dicm"])
def test_codec_and_heads_become_one_network(profile: str, tmp_path: Path) -> None:
    model = random_package(1, profile)
    found = assemble(codec_run(tmp_path / "codec", model), [heads_run(tmp_path / "heads", model)])
    assert found.network.settings == model.settings
    assert same(found.network, model)
    assert found.classes == {
        "classifier": ("round", "square", "striped"),
        "detector": ("thing", "other thing"),
    }
    assert set(found.training) == {"codec", "heads 1"}


def test_the_first_run_that_trained_a_part_gives_it(tmp_path: Path) -> None:
    base, first, second = (random_package(seed) for seed in (1, 2, 3))
    runs = [
        heads_run(tmp_path / "first", first, ("classify",)),
        heads_run(tmp_path / "second", second, tail=True),
    ]
    found = assemble(codec_run(tmp_path / "codec", base), runs).network
    assert found.classifier is not None
    assert first.classifier is not None
    assert found.detector is not None
    assert second.detector is not None
    assert same(found.classifier, first.classifier)
    assert same(found.detector, second.detector)
    assert same(found.codec.tail, second.codec.tail)
    assert same(found.codec.front, base.codec.front)


def test_a_codec_alone_is_a_network_of_features(tmp_path: Path) -> None:
    model = random_package(1)
    found = assemble(codec_run(tmp_path / "codec", model), [])
    assert same(found.network.codec, model.codec)
    assert (found.network.classifier, found.network.detector, found.classes) == (None, None, {})


def test_runs_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    model = random_package(1)
    codec, heads = codec_run(tmp_path / "codec", model), heads_run(tmp_path / "heads", model)
    other = finished_run(tmp_path / "other", model.codec, stage="heads", classes={})
    (other / RECORD).write_text(
        json.dumps({"backbone": "resnet50", "stage": "heads", "classes": {}, "tail_trained": False})
    )
    wider = heads_run(tmp_path / "wider", model)
    record = json.loads((wider / RECORD).read_text())
    record["detector"]["arguments"]["representation"] = 32
    (wider / RECORD).write_text(json.dumps(record))
    for arguments, message in (
        ((tmp_path, []), "expected a finished run"),
        ((heads, []), "expected a run of redundancy, joint or codec"),
        ((codec, [codec]), "expected a run of heads on tiny"),
        ((codec, [other]), "expected a run of heads on tiny"),
        ((codec, [wider]), "these weights do not fit"),
    ):
        with pytest.raises(CdvisionError, match=message) as error:
            assemble(*arguments)
        assert "\n" not in str(error.value)
