"""The Triton repository: its schema, and a run of everything in it but the server itself.

A stand-in for ``triton_python_backend_utils`` carries tensors; the Python models, the graphs and
the ensembles' wiring, read from the configurations, are the exported ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import types
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision

pytest.importorskip("onnx")
text_format = pytest.importorskip("google.protobuf.text_format")
json_format = pytest.importorskip("google.protobuf.json_format")

from cdvision.engines.onnx_engine import OnnxGraph  # noqa: E402
from cdvision.export.recorded_inputs import drawn_photos  # noqa: E402
from cdvision.export.triton import write_triton  # noqa: E402
from cdvision.version import __version__  # noqa: E402

TESTS = Path(__file__).parent
TINY = TESTS / "packages" / "test-dicm-re"
NUMPY = {
    "TYPE_FP32": np.float32, "TYPE_INT32": np.int32, "TYPE_INT64": np.int64,
    "TYPE_STRING": np.object_,
}  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's published ``model_config.proto``, as the package tritonclient carries it."""
    try:
        client = metadata.distribution("tritonclient")
    except metadata.PackageNotFoundError:
        pytest.skip("needs tritonclient, which carries Triton's schema")
    file = client.locate_file("tritonclient/grpc/model_config_pb2.py")  # by path: needs no grpc
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny() -> cdvision.Model:
    return cdvision.load(TINY, threads=1)


@pytest.fixture(scope="module")
def repository(tiny: cdvision.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    write_triton(tiny, folder, photos=drawn_photos()[:1], wheel=a_wheel(tmp_path_factory))
    return folder


def a_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what looks like cdvision's wheel: tests of bundles let pip make the real one."""
    path = tmp_path_factory.mktemp("wheel") / f"cdvision-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cdvision/version.py", "")
        archive.writestr("cdvision/models/small/packages/small/model.json", "{}")
    return path


@pytest.fixture(scope="module")
def small_repository(model: cdvision.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small`, whose streams have a layer for each of two tails."""
    folder = tmp_path_factory.mktemp("triton-small")
    write_triton(model, folder, photos=drawn_photos()[:1], wheel=a_wheel(tmp_path_factory))
    return folder


class Server:
    """Runs the models of a repository by their configurations; also the stand-in's BLS."""

    def __init__(self, repository: Path, schema: Any) -> None:
        self._repository, self._schema = repository, schema
        self._python: dict[str, Any] = {}

    def config(self, name: str) -> Any:
        text = (self._repository / name / "config.pbtxt").read_text()
        return text_format.Parse(text, self._schema.ModelConfig())

    def infer(
        self, name: str, inputs: dict[str, np.ndarray], wanted: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        config = self.config(name)
        self._check(config, config.input, inputs)
        if config.platform == "ensemble":
            outputs = self._ensemble(config, inputs)
        elif config.backend == "python":
            outputs = self._run_python(name, config, inputs, wanted)
        else:
            outputs = self._run_graph(name, config, inputs)
        self._check(config, config.output, outputs)
        return outputs

    def _check(self, config: Any, declared: Any, arrays: dict[str, np.ndarray]) -> None:
        """Shapes and types must be those of the configuration, as the server insists."""
        for tensor in declared:
            if tensor.name not in arrays:
                assert config.platform != "ensemble", tensor.name
                continue
            value = arrays[tensor.name]
            assert value.dtype == NUMPY[self._schema.DataType.Name(tensor.data_type)], tensor.name
            shape = value.shape[1:] if config.max_batch_size else value.shape
            assert len(shape) == len(tensor.dims), (config.name, tensor.name, shape)
            assert all(d in (-1, s) for d, s in zip(tensor.dims, shape, strict=True)), tensor.name

    def _ensemble(self, config: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pool = dict(inputs)
        for step in config.ensemble_scheduling.step:
            given = {own: pool[name] for own, name in step.input_map.items()}
            found = self.infer(step.model_name, given, tuple(step.output_map))
            pool |= {name: found[own] for own, name in step.output_map.items()}
        return {tensor.name: pool[tensor.name] for tensor in config.output}

    def _run_graph(self, name: str, config: Any, inputs: dict[str, np.ndarray]) -> Any:
        scalars = {t.name for t in config.input if t.HasField("reshape")}
        given = {n: v[:, 0] if n in scalars else v for n, v in inputs.items()}
        return OnnxGraph(str(self._repository / name / "1" / "model.onnx"), threads=1).run(given)

    def _run_python(
        self, name: str, config: Any, inputs: dict[str, np.ndarray], wanted: tuple[str, ...]
    ) -> Any:
        if name not in self._python:
            model = load_python_model(self._repository / name / "1" / "model.py")
            settings = json_format.MessageToDict(config, preserving_proto_field_name=True)
            model.initialize(
                {
                    "model_config": json.dumps(settings),
                    "model_repository": str(self._repository / name),
                }
            )
            self._python[name] = model
        tensors = [Tensor(n, v) for n, v in inputs.items()]
        (response,) = self._python[name].execute([Tensors(tensors, wanted=wanted)])
        if response.error is not None:
            raise RuntimeError(response.error.message())
        return {tensor.name: tensor.as_numpy() for tensor in response.tensors}


class Tensor:
    def __init__(self, name: str, value: np.ndarray) -> None:
        self.name, self._value = name, value

    def as_numpy(self) -> np.ndarray:
        return self._value


class Tensors:
    """A request or a response."""

    def __init__(self, tensors: list[Tensor], error: Any = None, wanted: Any = ()) -> None:
        self.tensors, self.error, self.wanted = tensors, error, wanted

    def requested_output_names(self) -> list[str]:
        return list(self.wanted)

    def has_error(self) -> bool:
        return self.error is not None


def by_name(holder: Tensors, name: str) -> Tensor | None:
    return next((tensor for tensor in holder.tensors if tensor.name == name), None)


def load_python_model(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"served_{path.parent.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


@pytest.fixture
def utilities(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Put the stand-in where the models import it from."""
    module = types.ModuleType("triton_python_backend_utils")
    error = type("TritonError", (), {})
    error.__init__ = lambda self, text: setattr(self, "_text", text)
    error.message = lambda self: self._text
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Tensors, error
    module.get_input_tensor_by_name = module.get_output_tensor_by_name = by_name
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    return module


@pytest.fixture
def server(repository: Path, schema: Any, utilities: types.ModuleType) -> Server:
    return running_server(repository, schema, utilities)


def running_server(repository: Path, schema: Any, utilities: types.ModuleType) -> Server:
    running = Server(repository, schema)

    class Request:
        def __init__(self, model_name: str, requested_output_names: list[str], inputs: Any) -> None:
            self._name, self._wanted = model_name, requested_output_names
            self._inputs = {tensor.name: tensor.as_numpy() for tensor in inputs}

        def exec(self) -> Tensors:
            found = running.infer(self._name, self._inputs)
            return Tensors([Tensor(name, found[name]) for name in self._wanted])

    utilities.InferenceRequest = Request
    return running


def streams_of(model: cdvision.Model) -> list[bytes]:
    return [model.encode(drawn_photos()[0], quality) for quality in (2, 7)]


def as_input(streams: list[bytes]) -> dict[str, np.ndarray]:
    return {"STREAM": np.array(streams, object)[:, None]}


# --- the files


def test_every_configuration_fits_the_published_schema(repository: Path, schema: Any) -> None:
    names = [path.parent.name for path in repository.glob("*/config.pbtxt")]
    assert len(names) == 11  # decode, 2 answers, box, mask, 3 writers, 3 ensembles
    for name in names:
        config = Server(repository, schema).config(name)
        assert config.name == name
        assert (repository / name / "1").is_dir()
        if config.backend == "python":
            assert (repository / name / "1" / "model.py").is_file()
        if config.platform == "ensemble":
            for step in config.ensemble_scheduling.step:
                assert step.model_name in names
        elif config.max_batch_size:
            assert config.max_batch_size == 16
            assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        else:  # regions of one picture: their first axis is no batch
            assert name.rpartition("_")[0].endswith(("_box", "_mask"))


def test_a_field_that_triton_does_not_know_is_found(schema: Any) -> None:
    with pytest.raises(text_format.ParseError):
        text_format.Parse('name: "x" no_such_field: 1', schema.ModelConfig())


def test_the_repository_carries_tables_and_no_weights(repository: Path) -> None:
    package = repository / "test-dicm-re_decode" / "package"
    assert {p.name for p in package.iterdir()} == {"model.json", "tables.npz", "classes.json"}


def test_the_wheel_lies_in_the_repository_without_models(repository: Path) -> None:
    (wheel,) = repository.glob("cdvision-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist() == ["cdvision/version.py"]


# --- running it


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_an_ensemble_answers_as_the_model_does(
    server: Server, tiny: cdvision.Model, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = streams_of(tiny)
    answers = server.infer(f"test-dicm-re_{task}", as_input(streams))["ANSWER"][:, 0]
    for bits, answer in zip(streams, answers, strict=True):
        expected = json.loads(tiny.open(bits).ask(task).to_json())
        assert_close(json.loads(answer), expected)


def assert_close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    else:
        assert found == expected


def test_damaged_bytes_fail_with_the_streams_own_message(server: Server) -> None:
    with pytest.raises(RuntimeError, match="bad stream: magic"):
        server.infer("test-dicm-re_decode", as_input([b"no stream"]))


def test_streams_of_two_sizes_in_one_request_are_refused(
    server: Server, tiny: cdvision.Model
) -> None:
    sizes = [tiny.encode(photo, 2) for photo in drawn_photos()[:2]]
    with pytest.raises(RuntimeError, match="one input size"):
        server.infer("test-dicm-re_decode", as_input(sizes))


def test_a_stream_for_one_task_answers_that_tasks_ensemble(
    small_repository: Path, schema: Any, utilities: types.ModuleType, model: cdvision.Model
) -> None:
    server = running_server(small_repository, schema, utilities)
    photo = drawn_photos()[0]
    for task, others in (("classify", ["detect"]), ("detect", ["classify"])):
        bits = model.encode(photo, 4, tasks=task)
        (answer,) = server.infer(f"small_{task}", as_input([bits]))["ANSWER"][:, 0]
        assert_close(json.loads(answer), json.loads(model.open(bits).ask(task).to_json()))
        for other in others:
            with pytest.raises(RuntimeError, match="bad stream: layer"):
                server.infer(f"small_{other}", as_input([bits]))
    damaged = bytearray(model.encode(photo, 4))
    damaged[-9] ^= 1  # of the last layer
    with pytest.raises(RuntimeError, match="bad stream"):
        server.infer("small_detect", as_input([bytes(damaged)]))


NAMES = ("descriptor", "symbols", "hyper")


def test_golden_streams_decode_to_their_latents(
    utilities: types.ModuleType, repository: Path
) -> None:
    model = load_python_model(repository / "test-dicm-re_decode" / "1" / "model.py")
    small = Path(cdvision.__file__).parent / "models" / "small" / "packages" / "small"
    config = {"parameters": {"package": {"string_value": str(small)}}}
    model.initialize({"model_config": json.dumps(config), "model_repository": "/"})
    records = json.loads((TESTS / "golden" / "golden.json").read_text())
    whole = [r for r in records if r["model"] == "small" and not r["stream"].startswith("cat-q4-")]
    assert len(whole) == 4
    for record in whole:
        bits = (TESTS / "golden" / record["stream"]).read_bytes()
        request = Tensors([Tensor("STREAM", np.array([[bits]], object))])
        (response,) = model.execute([request])
        assert response.error is None
        latents = [by_name(response, name).as_numpy()[0] for name in NAMES]
        digest = hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in latents))
        assert digest.hexdigest() == record["latents_sha256"]
