"""An encoder of one's own: exact resumption, true rates, figures, and its package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.errors import BitstreamError, CdvisionError, EngineError, UnsupportedTask

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from fit_networks import onnx_file, tiny_network, write_served  # noqa: E402
from small_coders import same_latents  # noqa: E402
from torch import Tensor  # noqa: E402

from cdvision.building.map_tables import build_coder  # noqa: E402
from cdvision.cli.command_line import command_line  # noqa: E402
from cdvision.fitting.network import SplitNetwork  # noqa: E402
from cdvision.fitting.photos import find_photos, photo_bank  # noqa: E402
from cdvision.fitting.tap_builder import save_weights  # noqa: E402
from cdvision.models.any_network.network import AnyNetworkShape  # noqa: E402
from cdvision.models.any_network.training.stage import EncoderStage  # noqa: E402
from cdvision.models.any_network.user_networks import (  # noqa: E402
    networks_again,
    open_networks,
    parse_networks,
)
from cdvision.package.card import FeatureSpec  # noqa: E402
from cdvision.training.finished import Finished  # noqa: E402
from cdvision.training.rate_control import TARGET_BYTES, recorded_prices  # noqa: E402
from cdvision.training.stage_run import Plan, run_stage  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def quick_start() -> Iterator[None]:
    """Start from few crops: a run's start takes longer than its steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdvision.models.any_network.training.start.REGRESSION_CELLS", 1000)
        patch.setattr("cdvision.models.any_network.training.stage.START_BATCHES", 3)
        yield


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with factories of networks."""
    return write_served(tmp_path_factory.mktemp("code") / "mine.py")


@pytest.fixture(scope="module")
def networks(code: Path) -> Mapping[str, SplitNetwork]:
    """Return two networks, one finer and one coarser than the latents."""
    return open_networks(parse_networks([f"fine={code}:fine@layer1", f"{code}:coarse"]), CPU)


def shape_of(**changes: Any) -> AnyNetworkShape:
    features = {"fine": FeatureSpec(8, 4), "coarse": FeatureSpec(10, 32)}
    values = {"channels": 16, "width": 16, "depth": 1, **changes}
    return AnyNetworkShape(features=features, positive=("fine",), **values)


def plan_of(steps: int) -> Plan:
    return Plan(60.0, 2, CPU, steps=steps, warmup_steps=1)


def stage_of(
    folder: Path, networks: Mapping[str, SplitNetwork], steps: int, **options: Any
) -> EncoderStage:
    bank, _ = photo_bank(find_photos([folder]), CPU)
    return EncoderStage(shape_of(), networks, bank, plan_of(steps), TARGET_BYTES, **options)


def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, networks: Mapping[str, SplitNetwork]
) -> None:
    whole = run_stage(stage_of(folder, networks, 4), tmp_path / "whole", plan_of(4))

    class Interrupted(EncoderStage):
        def after_step(self) -> None:
            super().after_step()
            if int(self.average.taken) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    stage = stage_of(folder, networks, 4)
    stage.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, tmp_path / "run", plan_of(4))
    resumed = run_stage(stage_of(folder, networks, 4), tmp_path / "run", plan_of(4))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_latents_start_centred_and_uncorrelated(
    folder: Path, networks: Mapping[str, SplitNetwork]
) -> None:
    stage = stage_of(folder, networks, 1)
    rng = np.random.default_rng(0)
    images = [stage._crops(16, rng) for _ in range(3)]
    stage.begin(np.random.default_rng(0))  # draws the same
    with torch.no_grad():
        encoder = stage.model.encoder
        gathered = [encoder.gather([n.features(i) for n in networks.values()]) for i in images]
        y = torch.cat([encoder.analysis.linear(g).movedim(1, -1).flatten(0, 2) for g in gathered])
    covariance = y.T @ y / len(y)
    loudest = float(covariance.diagonal().max())
    assert float(y.mean(0).abs().max()) < 1e-3 * loudest**0.5
    torch.testing.assert_close(
        covariance, torch.diag(covariance.diagonal()), atol=1e-3 * loudest, rtol=0
    )
    assert (covariance.diagonal().diff() <= 1e-6).all()


def test_training_moves_all_but_the_mix(
    folder: Path, tmp_path: Path, networks: Mapping[str, SplitNetwork]
) -> None:
    before: dict[str, Tensor] = {}

    class Watched(EncoderStage):
        def begin(self, rng: np.random.Generator) -> None:
            super().begin(rng)
            before.update({k: v.clone() for k, v in self.model.named_parameters()})

    stage = stage_of(folder, networks, 3)
    stage.__class__ = Watched
    run_stage(stage, tmp_path, plan_of(3))
    still = {k for k, v in stage.model.named_parameters() if torch.equal(v, before[k])}
    mixes = {k for k in before if ".mix." in k}
    assert mixes <= still
    assert len(still - mixes) < 0.1 * len(before), still - mixes
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    terms = {"fine/features", "fine/outputs", "coarse/features", "coarse/outputs"}
    assert terms | {"rate", "bits", "bytes"} <= set(line)


def test_latents_survive_their_own_coder(
    folder: Path, networks: Mapping[str, SplitNetwork]
) -> None:
    stage = stage_of(folder, networks, 1)
    stage.begin(np.random.default_rng(0))
    model = stage.model.eval()
    image = stage.bank.batch(2, np.random.default_rng(0))
    quality = torch.tensor([2, 7])
    with torch.no_grad():
        gathered = model.encoder.gather([n.features(image) for n in networks.values()])
        found = [part.int().numpy() for part in model.encode_features(gathered, quality)]
    coder = build_coder(model)
    shapes = {"symbols": found[0].shape[1:], "hyper": found[1].shape[1:]}
    for symbols, hyper, level in zip(*found, quality.tolist(), strict=True):
        latents = {"symbols": symbols, "hyper": hyper}
        decoded = coder.decode(coder.encode(latents, level), level, shapes)
        assert same_latents(decoded, coder.received(latents, level))
        assert np.array_equal(decoded["hyper"], hyper)
    assert np.abs(found[0][1]).max() > np.abs(found[0][0]).max()


@pytest.fixture(scope="module")
def run(code: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two steps, as a user would, for a factory's network and an ONNX file."""
    root = tmp_path_factory.mktemp("encoder")
    onnx_file(root / "net.onnx")
    result = CliRunner().invoke(command_line, command(code, folder, root), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "served by plain variance" in result.stderr
    assert "(explained variance, 4 photos held out)" in result.stdout
    return root / "run"


def command(code: Path, folder: Path, root: Path, *more: str) -> list[str]:
    serve = ("--serve", f"mine={code}:fine@layer2", "--serve", f"net={root}/net.onnx@cut")
    tiny = ("--steps", "2", "--batch", "2", "--latents", "16", "--width", "16", "--no-bf16")
    return [
        *("train", "encoder", str(folder), *serve, "--order", "net=bgr", "--device", "cpu"),
        *(*tiny, "-o", str(root / "run"), *more),
    ]


def test_figures_are_of_every_network_and_quality(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert [entry["network"] for entry in report] == ["mine", "net"]
    for entry in report:
        assert entry["photos"] == 4
        rows = entry["qualities"]
        assert [row["quality"] for row in rows] == list(range(1, 9))
        assert rows[0]["bytes"] < rows[7]["bytes"]
        assert rows[0]["explained_variance"] < rows[7]["explained_variance"] <= 1
    record = json.loads((run / "training.json").read_text())
    assert (record["stage"], record["steps"], record["photos"]) == ("encoder", 2, 12)
    assert record["shape"]["positive"] == ["net"]


def test_other_options_do_not_resume_a_run(run: Path, code: Path, folder: Path) -> None:
    again = CliRunner().invoke(command_line, command(code, folder, run.parent, "--seed", "1"))
    assert again.exit_code == 2
    assert "was started with another seed" in again.stderr


def test_a_run_goes_on_from_another(run: Path, code: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(run.parent / "net.onnx", tmp_path / "net.onnx")
    arguments = command(code, folder, tmp_path, "--start", str(run), "--steps", "1")
    result = CliRunner().invoke(command_line, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (record["steps"], record["start"]["steps"]) == (1, 2)
    other = [*arguments[:-4], "--start", str(run), "--serve", f"{code}:coarse"]
    refused = CliRunner().invoke(command_line, [*other, "-o", str(tmp_path / "other")])
    assert refused.exit_code == 2
    assert "as --serve says" in refused.stderr


def test_a_stage_goes_on_where_a_package_is(
    folder: Path, tmp_path: Path, networks: Mapping[str, SplitNetwork]
) -> None:
    first = stage_of(folder, networks, 1)
    first.begin(np.random.default_rng(0))
    parts = dict(first.model.named_children()) | {"tails": torch.nn.Linear(2, 2)}
    save_weights(parts, tmp_path / "weights.safetensors", {})
    weights = {k: v.half() for k, v in first.model.state_dict().items()}
    start = Finished(tmp_path, recorded_prices(first.rate), None)
    second = stage_of(folder, networks, 1, start=start)
    second.begin(np.random.default_rng(0))
    for stage in (second.model, second.result()):
        state = stage.state_dict()
        assert [k for k, v in weights.items() if not torch.equal(state[k].half(), v)] == []
    torch.testing.assert_close(second.rate.log_multiplier, first.rate.log_multiplier)
    for name, metric in first.metrics.items():
        # Measured on the same crops, with probes of their own.
        assert float(metric.root.diagonal().mean()) == pytest.approx(
            float(second.metrics[name].root.diagonal().mean()), rel=0.3
        )


def test_a_package_needs_the_networks_that_were_served(run: Path, tmp_path: Path) -> None:
    described = json.loads((run / "training.json").read_text())["networks"]
    assert list(networks_again(described)) == ["mine", "net"]
    other = write_served(tmp_path / "mine.py", seed=5)
    described["mine"]["request"]["source"] = f"{other}:fine"
    with pytest.raises(CdvisionError, match=r"--serve mine: .*gives other features"):
        networks_again(described)


# --- the package (the exporter takes tens of seconds)


@pytest.fixture(scope="module")
def package(run: Path) -> Path:
    out = run.parent / "mine-1"
    made = CliRunner().invoke(
        command_line, ["train", "package", str(run), "-o", str(out)], catch_exceptions=False
    )
    assert "features for mine, net" in made.output
    return out


@pytest.mark.skipif("CDVISION_SLOW" not in os.environ, reason="needs CDVISION_SLOW")
def test_the_package_does_what_the_model_did(
    package: Path, run: Path, folder: Path, photos: list[Path]
) -> None:
    model, small = cdvision.load(package), cdvision.load("small")
    assert model.card.tasks == ()
    bits = model.encode(photos[0], 8)
    stream = model.open(bits)
    assert same_latents(stream.latents(), model.open(bits).latents())
    networks = networks_again(json.loads((run / "training.json").read_text())["networks"])
    for name, output in (("mine", "classes"), ("net", "answer")):
        features = stream.features(name)
        answer = stream.dense(name)
        assert np.allclose(answer["features"], features, atol=1e-4)
        expected = networks[name].outputs(torch.from_numpy(features)[None])[output][0]
        assert np.allclose(answer[output], expected, atol=2e-2, rtol=2e-2)
    for other, foreign in ((small, bits), (model, small.encode(photos[0]))):
        with pytest.raises(BitstreamError, match=r"codec: expected [15] \(") as caught:
            other.open(foreign)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedTask, match="it can give features of mine, net"):
        model.detect(bits)
    with pytest.raises(EngineError, match="engine='onnx'"):
        cdvision.load(package, engine="torch")


@pytest.mark.skipif("CDVISION_SLOW" not in os.environ, reason="needs CDVISION_SLOW")
def test_the_package_needs_no_torch_and_feeds_fit(
    package: Path, folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys, cdvision\n"
        f"model = cdvision.load({str(package)!r})\n"
        f"stream = model.open(model.encode({str(photos[0])!r}, size=64))\n"
        "stream.features('mine'), stream.dense('net')\n"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    options = {"steps": 1, "width": 16, "depth": 1, "size": 64, "device": "cpu"}
    cdvision.fit(
        tiny_network(), "layer2", images=folder, out=tmp_path / "tap", model=package, **options
    )
    model = cdvision.load(package, taps=[tmp_path / "tap"])
    assert model.open(model.encode(photos[0], 1)).features("tap").ndim == 3
