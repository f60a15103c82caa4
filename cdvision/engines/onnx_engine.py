"""Runs a package's graphs in ONNX Runtime: the engine of the base install."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cdvision.engines import Arrays
from cdvision.engines.onnx_runtime import hold, onnxruntime
from cdvision.errors import EngineError

if TYPE_CHECKING:
    from cdvision.package.loader import ModelPackage

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OnnxEngine:
    """Opens each graph's session when it is first asked for.

    Args:
        package: the model package.
        device: ``"cpu"`` or ``"cuda"`` (needs the onnxruntime-gpu build).
        threads: threads inside a run; ONNX Runtime's default (all cores) where None.

    Raises:
        EngineError: the device has no provider in this build.
    """

    def __init__(
        self, package: ModelPackage, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        if device != "cpu":  # every build has the CPU: whoever only decodes loads no runtime
            _check_device(device)
        self._package, self.device, self.threads = package, device, threads
        self._graphs: dict[str, OnnxGraph] = {}
        self._opening = Lock()  # runs may be called from several threads
        self._single: OnnxEngine | None = None

    def single_threaded(self) -> OnnxEngine:
        """Return an engine of the same graphs whose runs take one thread each; always the same."""
        if self._single is None:
            self._single = OnnxEngine(self._package, device=self.device, threads=1)
        return self._single

    def run(self, graph: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one graph on named arrays and return its named outputs."""
        opened = self._graphs.get(graph) or self._open(graph)
        try:
            return opened.run(inputs)
        except Exception as error:  # onnxruntime raises a family without a public base
            raise EngineError(f"graph {graph!r} failed in ONNX Runtime: {error}") from error

    def _open(self, graph: str) -> OnnxGraph:
        with self._opening:
            # Looked up again: another thread may have opened it while this one waited.
            if graph not in self._graphs:
                path = str(self._package.graph_path(graph))
                providers = PROVIDERS[self.device]
                self._graphs[graph] = OnnxGraph(path, threads=self.threads, providers=providers)
            return self._graphs[graph]


class OnnxGraph:
    """One graph in ONNX Runtime, from a path or bytes; ``providers`` may run it, the best first.

    Raises:
        EngineError: ONNX Runtime cannot open it.
    """

    def __init__(
        self,
        source: str | bytes,
        *,
        threads: int | None = None,
        providers: Sequence[str] = PROVIDERS["cpu"],
    ) -> None:
        self._path = source if isinstance(source, str) else None
        self._threads, self._providers = threads, list(providers)
        self._session = _opened(source, threads, self._providers)
        # Kept here: asking the session at every run takes longer.
        self.inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        hold(self)

    def leave_to_parent(self) -> list[Any]:
        """Forget the session after a fork, and return what belongs to the parent."""
        session, self._session = self._session, None
        return [] if session is None else [session, session._sess]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on named arrays and return named outputs."""
        if self._session is None:
            if self._path is None:
                raise EngineError("a graph of bytes was opened before a fork: open it after it")
            self._session = _opened(self._path, self._threads, self._providers)
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))


def _opened(source: str | bytes, threads: int | None, providers: Sequence[str]) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Threads wait for work by spinning, within a run only: those of an idle session would take
    # the cores from the next one (detect after encode on 2 cores: 13.4 ms instead of 9.8).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(source, options, providers=providers)
    except Exception as error:  # onnxruntime raises a family without a public base
        name = source if isinstance(source, str) else "this graph"
        raise EngineError(f"ONNX Runtime cannot open {name}: {error}") from error


def _check_device(device: str) -> None:
    offered = onnxruntime().get_available_providers()
    if device not in PROVIDERS or PROVIDERS[device][0] not in offered:
        raise EngineError(
            f"ONNX Runtime here cannot run on {device!r}: it offers {', '.join(offered)}"
        )
