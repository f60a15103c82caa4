"""A package's own networks on pixels: what streams of `dicm` and its like are held against."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cdvision
from cdvision.cli.command_line import command_line
from cdvision.errors import ModelError

torch = pytest.importorskip("torch")
PACKAGES = Path(__file__).parent / "packages"


@pytest.fixture(scope="module")
def dicm() -> cdvision.Model:
    return cdvision.load(PACKAGES / "test-dicm-re")


def test_the_answers_are_those_of_exact_features(dicm: cdvision.Model, photos: list[Path]) -> None:
    """The same stream object answers, so all that differs from a stream are its features."""
    from cdvision.evaluation.package_without_codec import PackageWithoutCodec
    from cdvision.networks.graphs import load_network
    from cdvision.photo import fit_photo, read_photo

    own = PackageWithoutCodec(dicm)
    network = load_network("dicm", dicm.package.weights_path)
    fitted = fit_photo(read_photo(photos[0]), dicm.card.input, None)
    image = torch.from_numpy(fitted.pixels)[None].permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        features = network.codec.front(image)[0].numpy()
    stream = own._answered(photos[0], "detect", None)
    np.testing.assert_allclose(stream.features("detector"), features, rtol=1e-4, atol=1e-4)
    assert stream.source_size == read_photo(photos[0]).size
    found = own.detect(photos[0], confidence=0.0)
    assert len(found)
    assert (found.xyxy[:, 2:] <= np.array(stream.source_size) + 1e-3).all()
    assert len(own.classify(photos[0], top=3)) == 3
    assert own.digest() == PackageWithoutCodec(dicm).digest()


def test_small_has_learned_to_read_decoded_features(model: cdvision.Model) -> None:
    from cdvision.evaluation.package_without_codec import PackageWithoutCodec

    with pytest.raises(ModelError, match="'small': its package does not hold the networks"):
        PackageWithoutCodec(model)


def test_bench_rate_needs_no_weights_beside_the_package(
    dicm: cdvision.Model, photos: list[Path], tmp_path: Path
) -> None:
    """Two classes of the photos' folders; rivals' pictures go through the package's own front."""
    for number, photo in enumerate(photos[:4]):
        folder = tmp_path / "photos" / dicm.package.classes["classifier"][number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / photo.name).write_bytes(photo.read_bytes())
    command = [
        "bench", "rate", "--folder", str(tmp_path / "photos"), "--model", str(dicm.package.folder),
        "-q", "1,8", "--rival", "jpeg", "--resamples", "5", "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(command_line, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "out" / "rate.json").read_text())["records"]
    codecs = [one["codec"] for one in records]
    assert codecs.count("none") == 1
    assert codecs.count("cdvision test-dicm-re") == 2
    assert codecs.count("jpeg") == 21


def test_weights_that_belong_to_another_model_are_refused(tmp_path: Path) -> None:
    command = [
        "bench", "rate", "--folder", str(tmp_path), "--model", str(PACKAGES / "test-dicm-re"),
        "--initial-weights", str(tmp_path), "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(command_line, command)
    assert result.exit_code == 2
    assert "these networks are `small`'s" in result.output
