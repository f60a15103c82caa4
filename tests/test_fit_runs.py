"""Runs of a fit: exact resumption, training, full disks, what is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


from fit_networks import FACTORY, FEATURES, tiny_network  # noqa: E402

from cdvision.cli.fit import fit as fit_command  # noqa: E402
from cdvision.fitting.examples import ExampleMaker, ExampleSource  # noqa: E402
from cdvision.fitting.fitting import finish_fit, fit_tap  # noqa: E402
from cdvision.fitting.network import TorchNetwork  # noqa: E402
from cdvision.fitting.options import FitOptions  # noqa: E402
from cdvision.fitting.photos import find_photos  # noqa: E402
from cdvision.fitting.resuming import run_progress  # noqa: E402
from cdvision.fitting.sources import NetworkRequest  # noqa: E402
from cdvision.fitting.stage import TapStage  # noqa: E402
from cdvision.fitting.streams import StreamReader  # noqa: E402
from cdvision.networks.fitted_tap import TapShape  # noqa: E402
from cdvision.training.stage_run import CHECKPOINT, Plan, run_stage  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def stage_of(
    reader: StreamReader, split: TorchNetwork, folder: Path, plan: Plan, **options: Any
) -> TapStage:
    files = find_photos([folder])
    source = ExampleSource(ExampleMaker(reader, split), files, plan.batch, memory=options.get("m"))
    shape = TapShape(reader.source.channels, FEATURES, up=2, width=16, depth=1)
    return TapStage(shape, source, split, plan, tune_tail=options.get("tune_tail", False))


def plan_of(steps: int) -> Plan:
    return Plan(60.0, 4, CPU, steps=steps, warmup_steps=1)


def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, small_reader: StreamReader, tiny_split: TorchNetwork
) -> None:
    whole = run_stage(
        stage_of(small_reader, tiny_split, folder, plan_of(6)), tmp_path / "whole", plan_of(6)
    )

    class Interrupted(TapStage):
        def after_step(self) -> None:
            super().after_step()
            if int(self.average.taken) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    stage = stage_of(small_reader, tiny_split, folder, plan_of(6))
    stage.__class__ = Interrupted
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, tmp_path / "run", plan_of(6))
    assert signal.getsignal(signal.SIGINT) is handler
    progress = run_progress(tmp_path / "run")
    assert progress is not None
    assert progress.step == 3
    resumed = run_stage(
        stage_of(small_reader, tiny_split, folder, plan_of(6)), tmp_path / "run", plan_of(6)
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_improves_on_regression_and_a_tail_is_tuned(
    folder: Path, tmp_path: Path, small_reader: StreamReader, tiny_split: TorchNetwork
) -> None:
    stage = stage_of(small_reader, tiny_split, folder, plan_of(12), tune_tail=True)
    before = {k: v.clone() for k, v in tiny_split.tail.state_dict().items()}
    trained = run_stage(stage, tmp_path, plan_of(12))
    assert {name.split(".")[0] for name in trained.state_dict()} == {"tap", "tail"}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["outputs"] > 0
    after = tiny_split.tail.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())  # the network itself is kept
    assert stage.tail is not None
    tuned = stage.tail.state_dict()
    assert any(not torch.equal(v, tuned[k]) for k, v in before.items())


def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(
    folder: Path, tmp_path: Path, small_reader: StreamReader, tiny_split: TorchNetwork
) -> None:
    run_stage(stage_of(small_reader, tiny_split, folder, plan_of(2)), tmp_path, plan_of(2))
    kept = (tmp_path / CHECKPOINT).read_bytes()
    stage = stage_of(small_reader, tiny_split, folder, plan_of(4))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a real write fails
    try:
        with pytest.raises(CdvisionError, match=r"cannot be written.*start the same command again"):
            run_stage(stage, tmp_path, plan_of(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept
    assert not list(tmp_path.glob("*.partial"))
    run_stage(stage_of(small_reader, tiny_split, folder, plan_of(4)), tmp_path, plan_of(4))
    progress = run_progress(tmp_path)
    assert progress is not None
    assert progress.step == 4


def test_a_disk_that_is_full_at_the_end_loses_nothing_of_the_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever room the checkpoint took, the tap itself finds none."""
    options = FitOptions(steps=2, width=16, depth=1, size=64, device="cpu")
    request, out = NetworkRequest(tiny_network(), "layer2"), tmp_path / "tap"
    limits, kept = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def finish(*arguments: Any) -> Any:
        kept.append((out / "run" / CHECKPOINT).read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        return finish_fit(*arguments)

    monkeypatch.setattr("cdvision.fitting.fitting.finish_fit", finish)
    for _ in range(2):  # the same command again ends at the same place
        try:
            with pytest.raises(
                CdvisionError, match=r"cannot be written.*make room and start"
            ) as one:
                fit_tap(request, [folder], out, options=options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(one.value)
        assert not (out / "tap.json").exists()
        progress = run_progress(out / "run")
        assert progress is not None
        assert progress.step == 2
    assert (out / "run" / CHECKPOINT).read_bytes() == kept[0] == kept[1]


def test_other_options_do_not_resume_a_run(folder: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    factory = tmp_path / "mine.py"
    factory.write_text(FACTORY)
    out = tmp_path / "tap"

    def begin(*options: str) -> Any:
        command = ["--network", f"{factory}:whole", "--split", "0", "--images", str(folder)]
        return CliRunner().invoke(fit_command, [*command, "-o", str(out), *options])

    (out / "run").mkdir(parents=True)
    tiny = ("--steps", "1", "--width", "8", "--device", "cpu", "--size", "64")
    options = {"model": "another", "network": {}, "seed": 0}
    (out / "run" / CHECKPOINT).write_bytes(b"")
    (out / "run" / "options.json").write_text(json.dumps(options))
    result = begin(*tiny)
    assert isinstance(result.exception, CdvisionError)
    assert "was started with another batch, model" in str(result.exception)


def test_names_and_finished_taps_are_refused_before_any_work(tmp_path: Path, folder: Path) -> None:
    request = NetworkRequest(tiny_network(), "layer2")
    with pytest.raises(CdvisionError, match="a tap's name"):
        fit_tap(request, [folder], tmp_path / "my tap")
    with pytest.raises(CdvisionError, match="has a tail 'mobilenet_v2' already"):
        fit_tap(request, [folder], tmp_path / "mobilenet_v2")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "tap.json").write_text("{}")
    with pytest.raises(CdvisionError, match="holds a finished tap"):
        fit_tap(request, [folder], tmp_path / "done")
    with pytest.raises(CdvisionError, match="--device: 'moon'"):
        fit_tap(request, [folder], tmp_path / "new", options=FitOptions(device="moon"))
