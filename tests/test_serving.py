"""The service: the same answers as the library, and a clear refusal of everything else."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from background_service import BackgroundService, serve_in_background
from click.testing import CliRunner

import cdvision
from cdvision.bench.mutations import mutate
from cdvision.cli import command_line
from cdvision.errors import CdvisionError

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

import httpx
from toy_family import TASK, registered, write_toy

from cdvision.analysis import AnalysisResult
from cdvision.bench.service import _percentiles, announce_too_large, bench_service, send_endless
from cdvision.serving.batching import Batcher, Question, Reply, WaitingStream, _batches
from cdvision.serving.errors import ServiceError
from cdvision.serving.gate import Gate
from cdvision.serving.metrics import Metrics
from cdvision.serving.payloads import timing_header
from cdvision.serving.request_log import LOGGER, JsonFormatter
from cdvision.serving.service import JsonAnswer, Service
from cdvision.serving.settings import ServiceSettings

WAIT_SECONDS = 300.0  # a busy machine takes its time
TINY = str(Path(__file__).parent / "packages" / "test-dicm-re")
LIMIT = 200_000
KEY = "a-key-for-tests"


@dataclass(frozen=True)
class Server:
    """A running service and a client of it."""

    running: BackgroundService
    client: httpx.Client

    @property
    def service(self) -> Service:
        return self.running.service

    def post(self, path: str, content: bytes = b"", **options: Any) -> httpx.Response:
        return self.client.post(path, content=content, **options)


@contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    # Two threads that wait for each other are slow where something else runs on the machine.
    chosen = ServiceSettings(threads=1, **settings)
    with (
        serve_in_background(chosen) as running,
        httpx.Client(base_url=running.url, timeout=WAIT_SECONDS, trust_env=False) as client,
    ):
        yield Server(running, client)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Serve the default model and a tiny one that segments."""
    with serving(models=("small", TINY), max_body_bytes=LIMIT, batch_window=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def stream(model: cdvision.Model, photos: list[Path]) -> bytes:
    return model.encode(photos[1], quality=1, size=224)


@pytest.fixture(scope="module")
def streams(model: cdvision.Model, photos: list[Path]) -> list[bytes]:
    return [model.encode(photo, quality=1, size=224) for photo in photos[:3]]


def test_a_model_of_faces_is_served_too() -> None:
    faces = str(Path(TINY).with_name("test-hsc"))
    model = cdvision.load(faces)
    bits = model.encode(str(Path(TINY).parents[2] / "examples" / "photos" / "astronaut-face.png"))
    with serving(models=(TINY, faces)) as server:
        wait_until(lambda: server.client.get("/health/ready").status_code == 200)
        answer = server.post("/v1/attributes", bits)
        assert (answer.status_code, answer.json()) == (200, model.attributes(bits).to_dict())
        assert server.post("/v1/detect", bits).status_code == 422


@pytest.fixture(scope="module")
def toy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a model with a task that no product file knows; ``server`` began before it was one."""
    folder = write_toy(tmp_path_factory.mktemp("toy") / "toy")
    with registered(), serving(models=(str(folder),)) as running:
        yield running


def test_a_registered_task_has_its_path_options_and_answer(toy: Server, photos: list[Path]) -> None:
    toy_model = toy.service.models.default
    bits = toy_model.encode(photos[0], size=64)
    stream = toy_model.open(bits)
    plain, other = stream.ask("lightness"), stream.ask("lightness", digits=0, inverted=True)
    answer = toy.post("/v1/lightness?digits=0&inverted=true", bits)
    assert (answer.status_code, answer.json()) == (200, other.to_dict())
    assert toy.post("/v1/lightness", bits).json() == plain.to_dict() != other.to_dict()
    assert 'task="lightness"' in toy.client.get("/metrics").text
    assert 'path="/v1/lightness"' in toy.client.get("/metrics").text
    files = [("files", ("a.cdv", bits)), ("files", ("b.cdv", b"?"))]
    first, second = toy.client.post("/v1/lightness", files=files).json()["results"]
    assert first["lightness"] == plain.to_rows()
    assert second["error"]["field"] == "magic"


@pytest.mark.parametrize(
    "wrong", ["gain=10.5", "gain=nan", "digits=-1", "digits=1001", "inverted=perhaps"]
)
def test_options_of_a_registered_task_are_refused_out_of_range(toy: Server, wrong: str) -> None:
    answer = toy.post(f"/v1/lightness?{wrong}", b"")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (422, "ParameterError")
    assert error["field"] == "query." + wrong.partition("=")[0]


def test_a_registered_task_is_described_to_clients(toy: Server) -> None:
    operation = toy.client.get("/openapi.json").json()["paths"]["/v1/lightness"]["post"]
    gain, digits, inverted, model = operation["parameters"]
    assert gain["schema"] == {
        "type": "number", "minimum": 0, "maximum": 10, "default": 1.0,
        "title": "Gain", "description": "What the level is multiplied by.",
    }  # fmt: skip
    assert (digits["schema"]["type"], digits["schema"]["default"]) == ("integer", 3)
    assert (inverted["schema"]["type"], model["name"]) == ("boolean", "model")
    told = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert (told, operation["description"]) == (TASK.example, TASK.summary)
    listed = {task["name"]: task for task in toy.client.get("/v1/tasks").json()["tasks"]}
    assert "reconstruct" not in listed
    assert listed["lightness"]["column"]["fields"] == {"level": "float", "sure": "boolean"}
    options = [option["name"] for option in listed["lightness"]["options"]]
    assert options == ["gain", "digits", "inverted"]


def test_a_task_that_is_not_registered_has_no_path(server: Server, stream: bytes) -> None:
    assert server.post("/v1/lightness", stream).status_code == 404
    assert server.post("/v1/reconstruct", stream).status_code == 404


def at_work(server: Server) -> float | None:
    return server.service.metrics.registry.get_sample_value("cdvision_requests_at_work")


# -- answers --------------------------------------------------------------------------------------


def test_detect_answers_as_the_library_does(
    server: Server, model: cdvision.Model, stream: bytes
) -> None:
    answer = server.post("/v1/detect", stream, params={"confidence": 0.2})
    assert answer.status_code == 200
    assert answer.json() == model.detect(stream, confidence=0.2).to_dict()
    assert "work;dur=" in answer.headers["server-timing"]


def test_classify_answers_as_the_library_does(
    server: Server, model: cdvision.Model, stream: bytes
) -> None:
    answer = server.post("/v1/classify", stream, params={"top": 3})
    assert answer.json() == model.classify(stream, top=3).to_dict()
    assert len(answer.json()["classes"]) == 3


def test_a_stream_finds_its_model_by_its_fingerprint(server: Server, photos: list[Path]) -> None:
    tiny = cdvision.load(TINY)
    bits = tiny.encode(photos[0], size=64)
    answer = server.post("/v1/segment", bits, params={"confidence": 0})
    assert answer.status_code == 200
    assert answer.json() == tiny.segment(bits, confidence=0).to_dict()


def test_inspect_tells_the_header_of_a_cut_stream(server: Server, stream: bytes) -> None:
    told = server.post("/v1/inspect", stream[:-10]).json()
    assert told == json.loads(cdvision.inspect(stream[:-10]).to_json())
    assert not told["complete"]


def test_streams_that_arrive_together_share_a_run(
    server: Server, model: cdvision.Model, streams: list[bytes]
) -> None:
    def runs() -> float:
        return server.service.metrics.registry.get_sample_value(
            "cdvision_batch_streams_count", {"task": "detect"}
        ) or 0.0  # fmt: skip

    before, asked = runs(), streams * 4
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda bits: server.post("/v1/detect", bits).json(), asked))
    assert runs() - before < len(asked)
    for bits, answer in zip(asked, answers, strict=True):
        names = [found["class_name"] for found in answer["detections"]]
        assert names == model.detect(bits).class_name.tolist()


def test_a_form_answers_each_file_and_tells_which_is_bad(
    server: Server, model: cdvision.Model, stream: bytes
) -> None:
    files = [("files", ("good.cdv", stream)), ("files", ("bad.cdv", b"not a stream"))]
    answer = server.client.post("/v1/classify", files=files)
    assert answer.status_code == 200
    good, bad = answer.json()["results"]
    assert good == {"name": "good.cdv", **model.classify(stream).to_dict()}
    assert (bad["name"], bad["error"]["field"]) == ("bad.cdv", "magic")


def test_a_form_of_bad_files_alone_is_refused(server: Server) -> None:
    answer = server.client.post("/v1/detect", files=[("files", ("bad.cdv", b"?"))])
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "BitstreamError"


def test_encode_returns_the_stream_or_json_on_request(
    server: Server, model: cdvision.Model, photos: list[Path]
) -> None:
    photo, how = photos[1].read_bytes(), {"quality": 2, "size": 224}
    expected = model.encode(photo, quality=2, size=224)
    raw = server.post("/v1/encode", photo, params=how)
    assert (raw.headers["content-type"], raw.content) == ("application/octet-stream", expected)
    told = server.post("/v1/encode", photo, params=how, headers={"Accept": "application/json"})
    assert base64.b64decode(told.json()["stream"]) == expected
    assert told.json()["bytes"] == len(expected)


def test_encode_takes_a_sender_of_the_model(server: Server, photos: list[Path]) -> None:
    photo, (first, _) = photos[1].read_bytes(), server.client.get("/v1/models").json()["models"]
    sender = first["senders"][0]["name"]
    how = {"quality": 2, "size": 224}
    named = server.post("/v1/encode", photo, params={**how, "sender": sender})
    assert named.content == server.post("/v1/encode", photo, params=how).content
    wrong = server.post("/v1/encode", photo, params={"sender": "none"})
    assert wrong.status_code == 422
    assert wrong.json()["error"]["message"] == f"sender: expected one of {sender}, found 'none'"


def test_picture_codecs_are_measured_at_the_accuracy_of_the_stream(
    server: Server, photos: list[Path]
) -> None:
    told = {}
    for quality in (1, 8):
        where = {"params": {"quality": quality}}
        told[quality] = server.post("/v1/picture-codecs", photos[1].read_bytes(), **where).json()
        sizes = {codec["name"]: codec["bytes"] for codec in told[quality]["codecs"]}
        assert sizes["webp"] < sizes["jpeg"]
        assert told[quality]["accuracy"]["figure"] == "AP"
        told[quality] = {**told[quality], **sizes}
    assert told[1]["accuracy"]["value"] < told[8]["accuracy"]["value"]
    assert told[1]["jpeg"] < told[8]["jpeg"]
    other = {"params": {"model": "test-dicm-re"}}
    unmeasured = server.post("/v1/picture-codecs", photos[1].read_bytes(), **other).json()
    assert (unmeasured["accuracy"], unmeasured["codecs"]) == (None, [])
    wrong = server.post("/v1/picture-codecs", b"x", params={"quality": 9})
    assert wrong.status_code == 422


def test_models_are_listed_with_the_default_first(server: Server, model: cdvision.Model) -> None:
    first, second = server.client.get("/v1/models").json()["models"]
    assert (first["name"], first["tasks"]) == ("small", list(model.card.tasks))
    assert "segment" in second["tasks"]
    (name, sender), *_ = model.card.senders.items()
    assert first["senders"][0] == {
        "name": name,
        "multiply_adds": sender.multiply_adds,
        "milliseconds": sender.milliseconds,
        "measured_on": sender.measured_on,
    }


# -- refusals -------------------------------------------------------------------------------------


def test_a_damaged_stream_is_refused_with_offset_and_field(server: Server, stream: bytes) -> None:
    damaged = bytearray(stream)
    damaged[-6] ^= 1
    answer = server.post("/v1/detect", bytes(damaged))
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert set(error) == {"type", "message", "offset", "field"}
    assert error["type"] == "BitstreamError"
    assert error["field"].startswith("layer 1 checksum")
    assert error["offset"] == len(stream) - 4


def test_no_mutated_stream_is_a_fault_of_the_service(server: Server, streams: list[bytes]) -> None:
    bodies = [mutate(streams, 7, index)[1] for index in range(120)]
    with ThreadPoolExecutor(12) as pool:
        for path in ("/v1/detect", "/v1/inspect"):
            answers = pool.map(partial(server.post, path), bodies)
            assert {answer.status_code for answer in answers} <= {200, 422}


@pytest.mark.parametrize(
    ("path", "status", "type_"),
    [
        ("/v1/attributes", 422, "UnsupportedTask"),
        ("/v1/detect?model=other", 404, "NotFound"),
        ("/v1/detect?model=test-dicm-re", 422, "BitstreamError"),
        ("/v1/detect?confidence=2", 422, "ParameterError"),
        ("/v1/detect?confidence=nan", 422, "ParameterError"),
        ("/v1/classify?top=0", 422, "ParameterError"),
        ("/v1/encode", 422, "ImageError"),
        ("/v1/encode?size=33", 422, "ImageError"),
        ("/v1/nothing", 404, "NotFound"),
        ("/metrics", 405, "MethodNotAllowed"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_shape(
    server: Server, stream: bytes, path: str, status: int, type_: str
) -> None:
    answer = server.post(path, stream)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == type_
    assert answer.json()["error"]["message"]


def test_a_size_that_the_model_does_not_take_is_refused(server: Server, photos: list[Path]) -> None:
    answer = server.post("/v1/encode?size=33", photos[1].read_bytes())
    assert answer.status_code == 422
    assert "multiple of 32" in answer.json()["error"]["message"]


def test_a_format_that_starts_other_programs_is_not_read(server: Server) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert "expected an image file" in server.post("/v1/encode", postscript).text


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"x"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b; charset=none", b"--b\r\n\r\nx\r\n--b--\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\ntext\r\n--b--\r\n',
        ),
    ],
)
def test_a_bad_form_is_refused(server: Server, content_type: str, body: bytes) -> None:
    answer = server.post("/v1/detect", body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert "multipart form" in answer.json()["error"]["message"]


# -- limits ---------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused_unread(server: Server) -> None:
    address = ("127.0.0.1", server.running.port)
    assert announce_too_large(address, "/v1/detect") == 413  # none of it was sent
    sent = send_endless(address, "/v1/detect")
    assert sent < 2**26  # what the system's buffers swallow: the service stopped reading


def test_one_request_too_many_is_told_to_come_back(stream: bytes) -> None:
    with serving(models=(TINY,), max_requests=1, body_seconds=2) as server:
        with socket.create_connection(("127.0.0.1", server.running.port)) as slow:
            slow.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: at_work(server) == 1)
            refused = server.post("/v1/inspect", stream)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert slow.recv(100).startswith(b"HTTP/1.1 408")  # its body took too long
        assert server.post("/v1/inspect", stream).status_code == 200
        assert server.client.get("/health/live").status_code == 200


def test_the_key_guards_answers_and_metrics_but_not_health(stream: bytes) -> None:
    with serving(models=(TINY,), api_key=KEY, cors_origins=("https://a.example",)) as server:
        assert server.client.get("/health/ready").status_code == 200
        assert server.client.get("/").status_code == 200
        for headers in ({}, {"X-API-Key": "another"}, {"Authorization": f"Basic {KEY}"}):
            assert server.post("/v1/inspect", stream, headers=headers).status_code == 401
            assert server.client.get("/metrics", headers=headers).status_code == 401
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            assert server.post("/v1/inspect", stream, headers=headers).status_code == 200
        origin = {"Origin": "https://a.example", "X-API-Key": KEY}
        answer = server.post("/v1/inspect", stream, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert KEY not in repr(ServiceSettings(api_key=KEY))


def test_other_origins_are_not_allowed_by_default(server: Server, stream: bytes) -> None:
    answer = server.post("/v1/inspect", stream, headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_before_the_models_are_loaded_requests_are_told_to_wait(stream: bytes) -> None:
    with serving(models=(TINY,)) as server:
        server.service.ready = False
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/health/ready").status_code == 503
        answer = server.post("/v1/detect", stream)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_request_at_work_ends_before_the_service_does(photos: list[Path]) -> None:
    bits = cdvision.load(TINY).encode(photos[0], size=64)
    with serving(models=(TINY,), batch_window=0.5) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "/v1/detect", bits)
        wait_until(lambda: at_work(server) == 1)
        server.running.stop()
        assert answer.result().status_code == 200


def test_large_inputs_do_not_share_a_batch() -> None:
    question = Question(cdvision.load(TINY), "detect")
    side = question.model.card.input.size

    def job(pixels: int) -> WaitingStream:
        return WaitingStream(question, b"", pixels, 0.0, Undone())  # type: ignore[arg-type]

    jobs = [job(side * side)] * 4 + [job(9 * side * side)] * 2
    assert [len(batch) for batch in _batches(jobs, 4)] == [4, 1, 1]


class CountingModel:
    """Answers nothing, and keeps how many streams shared each run."""

    card = SimpleNamespace(input=SimpleNamespace(size=8))

    def __init__(self) -> None:
        self.runs: list[int] = []

    def analyze(self, streams: list[bytes], *_: Any, **__: Any) -> Iterator[AnalysisResult]:
        self.runs.append(len(streams))
        return (AnalysisResult(index) for index in range(len(streams)))


def test_the_first_stream_waits_for_others_as_long_as_the_window() -> None:
    model = CountingModel()
    question = Question(model, "detect")  # type: ignore[arg-type]

    async def ask() -> list[Reply]:
        batcher = Batcher(Metrics(), max_batch=2, window=0.4)
        batcher.start()
        first = asyncio.create_task(batcher.answer(question, b"", 64))
        await asyncio.sleep(0.1)  # later than the first, within its window
        replies = await asyncio.gather(first, *(batcher.answer(question, b"", 64) for _ in "23"))
        await batcher.close()
        return replies

    first, second, _ = asyncio.run(ask())
    assert model.runs == [2, 1]  # the third finds the batch full
    assert first.waited >= 0.4
    assert second.waited < first.waited


class BrokenModel(CountingModel):
    """Forgets the answers of its first run, as only a bug could."""

    def analyze(self, streams: list[bytes], *_: Any, **__: Any) -> Iterator[AnalysisResult]:
        results = list(super().analyze(streams))
        return iter(results if len(self.runs) > 1 else [])


def test_a_run_that_breaks_is_told_to_those_who_wait_and_the_next_is_answered() -> None:
    question = Question(BrokenModel(), "detect")  # type: ignore[arg-type]

    async def ask() -> tuple[list[Any], Reply]:
        batcher = Batcher(Metrics(), max_batch=2, window=0.05)
        batcher.start()
        waiting = (batcher.answer(question, b"", 64) for _ in "12")
        broken = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
        later = await asyncio.wait_for(batcher.answer(question, b"", 64), 30)
        await batcher.close()
        return broken, later

    broken, later = asyncio.run(ask())
    assert [type(outcome) for outcome in broken] == [ValueError, ValueError]
    assert later.result.error is None


def test_streams_asked_with_other_options_do_not_share_a_batch() -> None:
    model = cdvision.load(TINY)
    few, many = (Question(model, "detect", (("confidence", least),)) for least in (0.9, 0.1))
    jobs = [WaitingStream(q, b"", 1, 0.0, Undone()) for q in (few, many, few)]  # type: ignore[arg-type]
    assert [[job.question for job in batch] for batch in _batches(jobs, 4)] == [[few, few], [many]]


def test_a_form_tells_its_longest_wait_and_its_longest_run() -> None:
    answers = [
        JsonAnswer({}, waited, took) for waited, took in ((0.3, 0.1), (0.2, 0.4), (0.1, 0.2))
    ]
    assert timing_header(answers) == {"Server-Timing": "wait;dur=300.00, work;dur=400.00"}


class Undone:
    def done(self) -> bool:
        return False


@pytest.mark.parametrize(
    "wrong", [{"models": ()}, {"max_batch": 0}, {"body_seconds": 0}, {"api_key": " "}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CdvisionError, match="expected"):
        ServiceSettings(**wrong)  # type: ignore[arg-type]


# -- operation ------------------------------------------------------------------------------------


def test_logs_are_json_without_payload_or_parameters(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        answer = server.post("/v1/detect?confidence=0.123", b"secret payload")
        wait_until(lambda: any(record.name == LOGGER for record in caplog.records))
    record = next(record for record in caplog.records if record.name == LOGGER)
    line = JsonFormatter().format(record)
    told = json.loads(line)
    assert told["request"] == answer.headers["x-request-id"]
    assert (told["path"], told["status"], told["received_bytes"]) == ("/v1/detect", 422, 14)
    assert "secret" not in line
    assert "0.123" not in line


def test_metrics_count_requests_and_unknown_paths_under_one_label(server: Server) -> None:
    server.client.get("/made-up-path")
    text = server.client.get("/metrics").text
    assert 'cdvision_requests_total{method="GET",path="other",status="404"}' in text
    assert "made-up" not in text
    assert "process_resident_memory_bytes" in text


def test_every_operation_tells_its_body_answers_and_refusals(server: Server) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    posted = [path for path in paths if "post" in paths[path]]
    assert {"/v1/detect", "/v1/attributes", "/v1/inspect", "/v1/encode"} < set(posted)
    for path in posted:
        operation = paths[path]["post"]
        assert "multipart/form-data" in operation["requestBody"]["content"]
        assert {"200", "400", "401", "413", "422", "503"} <= set(operation["responses"])


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_loads_nothing_from_elsewhere(server: Server, path: str) -> None:
    answer = server.client.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_the_benchmark_finds_no_fault(server: Server, streams: list[bytes]) -> None:
    report = bench_service(server.running.url, streams, seconds=0.5, clients=4, malformed=40)
    assert report.ok, str(report)
    assert report.requests > 0
    assert report.too_large_status == 413
    assert sum(report.malformed.values()) == 40
    assert "p99" in str(report)


def test_the_benchmark_tells_the_median_and_the_slowest_hundredth_in_milliseconds() -> None:
    """Of 0, 2, ..., 200 ms one in a hundred takes more than 198."""
    assert _percentiles([0.002 * n for n in range(101)]) == {"p50": 100.0, "p99": 198.0}


def test_serve_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "cdvision.serving.app")
    done = CliRunner().invoke(command_line, ["serve"])
    assert done.exit_code == 2
    assert "pip install 'cdvision[serve]'" in done.stderr


def test_serve_tells_in_one_line_that_a_port_is_taken(server: Server) -> None:
    arguments = ["serve", "--model", TINY, "--port", str(server.running.port)]
    done = CliRunner().invoke(command_line, arguments)
    assert done.exit_code == 2
    assert "cannot listen on 127.0.0.1" in done.stderr


@pytest.mark.parametrize(("pieces", "taken"), [([6, 4], 10), ([6, 5], 6), ([6, 4, 1], 10)])
def test_pieces_of_a_body_are_counted_together(pieces: list[int], taken: int) -> None:
    messages, read = [{"type": "http.request", "body": bytes(n)} for n in pieces], []

    async def receive() -> Any:
        return messages.pop(0)

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        for _ in pieces:
            read.append(len((await receive())["body"]))

    async def send(_message: Any) -> None:
        pass

    gate = Gate(app, settings=ServiceSettings(max_body_bytes=10), ready=lambda: True)
    scope = {"type": "http", "method": "POST", "path": "/other", "headers": []}
    if sum(pieces) > 10:
        with pytest.raises(ServiceError, match="at most 10 bytes"):
            asyncio.run(gate(scope, receive, send))
    else:
        asyncio.run(gate(scope, receive, send))
    assert sum(read) == taken
