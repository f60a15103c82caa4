"""Model packages: every file is checked, nothing is unpickled, and the message names the file."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.errors import BitstreamError, ModelError
from cdvision.package.card_reader import read_card
from cdvision.package.loader import file_sha256, load_package
from cdvision.package.registry import folder_for_fingerprint, list_models, model_folder

SMALL = Path(cdvision.__file__).parent / "models" / "small" / "packages" / "small"
FILES = tuple(json.loads((SMALL / "model.json").read_text())["files"])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a package whose files are links; tests replace those that they spoil."""
    folder = tmp_path / "package"
    folder.mkdir()
    for path in SMALL.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Put other bytes in the place of a link, never through it."""
    (folder / name).unlink()
    (folder / name).write_bytes(data)


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "model.json").read_text())
    change(values)
    replace_file(folder, "model.json", json.dumps(values).encode())


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and its hash on the card."""
    replace_file(folder, name, data)
    sha256 = file_sha256(folder / name)
    change_card(folder, lambda card: card["files"].update({name: sha256}))


def test_the_package_is_sound(package: Path) -> None:
    loaded = load_package(package)
    assert loaded.coder.fingerprint.hex() == loaded.card.fingerprint
    assert (len(loaded.classes["coco"]), len(loaded.classes["imagenet"])) == (80, 1000)
    assert set(FILES) | {"model.json"} == {path.name for path in SMALL.iterdir()}


def test_a_copy_of_the_folder_is_a_model(tmp_path: Path, photos: list[Path]) -> None:
    shutil.copytree(SMALL, tmp_path / "mine")
    model = cdvision.load(tmp_path / "mine")
    bits = model.encode(photos[0], 4)
    assert cdvision.encode(photos[0], 4, model=str(tmp_path / "mine")) == bits
    assert cdvision.classify(bits, model=model).class_id.shape == (5,)
    assert cdvision.detect(bits, model=tmp_path / "mine") == cdvision.detect(bits)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_flipped_byte_is_found(package: Path, name: str, place: float) -> None:
    data = bytearray((SMALL / name).read_bytes())
    data[int(place * len(data))] ^= 1
    replace_file(package, name, bytes(data))
    with pytest.raises(ModelError, match=rf"{name} is damaged: expected SHA-256 .* found"):
        cdvision.load(package)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_cut_file_is_found(package: Path, name: str) -> None:
    replace_file(package, name, (SMALL / name).read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"{name} is damaged"):
        cdvision.load(package)
    (package / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        cdvision.load(package)


@pytest.mark.parametrize("name", ["../small/tables.npz", "/etc/hostname", "a/../b", "below/x"])
def test_a_card_cannot_name_files_elsewhere(package: Path, name: str) -> None:
    change_card(package, lambda card: card["files"].update({name: "0" * 64}))
    with pytest.raises(ModelError, match="plain file names"):
        cdvision.load(package)


@pytest.mark.parametrize("name", ["..", ".", "", "nul\0byte"])
def test_odd_file_names_are_missing_files(package: Path, name: str) -> None:
    change_card(package, lambda card: card["files"].update({name: "0" * 64}))
    with pytest.raises(ModelError):
        cdvision.load(package)


@pytest.mark.parametrize("name", ["tables.npz", "classes.json"])
def test_a_card_that_leaves_out_a_file_that_is_needed(package: Path, name: str) -> None:
    change_card(package, lambda card: card["files"].pop(name))
    with pytest.raises(ModelError, match=f"does not name {name}"):
        cdvision.load(package)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "expected card format 2, found list"),
        ("{}", "expected card format 2, found None"),
        ('{"format": 1}', "expected card format 2, found 1"),
        ('{"format": "2"}', "expected card format 2, found 2"),
        ('{"format": 2}', "lacks or misnames a field"),
        ('{"format": 2, "tails": 3}', "lacks or misnames a field"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_card_that_is_none(package: Path, text: str, message: str) -> None:
    replace_file(package, "model.json", text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=message):
        cdvision.load(package)


FIELDS = set(json.loads((SMALL / "model.json").read_text()))


# A card without a sequence is of a model of photos.
@pytest.mark.parametrize("field", sorted(FIELDS - {"sequence"}))
def test_a_card_without_a_field(package: Path, field: str) -> None:
    change_card(package, lambda card: card.pop(field))
    with pytest.raises(ModelError, match=r"format|lacks or misnames|does not name"):
        cdvision.load(package)


def assign(value: object, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(card: dict[str, Any]) -> None:
        for key in keys[:-1]:
            card = card[key]
        card[keys[-1]] = value

    return change


DETECTOR = ("tails", "nanodet_plus_m")
WRONG_FIELDS = {
    "unknown": assign(1, "colour"),
    "unknown latents": assign(1, "latents", "colour"),
    "unknown spec": assign(1, "latents", "symbols", "colour"),
    "renamed tail field": assign("detect", *DETECTOR, "task"),
    "text for tasks": assign("detect", *DETECTOR, "tasks"),
    "number for a head": assign(7, *DETECTOR, "head"),
    "text for a number": assign("8", "qualities"),
    "true for a number": assign(True, "qualities"),
    "real qualities": assign(8.0, "qualities"),
    "no qualities": assign(0, "qualities"),
    "negative codec": assign(-1, "codec"),
    "default beyond": assign(9, "default_quality"),
    "no stride": assign(0, "latents", "symbols", "stride"),
    "negative stride": assign(-8, *DETECTOR, "features", "stride"),
    "no multiple": assign(0, "input", "multiple"),
    "size between multiples": assign(400, "input", "size"),
    "size over the largest": assign(1568, "input", "size"),
    "padding": assign(7, "input", "padding"),
    "tails": assign([], "tails"),
    "features": assign(None, *DETECTOR, "features"),
    "number for a fingerprint": assign(7, "fingerprint"),
    "list of files": assign(["tables.npz"], "files"),
    "number for a hash": assign(7, "files", "tables.npz"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_card_with_a_wrong_field(package: Path, name: str) -> None:
    change_card(package, WRONG_FIELDS[name])
    with pytest.raises(ModelError, match="lacks or misnames a field"):
        cdvision.load(package)


def test_an_unknown_head_is_named_when_it_is_asked(package: Path, small_stream: bytes) -> None:
    change_card(package, assign("boxes", *DETECTOR, "head"))
    with pytest.raises(ModelError, match=r"head: expected one of distribution, .*found 'boxes'"):
        cdvision.load(package).detect(small_stream)


MAP, HYPER = ("latents", "symbols"), ("latents", "hyper")
WRONG_FACTS = {
    "expected fingerprint .*, found": assign("00" * 32, "fingerprint"),
    "expected qualities 7, found 8": assign(7, "qualities"),
    "expected layers .*'symbols': 0.*, found .*'symbols': 1": assign(0, *MAP, "layer"),
    "expected ranges .*, found": assign(-3, *MAP, "low"),
    "expected shapes .*512.*found .*511": assign(511, "latents", "descriptor", "channels"),
    r"symbols: expected shape \(128, 26, 26\), found \(95,": assign(95, *MAP, "channels"),
    r"symbols: expected a map, found shape \(128,\)": assign(None, *MAP, "stride"),
    r"hyper: expected shape \(24, 7, 7\), found \(23,": assign(23, *HYPER, "channels"),
    r"hyper: expected shape \(24, 7, 7\), found \(24, 13,": assign(32, *HYPER, "stride"),
}


@pytest.mark.parametrize("message", WRONG_FACTS)
def test_a_card_that_disagrees_with_its_tables(package: Path, message: str) -> None:
    change_card(package, WRONG_FACTS[message])
    with pytest.raises(ModelError, match=rf"tables\.npz: .*{message}"):
        _ = load_package(package).coder


def test_a_card_of_other_latents_than_its_tables(package: Path) -> None:
    change_card(package, lambda card: card["latents"].pop("hyper"))
    with pytest.raises(ModelError, match=r"tables\.npz: expected layers .*, found .*hyper"):
        _ = load_package(package).coder


class Bomb:
    """What a pickle does to whoever loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def test_tables_with_pickled_objects_are_refused(package: Path, tmp_path: Path) -> None:
    with np.load(SMALL / "tables.npz") as archive:
        arrays = dict(archive)
    arrays["network/0/bias"] = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "bomb.npz", **arrays)
    put(package, "tables.npz", (tmp_path / "bomb.npz").read_bytes())
    with pytest.raises(ModelError, match="not an archive of plain arrays"):
        _ = load_package(package).coder


def npy() -> bytes:
    np.save(buffer := io.BytesIO(), np.arange(3))
    return buffer.getvalue()


TABLES = (SMALL / "tables.npz").read_bytes()


@pytest.mark.parametrize("data", [b"", b"text", TABLES[:999], b"PK\x03\x04" + b"\0" * 99, npy()])
def test_tables_that_are_no_archive(package: Path, data: bytes) -> None:
    put(package, "tables.npz", data)
    with pytest.raises(ModelError, match="not an archive of plain arrays"):
        _ = load_package(package).coder


def test_spoiled_tables_are_never_another_error(package: Path) -> None:
    """The card's hash would stop all of these; the reader must not rest on that."""
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(TABLES)
        for place in rng.integers(len(data), size=3):
            data[place] = rng.integers(256)
        put(package, "tables.npz", bytes(data))
        try:
            _ = load_package(package).coder
        except ModelError:
            refused += 1
    assert refused > 120


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b'{"coco": 5}', b'{"imagenet": []}', b"\xff"])
def test_classes_that_are_no_lists(package: Path, data: bytes) -> None:
    put(package, "classes.json", data)
    with pytest.raises(ModelError, match=r"classes\.json: not the lists"):
        _ = load_package(package).classes


def test_a_graph_that_the_package_lacks(package: Path) -> None:
    loaded = load_package(package)
    assert loaded.graph_path("encoder") == package / "encoder.onnx"
    for graph in ("nothing", "../encoder", ""):
        with pytest.raises(ModelError, match=f"'small' has no graph '{graph}'"):
            loaded.graph_path(graph)


def test_the_registry_finds_names_and_folders(package: Path) -> None:
    assert model_folder("small") == SMALL
    assert model_folder(package) == package
    assert model_folder(str(package)) == package
    (info,) = [info for info in list_models() if info.name == "small"]
    assert info.path == SMALL
    assert info.tasks == ("detect", "segment", "classify")
    assert info.size_bytes == sum(path.stat().st_size for path in SMALL.iterdir())
    assert cdvision.list_models() == list_models()


@pytest.mark.parametrize("name", ["huge", "", ".", "../small", "small/", "small/../small"])
def test_an_unknown_model_lists_what_there_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = r"expected a folder with model\.json or one of: dicm-light-next, hsc, small"
    with pytest.raises(ModelError, match=expected):
        cdvision.load(name)


def test_a_folder_without_a_card_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no model package: model\.json cannot be read"):
        read_card(tmp_path)


def test_the_fingerprint_finds_the_model() -> None:
    fingerprint = bytes.fromhex(read_card(SMALL).fingerprint)
    assert folder_for_fingerprint(fingerprint[:4]) == SMALL
    with pytest.raises(BitstreamError, match=r"fingerprint at byte 5: .*\(small\).*00000000"):
        folder_for_fingerprint(bytes(4))
