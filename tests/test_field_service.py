"""The service as others run it: keys out of files, proxies, load balancers, large pictures."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import cdvision
from cdvision.cli.command_line import command_line
from cdvision.errors import CdvisionError

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from background_service import BackgroundService, serve_in_background
from starlette.datastructures import Headers

from cdvision.serving.equal_accuracy import _measured, bytes_at_equal_accuracy, interpolated
from cdvision.serving.errors import ServiceError
from cdvision.serving.gate import Gate
from cdvision.serving.service import check_format
from cdvision.serving.settings import ServiceSettings

TINY = str(Path(__file__).parent / "packages" / "test-dicm-re")
PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "cat.jpg"


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundService]:
    with serve_in_background(ServiceSettings(models=TINY, threads=1)) as running:  # type: ignore[arg-type]
        yield running


@pytest.mark.parametrize(
    ("key", "sent", "taken"),
    [
        ("secret\n", b"secret", True),
        (" secret", b"secret", True),
        ("secret\r\n", b" secret ", True),
        ("schlüssel", "schlüssel".encode(), True),
        ("密码", "密码".encode(), True),
        ("two words", b"two words", True),
        ("secret", b"secre", False),
        ("secret", b"", False),
        ("schlüssel", b"schl\xff", False),
    ],
)
@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_keys_are_compared_as_typed(key: str, sent: bytes, taken: bool, header: str) -> None:
    gate = Gate(None, settings=ServiceSettings(api_key=key), ready=lambda: True)  # type: ignore[arg-type]
    value = sent if header == "x-api-key" else b"Bearer " + sent
    headers = Headers(raw=[(header.encode(), value)])
    if taken:
        gate._check_key("/v1/detect", headers)
    else:
        with pytest.raises(ServiceError, match="API key"):
            gate._check_key("/v1/detect", headers)


@pytest.mark.parametrize("key", ["", " ", "\n", "two\nlines", "a\0b"])
def test_a_key_that_no_request_can_carry_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(CdvisionError, match="api_key: expected one line"):
        ServiceSettings(api_key=key)


def test_an_empty_variable_opens_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDVISION_API_KEY", "")
    done = CliRunner().invoke(command_line, ["serve", "--port", "0"])
    assert done.exit_code == 2
    assert "CDVISION_API_KEY is set and empty" in done.stderr


@pytest.mark.parametrize("name", ["max_body_bytes", "max_requests", "batch_window", "body_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "7", None])
def test_settings_are_finite_numbers(name: str, value: object) -> None:
    with pytest.raises(CdvisionError, match=f"{name}: expected"):
        ServiceSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["--max-body-mib", "--batch-window-ms"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_options_of_serve_are_finite_numbers(option: str, value: str) -> None:
    done = CliRunner().invoke(command_line, ["serve", option, value])
    assert done.exit_code == 2
    assert "finite" in done.stderr


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, gzip"])
def test_a_compressed_body_is_told(server: BackgroundService, coding: str) -> None:
    body = gzip.compress(cdvision.load(TINY).encode(PHOTO, 1, size=64))
    headers = {"Content-Encoding": coding}
    answer = httpx.post(f"{server.url}/v1/inspect", content=body, headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert "Content-Encoding" in answer.json()["error"]["message"]


def test_a_body_that_is_as_it_is_is_taken(server: BackgroundService) -> None:
    body = cdvision.load(TINY).encode(PHOTO, 1, size=64)
    headers = {"Content-Encoding": "identity"}
    answer = httpx.post(f"{server.url}/v1/inspect", content=body, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/", "/docs"])
def test_head_asks_as_get_does_without_a_body(server: BackgroundService, path: str) -> None:
    found = httpx.head(server.url + path)
    assert found.status_code == httpx.get(server.url + path).status_code == 200
    assert found.content == b""


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(10_000, 7_000), (20_000, 20_000)])  # ours, Pillow's own limit
def test_a_picture_over_the_limit_says_so(server: BackgroundService, size: tuple[int, int]) -> None:
    photo = picture(*size)
    with pytest.raises(cdvision.ImageError, match="expected at most 67108864 pixels"):
        check_format(photo)
    for path in ("encode", "picture-codecs"):
        answer = httpx.post(f"{server.url}/v1/{path}", content=photo)
        assert answer.status_code == 422
        assert "expected at most 67108864 pixels" in answer.json()["error"]["message"]


def test_options_out_of_range_are_refused_by_the_service(server: BackgroundService) -> None:
    for query in ("confidence=30", "confidence=nan", "confidence=inf", "class_agnostic=maybe"):
        answer = httpx.post(f"{server.url}/v1/detect?{query}", content=b"x")
        assert answer.status_code == 422
        assert query.partition("=")[0] in answer.json()["error"]["message"]
    bits = cdvision.load(TINY).encode(PHOTO, 1, size=64)
    answer = httpx.post(f"{server.url}/v1/detect?class_agnostic=true", content=bits)
    assert answer.status_code == 200


def test_bytes_at_equal_accuracy_lie_between_those_of_two_settings() -> None:
    points = [(1, 0.5, 0.1), (2, 0.5, 0.2), (3, 1.0, 0.4)]
    sizes = {1: 50, 2: 100, 3: 400}

    def size(point: tuple[int, float, float]) -> int:
        return sizes[point[0]]

    assert interpolated(points, 0.3, size) == 200  # halfway, on a logarithmic scale
    assert interpolated(points, 0.2, size) == 100
    assert interpolated(points, 0.05, size) == 50
    assert interpolated(points, 0.5, size) is None


def test_the_measured_settings_are_those_of_the_models_card(model: cdvision.Model) -> None:
    measured = _measured(model.card.fingerprint)
    if measured is None:
        pytest.skip("bench rate has not been run for this model")
    card = json.loads((model.package.folder / "model.json").read_text())["metrics"]
    ours = [one for one in card if one["codec"] == "cdvision small"]
    own = [one["ap"] for one in ours if one["data"].startswith(measured["data"])]
    assert measured["streams"] == [round(figure, 3) for figure in own]
    for points in measured["codecs"].values():
        figures = [accuracy for *_, accuracy in points]
        assert figures == sorted(figures)
    told = bytes_at_equal_accuracy(PHOTO.read_bytes(), model, 4)
    sizes = {codec["name"]: codec["bytes"] for codec in told["codecs"]}
    assert len(model.encode(PHOTO, 4)) < sizes["webp"] < sizes["jpeg"]
