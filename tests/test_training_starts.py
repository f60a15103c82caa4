"""What a training goes on from: runs, packages, and the prices of bytes that they tell."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cdvision.models.dicm.network import load_package_weights  # noqa: E402
from cdvision.models.dicm.training.models import make_codec, make_redundancy, start_from  # noqa: E402
from cdvision.models.dicm.training.options import CodecOptions, RedundancyOptions  # noqa: E402
from cdvision.models.dicm.training.stage1_redundancy import RedundancyStage  # noqa: E402
from cdvision.models.dicm.training.stage3_codec import CodecStage  # noqa: E402
from cdvision.models.faces.hsc import HscCodec  # noqa: E402
from cdvision.models.faces.style_layers import StyleLayers  # noqa: E402
from cdvision.models.faces.training.face_bank import FaceCodes  # noqa: E402
from cdvision.models.faces.training.hsc_stage import HscStage  # noqa: E402
from cdvision.models.faces.training.networks import (  # noqa: E402
    FaceNetworks,
    load_face_networks,
    packaged_codec,
)
from cdvision.models.faces.training.style_layers_stage import StyleLayersStage  # noqa: E402
from cdvision.package.loader import WEIGHTS_FILE  # noqa: E402
from cdvision.training.finished import Finished, fill_module, open_finished  # noqa: E402
from cdvision.training.photo_bank import CropPlan, PhotoBank  # noqa: E402
from cdvision.training.plan import Plan  # noqa: E402
from cdvision.training.prices import (  # noqa: E402
    measure_prices,
    recorded_prices,
    restore_prices,
    start_prices,
)
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl  # noqa: E402
from cdvision.training.stage_run import run_stage  # noqa: E402

PACKAGES = Path(__file__).parent / "packages"
CPU = torch.device("cpu")
NO_STEP = Plan(minutes=0.0, batch=2, device=CPU)
ONE_STEP = Plan(minutes=60.0, steps=1, batch=2, device=CPU, warmup_steps=1)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def banks() -> list[PhotoBank]:
    generator = torch.Generator().manual_seed(0)
    photos = [
        torch.randint(0, 256, (3, 90, 120), generator=generator, dtype=torch.uint8)
        for _ in range(3)
    ]
    return [PhotoBank(photos, CropPlan(sides=(64,), least=0.7, share=1.0))]


def stored(package: str, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a test package below a prefix, as its file has them."""
    tensors = load_file(PACKAGES / package / WEIGHTS_FILE)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def unlike(module: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Return the names that a module has in other values than a file of half precision."""
    state = module.state_dict()
    assert tensors
    return [name for name, value in tensors.items() if not torch.equal(state[name].half(), value)]


# --- opening


def test_packages_are_found_by_name_and_by_folder() -> None:
    small = open_finished("small")
    assert small.card is not None
    assert (small.record["package"], small.record["stage"]) == ("small", "receiver")
    weights = open_finished(PACKAGES / "test-dicm").weights()
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_starts_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="expected a package of 'dicm', found one of 'faces'"):
        start_from(PACKAGES / "test-hsc", "resnet50", None)
    with pytest.raises(CdvisionError, match="expected a package of 'faces', found one of 'dicm'"):
        load_face_networks(PACKAGES / "test-dicm")
    with pytest.raises(CdvisionError, match="a finished run or a package: no model 'nothing'"):
        start_from("nothing", "resnet50", None)
    damaged = shutil.copytree(PACKAGES / "test-hsc", tmp_path / "damaged")
    save_file({"a": torch.zeros(1)}, damaged / WEIGHTS_FILE)
    with pytest.raises(CdvisionError, match="is damaged: expected SHA-256"):
        load_face_networks(damaged)
    with pytest.raises(CdvisionError, match=r"here: these weights do not fit: .*bias") as caught:
        fill_module(nn.Linear(1, 1), {"weight": torch.zeros(1, 1)}, "here")
    assert "\n" not in str(caught.value)


# --- families


@pytest.mark.parametrize("name", ["test-dicm-re", "test-dicm"])
def test_a_stage_of_dicm_goes_on_from_a_package(
    name: str, banks: list[PhotoBank], tmp_path: Path
) -> None:
    start = start_from(PACKAGES / name, "resnet50", None)
    assert (start.backbone, start.channels) == ("tiny", 32)
    make = make_codec if name == "test-dicm" else make_redundancy
    kind: Any = CodecStage if name == "test-dicm" else RedundancyStage
    model = make(start)
    options = CodecOptions() if name == "test-dicm" else RedundancyOptions()
    stage = kind(model, banks, ONE_STEP, options)
    assert unlike(model, stored(name, "codec.")) == []
    run_stage(stage, tmp_path, ONE_STEP, {"backbone": "tiny", "origin": start.origin})
    assert unlike(model, stored(name, "codec.")) != []
    again = start_from(tmp_path, "resnet50", None)  # its run is a start, too
    assert (again.backbone, again.stage) == ("tiny", stage.name)
    assert type(make_redundancy(again)) is type(make_redundancy(start))


def test_heads_go_on_with_a_packages_detector() -> None:
    start = start_from(PACKAGES / "test-dicm", "resnet50", None)
    detector = load_package_weights(PACKAGES / "test-dicm" / WEIGHTS_FILE).detector
    assert detector is not None
    wanted = stored("test-dicm", "detector.")
    for parameter in detector.parameters():
        nn.init.zeros_(parameter)
    assert start.fill_detector(detector)
    assert unlike(detector, wanted) == []
    assert not start.fill_detector(nn.Linear(2, 2))


def face_codes(networks: FaceNetworks) -> FaceCodes:
    widths = networks.widths
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(24, 3, widths.resolution, widths.resolution, generator=generator)
    with torch.no_grad():
        codes = networks.codes(images)
    return FaceCodes(codes.rows, codes.feature.half(), torch.zeros(24, 0))


@pytest.mark.parametrize(
    ("name", "kind"), [("test-hsc", HscCodec), ("test-sfic-style", StyleLayers)]
)
def test_a_face_codec_goes_on_from_a_package(
    name: str, kind: type[nn.Module], tmp_path: Path
) -> None:
    networks = load_face_networks(PACKAGES / name)
    assert unlike(networks.encoder, stored(name, "encoder.")) == []
    assert unlike(networks.generator, stored(name, "generator.")) == []
    assert unlike(networks.head, stored(name, "head.")) == []
    codec: Any = packaged_codec(PACKAGES / name, kind)
    assert codec is not None
    other = StyleLayers if kind is HscCodec else HscCodec
    assert packaged_codec(PACKAGES / name, other) is None
    codes = face_codes(networks)
    if kind is HscCodec:
        stage: Any = HscStage(networks, codec, codes, NO_STEP, goes_on=True)
    else:
        stage = StyleLayersStage(networks, codec, codes.rows, NO_STEP, goes_on=True)
    run_stage(stage, tmp_path, NO_STEP)
    assert unlike(codec, stored(name, "codec.")) == []  # no start went over it
    assert float(stage.metric.root.abs().sum()) > 0  # measured anew


# --- prices of bytes


def test_a_price_is_the_error_that_one_byte_more_saves() -> None:
    control = RateControl((100.0, 200.0, 300.0))
    start_prices(control, [9.0, 5.0, 4.0], [100.0, 200.0, 300.0])
    # np.gradient: one-sided at the ends, the mean of both sides between; a thousandth is noise.
    wanted = [0.04, 0.025, 0.01]
    assert torch.exp(control.log_multiplier).tolist() == pytest.approx(wanted, rel=1e-3)
    assert control.rates() == pytest.approx([100.0, 200.0, 300.0])
    start_prices(control, [9.0, 5.0, 4.0], [100.0, 200.0, 300.0], unit=[9.0, 5.0, 4.0])
    wanted = [0.04 / 9, 0.025 / 5, 0.01 / 4]
    assert torch.exp(control.log_multiplier).tolist() == pytest.approx(wanted, rel=1e-3)
    start_prices(control, [1.0, 2.0, 3.0], [100.0, 200.0, 300.0])  # errors that rise: no price
    floor = 0.01 * 3.0 / 300.0
    assert torch.exp(control.log_multiplier).tolist() == pytest.approx([floor] * 3, rel=1e-5)


def test_prices_are_measured_in_bytes_of_a_reference_photo() -> None:
    control = RateControl((100.0, 200.0))
    seen: list[tuple[int, int]] = []

    def compare(image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((len(image), int(quality[0])))
        pixels = image.shape[2] * image.shape[3]
        bytes_ = (100.0 + 100.0 * quality) * pixels / REFERENCE_PIXELS
        return 6.0 - 4.0 * quality[0].float(), 8 * bytes_

    images = [torch.zeros(2, 3, 8, 8), torch.zeros(3, 3, 16, 16)]
    measure_prices(control, compare, images)
    assert seen == [(2, 0), (3, 0), (2, 1), (3, 1)]
    assert control.rates() == pytest.approx([100.0, 200.0])
    assert torch.exp(control.log_multiplier).tolist() == pytest.approx([0.04, 0.04], rel=1e-3)


def test_prices_are_taken_over_from_a_record(tmp_path: Path) -> None:
    first, second = RateControl((100.0, 200.0)), RateControl((100.0, 200.0))
    first.log_multiplier.copy_(torch.tensor([-1.25, -3.5]))
    start = Finished(tmp_path, recorded_prices(first))
    assert restore_prices(second, start)
    assert second.log_multiplier.tolist() == [-1.25, -3.5]
    assert not restore_prices(second, Finished(tmp_path, {}))
