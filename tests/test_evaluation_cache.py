"""Answers on disk: an interrupted evaluation goes on, and nothing damaged is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdvision.errors import CdvisionError
from cdvision.evaluation.accuracy import TopScoring, measure_accuracy
from cdvision.evaluation.answer_cache import (
    AnswerCache,
    CacheFolder,
    code_digest,
    default_cache_folder,
)
from cdvision.evaluation.answer_formats import ATTRIBUTES, CLASSES, DETECTIONS
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.results import Classification, Detections
from cdvision.results.masks import encode_mask

KEY = {"codec": "test", "task": "classify", "quality": 3, "fingerprint": "f00d"}
PHOTOS = [LabelledPhoto(f"{n}.jpg", f"photo {n}".encode(), n % 3) for n in range(9)]
Damage = Callable[[list[bytes]], list[bytes]]


class Answerer:
    """Answers a photo by the number in its bytes; counts, and may break off."""

    def __init__(self, *, most: int = 100) -> None:
        self.most, self.asked = most, 0

    def __call__(self, photo: bytes) -> tuple[Classification, int]:
        if self.asked == self.most:
            raise KeyboardInterrupt
        self.asked += 1
        number = int(photo.split()[1])
        ids = np.array([number % 4, 5, 6, 7, 8])
        names = np.array([str(n) for n in ids])
        return Classification(ids, names, np.linspace(0.5, 0.1, 5, dtype=np.float32)), 100 + number


def opened(folder: Path, **changes: Any) -> AnswerCache:
    return AnswerCache(folder, {**KEY, **changes}, CLASSES)


def measured(answerer: Answerer, cache: AnswerCache | None) -> dict[str, Any]:
    return measure_accuracy(PHOTOS, TopScoring(), answerer, cache=cache, resamples=50)


def filled(folder: Path) -> Path:
    cache = opened(folder)
    measured(Answerer(), cache)
    return cache.path


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(Answerer(most=4), opened(tmp_path))
    rest = Answerer()
    record = measured(rest, opened(tmp_path))
    assert rest.asked == len(PHOTOS) - 4
    assert record == measured(Answerer(), None)
    again = Answerer(most=0)
    assert measured(again, opened(tmp_path)) == record


def test_another_key_is_another_cache(tmp_path: Path) -> None:
    filled(tmp_path)
    for change in ({"quality": 4}, {"fingerprint": "beef"}, {"size": 320}, {"data": "other"}):
        assert len(opened(tmp_path, **change)) == 0
    assert len(opened(tmp_path)) == len(PHOTOS)


def test_a_changed_photo_is_answered_again(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = opened(tmp_path)
    assert cache.get(PHOTOS[0].data) is not None
    assert cache.get(b"photo 0, touched up") is None


def test_an_answer_that_was_cut_off_is_dropped_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    rest = Answerer()
    measured(rest, opened(tmp_path))
    assert rest.asked == 1
    assert capsys.readouterr().err.count("cdvision:") == 0
    assert path.read_bytes() == content


def changed_digit(lines: list[bytes]) -> list[bytes]:
    assert b'"bytes":102' in lines[3]
    return [*lines[:3], lines[3].replace(b'"bytes":102', b'"bytes":103'), *lines[4:]]


def no_json(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"\x00\xff garbage", *lines[2:]]


def another_header(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b"f00d", b"beef"), *lines[1:]]


def a_pickle(lines: list[bytes]) -> list[bytes]:
    return [b"\x80\x04\x95\x0b\x00\x00\x00", *lines]


def a_list(lines: list[bytes]) -> list[bytes]:
    return [*lines, b"[1, 2]"]


def valid_checksum_but_no_answer(lines: list[bytes]) -> list[bytes]:
    import zlib

    entry = {"answer": {"class_id": "all"}, "bytes": 3, "photo": "00"}
    text = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return [*lines, b'{"check":%d,"entry":%s}' % (zlib.crc32(text), text)]


@pytest.mark.parametrize(
    "damage",
    [changed_digit, no_json, another_header, a_pickle, a_list, valid_checksum_but_no_answer],
)
def test_a_damaged_or_foreign_file_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    path = filled(tmp_path)
    wanted = path.read_bytes()
    path.write_bytes(b"\n".join(damage(wanted.splitlines())) + b"\n")
    cache = opened(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cdvision: {path}: line ")
    assert "damaged or foreign" in line
    assert line.endswith("not used")
    assert len(cache) == 0
    again = Answerer()
    measured(again, cache)
    assert again.asked == len(PHOTOS)
    assert path.read_bytes() == wanted


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CdvisionError, match="choose another folder with --cache"):
        opened(tmp_path / "file" / "below")


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_folder() == Path("/somewhere/cdvision/eval")


def test_a_change_of_our_own_code_voids_old_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CacheFolder(tmp_path, "data")
    folder.open(KEY, CLASSES).put(b"photo", {"class_id": [1]}, 10)
    assert len(folder.open(KEY, CLASSES)) == 1
    assert len(code_digest()) == 64
    monkeypatch.setattr("cdvision.evaluation.answer_cache.code_digest", lambda: "another")
    assert len(folder.open(KEY, CLASSES)) == 0


# --- what is kept


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("count", [0, 3])
def test_detections_come_back_exactly(count: int, masks: bool) -> None:
    random = np.random.default_rng(0)
    start = random.uniform(0, 20, (count, 2))
    dense = random.random((count, 30, 40)) < 0.5
    found = Detections(
        xyxy=np.concatenate([start, start + 7.3], axis=1).astype(np.float32),
        confidence=random.random(count, np.float32),
        class_id=np.array([4, 2, 4])[:count],
        class_name=np.array(["cat", "dog", "cat"], np.str_)[:count],
        image_size=(40, 30),
        mask=tuple(encode_mask(mask) for mask in dense) if masks else None,
    )
    back = DETECTIONS.read(json.loads(json.dumps(DETECTIONS.write(found))))
    assert back == found
    assert back.confidence.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": [[1, 2, 3]]},
        {"confidence": []},
        {"class_id": [1]},
        {"image_size": [0, 5]},
        {"image_size": None},
        {"masks": ["0"]},
    ],
)
def test_detections_that_do_not_fit_together_are_not_read(change: dict[str, Any]) -> None:
    plain: dict[str, Any] = {
        "image_size": [40, 30],
        "boxes": [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]],
        "confidence": [0.5, 0.25],
        "class_id": [0, 1],
        "class_name": {"0": "cat", "1": "dog"},
    }
    assert len(DETECTIONS.read(plain)) == 2
    with pytest.raises((LookupError, TypeError, ValueError, CdvisionError)):
        DETECTIONS.read({**plain, **change})


def test_attributes_come_back_exactly() -> None:
    class Face:
        name = ("Smiling", "Bald")
        probability = np.array([0.7, 0.1], np.float32)
        present = np.array([False, True])  # thresholds are the model's own

    plain = json.loads(json.dumps(ATTRIBUTES.write(Face())))
    assert ATTRIBUTES.read(plain) == {
        "Smiling": (float(np.float32(0.7)), False), "Bald": (pytest.approx(0.1), True)
    }  # fmt: skip
    with pytest.raises(ValueError, match="true or false"):
        ATTRIBUTES.read({"Smiling": [0.7, 1]})
