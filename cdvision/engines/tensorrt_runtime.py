"""All that calls TensorRT and CUDA: the thin end of the ``tensorrt`` engine and builder.

Written against the documented Python API of TensorRT 10 and 11 and of cuda-python, with no call
that either marks as deprecated. IT HAS NOT BEEN RUN: no machine of ours has TensorRT. Everything
around it runs in the tests on ONNX Runtime, behind the same two methods.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.engines import Arrays
from cdvision.engines.plan_cache import Profile, Shape
from cdvision.errors import EngineError

STRONGLY_TYPED_ALWAYS = 11  # from this major version on
INSTALL = "install it with `pip install 'cdvision[tensorrt]'` on a machine with an NVIDIA GPU"


def tensorrt_installed() -> bool:
    """Whether the Python packages of TensorRT and CUDA are there; says nothing of a GPU."""
    return all(importlib.util.find_spec(name) is not None for name in ("tensorrt", "cuda"))


class TensorrtRuntime:
    """TensorRT on one CUDA device.

    Args:
        device: number of the CUDA device.

    Raises:
        EngineError: TensorRT, CUDA or the device is missing.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            self._trt: Any = importlib.import_module("tensorrt")
            self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError(f"the tensorrt engine needs TensorRT ({error}): {INSTALL}") from error
        self._device = device
        checked(self._cuda, self._cuda.cudaSetDevice(device))
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)

    @property
    def version(self) -> str:
        """Version of TensorRT: a plan runs on no other."""
        return str(self._trt.__version__)

    @property
    def compute_capability(self) -> str:
        """Compute capability of the device, such as ``"8.7"``: a plan runs on no other."""
        numbers = []
        for part in ("Major", "Minor"):
            kind = getattr(self._cuda.cudaDeviceAttr, f"cudaDevAttrComputeCapability{part}")
            found = checked(self._cuda, self._cuda.cudaDeviceGetAttribute(kind, self._device))
            numbers.append(str(found))
        return ".".join(numbers)

    def build_plan(
        self, graph: Path, profile: Profile, *, workspace_bytes: int, timing_cache: Path
    ) -> bytes:
        """Build a serialised engine from an ONNX file.

        Args:
            graph: stand-alone file; its types decide the precision of every layer.
            profile: smallest, usual and largest shape of every input.
            workspace_bytes: scratch memory that tactics may use.
            timing_cache: read where it exists, and written back.

        Raises:
            EngineError: TensorRT cannot parse or build it.
        """
        trt = self._trt
        builder = trt.Builder(self._logger)
        # Precision stands in the graph's types: from version 11 on no network is built otherwise,
        # and before it has to be asked for.
        asked = int(self.version.partition(".")[0]) < STRONGLY_TYPED_ALWAYS
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if asked else 0
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            faults = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise EngineError(f"TensorRT {self.version} cannot parse {graph}: {faults}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        config.clear_flag(trt.BuilderFlag.TF32)  # 10-bit mantissas: not what fp32 promises
        # What an earlier build on this GPU timed: measuring all tactics again takes minutes.
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
        shapes = builder.create_optimization_profile()
        for name, (least, usual, most) in profile.items():
            shapes.set_shape(name, min=least, opt=usual, max=most)
        config.add_optimization_profile(shapes)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"TensorRT {self.version} cannot build {graph}; its log says why")
        timing_cache.write_bytes(bytes(memoryview(config.get_timing_cache().serialize())))
        return bytes(memoryview(plan))

    def open_plan(self, plan: bytes) -> TensorrtPlan:
        """Deserialise an engine; raises EngineError where this TensorRT or GPU cannot run it."""
        engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"TensorRT {self.version} on compute capability {self.compute_capability} cannot "
                "open this engine: build it again on this machine"
            )
        return TensorrtPlan(self._trt, self._cuda, engine, self._device)


def checked(cuda: Any, returned: tuple[Any, ...]) -> Any:
    """Return what a CUDA call gave beside its status; raises EngineError where it failed."""
    status, *values = returned
    if status != cuda.cudaError_t.cudaSuccess:
        _, name = cuda.cudaGetErrorName(status)
        raise EngineError(f"CUDA: {name.decode() if isinstance(name, bytes) else name}")
    return values[0] if len(values) == 1 else tuple(values)


class TensorrtPlan:
    """One deserialised engine with its own context, CUDA stream and buffers, for one thread."""

    def __init__(self, trt: Any, cuda: Any, engine: Any, device: int) -> None:
        self._trt, self._cuda, self._engine, self._device = trt, cuda, engine, device
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT made no execution context: the GPU's memory is too small")
        self._stream = checked(cuda, cuda.cudaStreamCreate())
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self._inputs = [n for n in names if modes[n] == trt.TensorIOMode.INPUT]
        self._outputs = [n for n in names if modes[n] == trt.TensorIOMode.OUTPUT]
        self._types = {n: np.dtype(trt.nptype(engine.get_tensor_dtype(n))) for n in names}
        self._buffers = {name: _Buffer(cuda) for name in names}

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on named arrays and return named outputs."""
        # Copies and kernels are queued on one stream, and waited for once, at the end.
        checked(self._cuda, self._cuda.cudaSetDevice(self._device))
        for name in self._inputs:
            self._send(name, np.ascontiguousarray(inputs[name], self._types[name]))
        missing = self._context.infer_shapes()
        if missing:
            raise EngineError(f"TensorRT lacks the shapes of {', '.join(missing)}")
        outputs = {name: self._reserve(name) for name in self._outputs}
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError("TensorRT could not run the engine; its log says why")
        for name in self._outputs:
            self._buffers[name].copy(self._stream, to_host=True)
        checked(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))
        # The arrays are views of buffers that the next run writes into.
        return {name: array.copy() for name, array in outputs.items()}

    def _send(self, name: str, array: NDArray[Any]) -> None:
        if not self._context.set_input_shape(name, array.shape):
            raise EngineError(
                f"input {name!r}: shape {array.shape} lies outside the engine's profile"
            )
        buffer = self._buffers[name]
        buffer.view(array.shape, array.dtype)[...] = array
        buffer.copy(self._stream, to_host=False)
        self._place(name, buffer)

    def _reserve(self, name: str) -> NDArray[Any]:
        shape = tuple(self._context.get_tensor_shape(name))
        host = self._buffers[name].view(shape, self._types[name])
        self._place(name, self._buffers[name])
        return host

    def _place(self, name: str, buffer: _Buffer) -> None:
        if not self._context.set_tensor_address(name, buffer.device):
            raise EngineError(f"TensorRT refused the memory of {name!r}")

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._cuda.cudaStreamDestroy(self._stream)


class _Buffer:
    """Memory of one input or output: pinned on the host and on the device, grown when needed."""

    def __init__(self, cuda: Any) -> None:
        self._cuda, self._capacity, self._used = cuda, 0, 0
        self.host = self.device = 0

    def view(self, shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the host's memory as an array, valid until the next call."""
        self._used = int(np.prod(shape)) * dtype.itemsize
        # One byte at least: CUDA gives no address to an array without elements.
        if max(1, self._used) > self._capacity:
            self._grow(max(1, self._used))
        memory = (ctypes.c_ubyte * self._capacity).from_address(self.host)
        found: NDArray[Any] = np.frombuffer(memoryview(memory), np.uint8)[: self._used].view(dtype)
        return found.reshape(shape)

    def copy(self, stream: Any, *, to_host: bool) -> None:
        """Queue the copy from one side to the other."""
        kinds = self._cuda.cudaMemcpyKind
        if to_host:
            places = self.host, self.device, self._used, kinds.cudaMemcpyDeviceToHost
        else:
            places = self.device, self.host, self._used, kinds.cudaMemcpyHostToDevice
        checked(self._cuda, self._cuda.cudaMemcpyAsync(*places, stream))

    def _grow(self, size: int) -> None:
        self._free()
        # Pinned: a copy from memory that may be swapped out would wait for the host.
        self.host = int(checked(self._cuda, self._cuda.cudaMallocHost(size)))
        self.device = int(checked(self._cuda, self._cuda.cudaMalloc(size)))
        self._capacity = size

    def _free(self) -> None:
        if self._capacity:
            self._cuda.cudaFreeHost(self.host)
            self._cuda.cudaFree(self.device)
            self._capacity = 0

    def __del__(self) -> None:
        self._free()
