"""Networks of the face models: generator, discriminator, inversion encoder, heads, loading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stylegan2_widths import stylegan2_widths

from cdvision.errors import CdvisionError, ModelError

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from cdvision.models.faces.attribute_head import AttributeHead, with_basic_only  # noqa: E402
from cdvision.models.faces.equal_layers import double  # noqa: E402
from cdvision.models.faces.inversion_encoder import (  # noqa: E402
    FaceScore,
    InversionEncoder,
    Standardise,
)
from cdvision.models.faces.style_generator import ModulatedConv, StyleGenerator  # noqa: E402
from cdvision.models.faces.style_weights import load_style_generator  # noqa: E402
from cdvision.models.faces.training.adversarial import StyleDiscriminator, with_spread  # noqa: E402
from cdvision.models.faces.trunks import resize_area  # noqa: E402
from cdvision.models.faces.widths import (  # noqa: E402
    FACE,
    FACE_TINY,
    FaceWidths,
)

SMALL = replace(FACE_TINY, resolution=32, trunk_side=32)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def generator() -> StyleGenerator:
    torch.manual_seed(0)
    return StyleGenerator(SMALL).eval()


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return torch.randn(2, SMALL.rows, SMALL.style, generator=torch.Generator().manual_seed(1))


# --- sizes


def test_rows_and_channels_follow_the_resolution() -> None:
    assert (FACE.rows, FACE_TINY.rows, stylegan2_widths(1024).rows) == (12, 10, 18)
    assert [FACE.channels(side) for side in FACE.sides] == [192, 192, 128, 64, 32, 16]
    assert FACE.feature_channels == 128


@pytest.mark.parametrize(
    ("change", "word"),
    [({"resolution": 100}, "power of two"), ({"feature_side": 64}, "feature_side"),
     ({"trunk": "vgg"}, "trunk")],
)  # fmt: skip
def test_impossible_sizes_are_named(change: dict[str, object], word: str) -> None:
    with pytest.raises(CdvisionError, match=word):
        replace(FACE_TINY, **change)


@pytest.mark.parametrize(
    ("widths", "millions"),
    [(stylegan2_widths(1024), 30.37), (stylegan2_widths(256), 30.03),
     (stylegan2_widths(256, base=16_384), 24.77)],
)  # fmt: skip
def test_stylegan2_has_its_published_parameters(widths: FaceWidths, millions: float) -> None:
    with torch.device("meta"):
        generator = StyleGenerator(widths)
        image = generator.synthesise(torch.empty(1, widths.rows, 512))
    count = sum(p.numel() for p in generator.parameters()) / 1e6
    assert image.shape == (1, 3, widths.resolution, widths.resolution)
    assert count == pytest.approx(millions, rel=0.02)


# --- the generator


def naive_modulated(conv: ModulatedConv, x: Tensor, row: Tensor) -> Tensor:
    """One picture at a time, weights modulated and demodulated as in the paper."""
    out = []
    for one, scale in zip(x, conv.affine(row), strict=True):
        weight = conv.weight * conv.gain * scale[None, :, None, None]
        if conv.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if conv.up:  # zeros between pixels, the kernel, then the low-pass
            wide = one.new_zeros(one.shape[0], 2 * one.shape[1] - 1, 2 * one.shape[2] - 1)
            wide[:, ::2, ::2] = one
            y = F.conv2d(wide[None], weight.flip(2, 3), padding=2)
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
            y = F.conv2d(y.transpose(0, 1), torch.outer(taps, taps)[None, None], padding=1)
            out.append(y.transpose(0, 1))
        else:
            out.append(F.conv2d(one[None], weight, padding=conv.weight.shape[2] // 2))
    return torch.cat(out)


@pytest.mark.parametrize(("up", "demodulate"), [(False, True), (False, False), (True, True)])
def test_modulation_equals_the_papers_weights(up: bool, demodulate: bool) -> None:
    torch.manual_seed(2)
    conv = ModulatedConv(5, 7, 3, 4, up=up, demodulate=demodulate)
    x, row = torch.randn(3, 5, 8, 8), torch.randn(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            conv(x, row), naive_modulated(conv, x, row), atol=1e-5, rtol=1e-4
        )


def test_doubling_keeps_a_flat_picture_flat() -> None:
    large = double(torch.full((1, 2, 6, 6), 0.5))
    assert large.shape == (1, 2, 12, 12)
    torch.testing.assert_close(large[:, :, 2:-2, 2:-2], torch.full((1, 2, 8, 8), 0.5))


def test_its_own_feature_changes_nothing(generator: StyleGenerator, rows: Tensor) -> None:
    with torch.no_grad():
        feature = generator.activation(rows)
        assert feature.shape == (2, SMALL.feature_channels, 8, 8)
        assert torch.equal(generator.synthesise(rows, feature), generator.synthesise(rows))
        other = generator.synthesise(rows, feature + 1)
    assert not torch.allclose(other, generator.synthesise(rows), atol=1e-3)


def test_a_picture_does_not_depend_on_its_batch(generator: StyleGenerator, rows: Tensor) -> None:
    with torch.no_grad():
        both = generator.synthesise(rows)
        torch.testing.assert_close(both[1:], generator.synthesise(rows[1:]), atol=1e-5, rtol=1e-5)


def test_a_row_acts_from_its_layer_on(generator: StyleGenerator, rows: Tensor) -> None:
    def layers(codes: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = []
        for block in generator.blocks:
            for layer in (block.up, block.conv, block.rgb):
                if layer is not None:
                    hooks.append(layer.register_forward_hook(lambda *a: seen.append(a[2])))
        with torch.no_grad():
            generator.synthesise(codes)
        for hook in hooks:
            hook.remove()
        return seen

    # In order of running: conv 0, rgb 1, up 1, conv 2, rgb 3, up 3, conv 4, rgb 5, ...
    styles = [0, 1] + [r for k in range(1, SMALL.rows // 2) for r in (2 * k - 1, 2 * k, 2 * k + 1)]
    before = layers(rows)
    assert len(before) == len(styles)
    for row in range(SMALL.rows):
        changed = rows.clone()
        changed[:, row] += 1.0
        after = layers(changed)
        differs = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert differs.index(True) == styles.index(row)
        assert not any(d for d, style in zip(differs, styles, strict=True) if style < row)


def test_draws_from_noise_and_with_fixed_noise() -> None:
    torch.manual_seed(3)
    generator = StyleGenerator(SMALL, fixed_noise=True)
    z = torch.randn(2, SMALL.style)
    with torch.no_grad():
        first = generator(z)
        torch.testing.assert_close(generator(3 * z), first, atol=1e-4, rtol=1e-4)  # z is normalised
        generator.blocks[0].conv.noise_strength.fill_(0.5)
        assert not torch.allclose(generator(z), first, atol=1e-3)
    assert 0.1 < first.std() < 10


# --- weights of a user


def save(generator: StyleGenerator, path: Path, **changes: Tensor | None) -> Path:
    tensors = dict(generator.state_dict())
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path)
    return path


@pytest.mark.parametrize("noise", [False, True])
def test_own_names_load_again(noise: bool, rows: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(4)
    generator = StyleGenerator(SMALL, fixed_noise=noise)
    loaded = load_style_generator(save(generator, tmp_path / "g.safetensors"), feature_side=8)
    sizes = ("resolution", "style", "mapping_layers", "sides", "feature_side")
    assert all(getattr(loaded.widths, name) == getattr(SMALL, name) for name in sizes)
    with torch.no_grad():
        assert torch.equal(loaded.synthesise(rows), generator.synthesise(rows))


def nvidia_name(name: str) -> str:
    if name == "constant":
        return "synthesis.b4.const"
    if name == "mapping.mean":
        return "mapping.w_avg"
    if name.startswith("mapping.layers."):
        return name.replace("mapping.layers.", "mapping.fc")
    _, block, layer, part = name.split(".", 3)
    theirs = {"up": "conv0", "conv": "conv1", "rgb": "torgb"}[layer]
    part = "noise_const" if part == "noise" else part.removeprefix("conv.")
    return f"synthesis.b{4 << int(block)}.{theirs}.{part}"


def test_nvidias_names_load(rows: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(5)
    generator = StyleGenerator(SMALL, fixed_noise=True)
    path = tmp_path / "g.safetensors"
    tensors = {nvidia_name(k): v.clone() for k, v in generator.state_dict().items()}
    assert "synthesis.b8.conv0.affine.weight" in tensors
    save_file(tensors | {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4)}, path)
    loaded = load_style_generator(path, feature_side=8)
    with torch.no_grad():
        assert torch.equal(loaded.synthesise(rows), generator.synthesise(rows))


def test_a_missing_mean_is_measured(generator: StyleGenerator, tmp_path: Path) -> None:
    path = save(generator, tmp_path / "g.safetensors", **{"mapping.mean": None})
    mean = load_style_generator(path, feature_side=8).mapping.mean
    with torch.no_grad():
        drawn = generator.mapping(torch.randn(4000, SMALL.style)).mean(0)
    torch.testing.assert_close(mean, drawn, atol=0.15, rtol=0)
    assert mean.abs().max() > 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"constant": None}, "constant is missing"),
        ({"blocks.1.up.bias": None}, "misses tensor blocks.1.up.bias"),
        ({"extra": torch.zeros(1)}, "unknown tensor extra"),
        ({"blocks.1.up.bias": torch.zeros(3)}, r"blocks.1.up.bias should have shape \(16,\)"),
        ({"blocks.2.conv.conv.weight": torch.zeros(5, 5, 3, 3)}, "min.cap, base / side"),
    ],
)
def test_wrong_weights_are_named(
    changes: dict[str, Tensor | None], words: str, generator: StyleGenerator, tmp_path: Path
) -> None:
    path = save(generator, tmp_path / "g.safetensors", **changes)
    with pytest.raises(ModelError, match=words) as caught:
        load_style_generator(path, feature_side=8)
    assert "\n" not in str(caught.value)


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "g.pkl").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_style_generator(tmp_path / "g.pkl")
    with pytest.raises(ModelError, match="not found"):
        load_style_generator(tmp_path / "none.safetensors")


# --- the discriminator


def test_the_discriminator_halves_down_to_four() -> None:
    discriminator = StyleDiscriminator(SMALL)
    logits = discriminator(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4,)
    assert len(discriminator.blocks) == 3


def test_the_spread_of_a_batch_is_seen() -> None:
    same = torch.ones(4, 2, 3, 3)
    assert float(with_spread(same)[:, 2].max()) < 1e-3
    apart = torch.arange(4.0)[:, None, None, None].expand(4, 2, 3, 3)
    torch.testing.assert_close(with_spread(apart)[:, 2], torch.full((4, 3, 3), 1.25**0.5))
    assert with_spread(torch.randn(3, 2, 3, 3)).shape == (3, 3, 3, 3)


# --- the inversion encoder and the heads


@pytest.mark.parametrize("trunk", ["tiny", "mobilenet_v2", "resnet50v2"])
def test_an_encoder_gives_the_generators_codes(trunk: str) -> None:
    widths = replace(FACE_TINY, trunk=trunk)
    encoder = InversionEncoder(widths).eval()
    image = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        codes = encoder(image)
        assert codes.rows.shape == (2, widths.rows, widths.style)
        assert codes.feature.shape == (2, widths.feature_channels, 8, 8)
        assert codes.pooled.shape == (2, encoder.pooled_size)
        picture = StyleGenerator(widths).synthesise(codes.rows, codes.feature)
    assert picture.shape == image.shape


@pytest.mark.parametrize("side", [32, 96])
def test_a_face_is_resized_for_its_trunk(side: int) -> None:
    encoder = InversionEncoder(replace(FACE_TINY, trunk_side=side))
    codes = encoder(torch.rand(1, 3, 64, 64) * 255)
    assert codes.feature.shape == (1, FACE_TINY.feature_channels, 8, 8)


def test_rows_start_from_the_mean_style() -> None:
    encoder = InversionEncoder(FACE_TINY)
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        before = encoder(image).rows
        encoder.mean.fill_(2.0)
        torch.testing.assert_close(encoder(image).rows, before + 2.0)


def test_area_resizing_is_a_mean_over_cells() -> None:
    x = torch.rand(2, 3, 12, 9)
    whole = resize_area(x, 3)
    torch.testing.assert_close(whole, F.avg_pool2d(x, (4, 3)))
    torch.testing.assert_close(resize_area(x, 5).mean((2, 3)), x.mean((2, 3)))
    square = x[..., :9, :]
    assert resize_area(square, 9) is square


def test_standardising_uses_the_sample() -> None:
    standard = Standardise(3)
    sample = torch.randn(500, 3) * torch.tensor([5.0, 0.1, 0.0]) + 7
    standard.fit(sample)
    out = standard(sample)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(out.std(0)[:2], torch.ones(2), atol=0.05, rtol=0)
    assert float(out[:, 2].abs().max()) < 1e-3


def test_a_new_head_answers_from_the_basic_rows(rows: Tensor) -> None:
    head = AttributeHead(SMALL, use_feature=True)
    feature = torch.randn(2, SMALL.feature_channels, 8, 8)
    basic = with_basic_only(rows, SMALL.basic_rows, torch.zeros(1, SMALL.rows, SMALL.style))
    assert torch.equal(head(basic), head(rows, feature))
    assert torch.equal(head(rows), head.basic(rows[:, :4].flatten(1)))
    assert head(rows).shape == (2, 40)
    torch.nn.init.ones_(head.feature.weight)
    assert not torch.allclose(head(rows, feature), head(rows))


def test_basic_rows_alone() -> None:
    rows = torch.randn(3, 6, 2)
    alone = with_basic_only(rows, 2, torch.full((1, 6, 2), 9.0))
    assert torch.equal(alone[:, :2], rows[:, :2])
    assert bool((alone[:, 2:] == 9).all())


def test_a_face_score_is_one_logit_an_image() -> None:
    score = FaceScore(5)
    assert score(torch.randn(4, 5)).shape == (4,)
    assert "threshold" in score.state_dict()
