"""Weights in 8 bits by channel where nothing is lost: rounding, reading back, and their graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cdvision.networks.stored_weights import on_grid, restore_weights, store_weights  # noqa: E402


def published(out: int = 64, inputs: int = 400) -> Tensor:
    """Draw a weight as it comes from an 8-bit network, once rounded to half precision."""
    torch.manual_seed(0)
    steps = torch.randint(-127, 128, (out, inputs, 1, 1)).float()
    steps[:, 0] = 127.0  # every channel uses its whole range
    return (steps * (0.01 * torch.rand(out, 1, 1, 1) + 1e-3) / 127).half().float()


def test_a_channel_has_127_steps_each_way() -> None:
    steps, scale = on_grid(torch.tensor([[0.5, -1.27], [0.0, 0.0], [2.54, 0.01]]))
    assert steps.tolist() == [[50, -127], [0, 0], [127, 0]]
    torch.testing.assert_close(scale, torch.tensor([[0.01], [1.0], [0.02]]))


def test_a_published_weight_takes_a_byte_and_comes_back() -> None:
    weight = published()
    stored = store_weights({"a.weight": weight, "a.bias": torch.ones(64)})
    assert {name: value.dtype for name, value in stored.items()} == {
        "a.weight": torch.int8, "a.weight.scale": torch.float32, "a.bias": torch.float16,
    }  # fmt: skip
    assert stored["a.weight.scale"].shape == (64, 1, 1, 1)
    state = restore_weights(stored)
    assert set(state) == {"a.weight", "a.bias"}
    assert state["a.weight"].dtype == torch.float32
    assert float((state["a.weight"] - weight).norm() / weight.norm()) < 5e-4
    # A second time nothing moves: packages are built from packages.
    again = store_weights(state)
    assert all(torch.equal(again[name], value) for name, value in stored.items())


@pytest.mark.parametrize(
    "weight",
    [torch.randn(64, 400), published(8, 8), torch.randn(30_000)],
    ids=["off the grid", "small", "a vector"],
)
def test_all_else_stays_in_half_precision(weight: Tensor) -> None:
    stored = store_weights({"weight": weight})
    assert set(stored) == {"weight"}
    assert torch.equal(stored["weight"], weight.half())


def test_a_parameter_may_be_called_scale() -> None:
    state = {"norm": torch.ones(4), "norm.scale": torch.ones(4), "count": torch.tensor([300])}
    stored = {**store_weights(state), "count": state["count"]}
    found = restore_weights(stored)
    assert set(found) == set(state)
    assert found["count"].dtype == torch.int64


def test_a_graph_multiplies_bytes_by_their_scales(tmp_path: Path) -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from cdvision.export.onnx_graphs import export_graph
    from cdvision.export.shared_weights import repoint_weights, shared_names
    from cdvision.networks.graphs import Graph

    module = nn.Sequential(nn.Conv2d(400, 64, 1))
    with torch.no_grad():
        module[0].weight.copy_(published())
    stored = store_weights(module.state_dict())
    file, path = tmp_path / "weights.safetensors", tmp_path / "g.onnx"
    save_file(stored, file)
    module.load_state_dict(restore_weights(load_file(file)))
    wrapped = Graph(
        _Tuple(module), {"x": ("batch", 400, "h16", "w16")}, ("y",), {"x": torch.float32}
    )
    named = {f"module.{name}": value for name, value in stored.items()}
    save_file(named, file)
    export_graph(wrapped, path, file)
    model = onnx.load(path, load_external_data=False)
    assert shared_names(model) == set(named)
    image = np.random.default_rng(0).normal(size=(1, 400, 3, 5)).astype(np.float32)
    wanted = module(torch.from_numpy(image)).detach().numpy()
    for _ in range(2):
        (found,) = ort.InferenceSession(str(path)).run(None, {"x": image})
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        # The file laid out anew: pointers to bytes and scales follow.
        save_file({**named, "a first one": torch.ones(7).half()}, file)
        repoint_weights(path, file)


class _Tuple(nn.Module):
    """Gives a module's output as graphs do: in a tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Run the module."""
        return (self.module(x),)
