"""Tensors in one file or in parts: sizes, damage, and what a stopped writer leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdvision.errors import CdvisionError

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cdvision.training import tensor_files  # noqa: E402
from cdvision.training.plan import Progress  # noqa: E402
from cdvision.training.run_folder import (  # noqa: E402
    RECORD,
    WEIGHTS,
    load_checkpoint,
    read_progress,
    read_record,
    save_checkpoint,
    write_result,
)
from cdvision.training.tensor_files import (  # noqa: E402
    PART_BYTES,
    is_written,
    read_metadata,
    read_tensors,
    write_tensors,
)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "PART_BYTES", 1000)


def tensors(value: float) -> dict[str, Tensor]:
    """Return one tensor of more than a part, and small ones of other types."""
    count = torch.tensor([3], dtype=torch.int64)
    return {"large": torch.full((30, 20), value), "half": torch.ones(2).half(), "count": count}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in wanted.items()
    )


def test_no_part_is_larger_than_what_a_lent_machine_returns(tmp_path: Path) -> None:
    assert PART_BYTES < 16 * 2**20
    path = tmp_path / "w.safetensors"
    large = {"a": torch.arange(5_000_000, dtype=torch.float32)}
    write_tensors(path, large)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= PART_BYTES
    assert same(read_tensors(path), large)


def test_small_files_are_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, tensors(1.0), {"key": "value"})
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert same(load_file(path), tensors(1.0))
    assert same(read_tensors(path), tensors(1.0))
    assert read_metadata(path) == {"key": "value"}


@pytest.mark.usefixtures("small_parts")
def test_parts_put_together_are_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    assert not is_written(path)
    write_tensors(path, tensors(1.0), {"key": "value"})
    parts = sorted(tmp_path.iterdir())
    assert [part.name.partition("-")[0] for part in parts] == [
        f"w.safetensors.{n}of3" for n in (1, 2, 3)
    ]
    assert is_written(path)
    assert same(read_tensors(path), tensors(1.0))
    assert read_metadata(path) == {"key": "value"}
    whole = tmp_path / "whole"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert same(load_file(whole), tensors(1.0))


@pytest.mark.usefixtures("small_parts")
def test_missing_and_damaged_parts_are_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, tensors(1.0))
    last = sorted(tmp_path.iterdir())[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-1] + b"?")
    with pytest.raises(CdvisionError, match="its parts are damaged"):
        read_tensors(path)
    last.unlink()
    with pytest.raises(CdvisionError, match=r"expected the file or all of its parts, found w\."):
        read_tensors(path)
    with pytest.raises(CdvisionError, match="found nothing"):
        read_tensors(tmp_path / "other")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stopped_writer_leaves_what_was_there(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, tensors(1.0))
    moves, replace = iter(range(3)), os.replace

    def stopping(source: Path, target: Path) -> None:
        if next(moves) == at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_tensors(path, tensors(2.0))
    assert same(read_tensors(path), tensors(1.0))
    write_tensors(path, tensors(3.0))  # and clears what is no state
    assert len(list(tmp_path.glob("w.safetensors.*of*"))) == 3
    assert same(read_tensors(path), tensors(3.0))
    monkeypatch.setattr(tensor_files, "PART_BYTES", 10_000)
    write_tensors(path, tensors(4.0))
    assert [file.name for file in tmp_path.glob("w.safetensors*")] == ["w.safetensors"]
    assert same(read_tensors(path), tensors(4.0))


@pytest.mark.usefixtures("small_parts")
def test_checkpoints_and_results_come_back_from_parts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, other = nn.Linear(20, 30), nn.Linear(20, 30)
    optimizers = [torch.optim.Adam(module.parameters()) for module in (network, other)]
    network(torch.ones(1, 20)).sum().backward()
    optimizers[0].step()
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"n": network}, optimizers[0], Progress(7, 1.5))
    assert not path.is_file()
    assert read_progress(path) == Progress(7, 1.5)
    assert load_checkpoint(path, {"n": other}, optimizers[1]) == Progress(7, 1.5)
    assert torch.equal(network.weight, other.weight)
    moments = [o.state_dict()["state"][0]["exp_avg"] for o in optimizers]
    assert torch.equal(*moments)
    write_result(network, tmp_path)
    (tmp_path / RECORD).write_text('{"stage": "x"}')
    assert read_record(tmp_path) == {"stage": "x"}
    assert torch.equal(read_tensors(tmp_path / WEIGHTS)["weight"], network.weight.half())
