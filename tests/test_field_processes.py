"""Models in other processes: pickled, copied, forked; errors that cross processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision import errors
from cdvision.cli.output_files import OutputError
from cdvision.entropy.tables import CodingError
from cdvision.results.checks import ResultError

ROOT = Path(__file__).parent.parent
PHOTO = str(ROOT / "examples" / "photos" / "cat.jpg")
TINY = ROOT / "tests" / "packages" / "test-dicm-re"


def sent(value: Any) -> Any:
    """Return a value as another process gets it."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301


FORK = """
import os, sys, time
{before}
import cdvision
bits = cdvision.encode({photo!r}, 2)
model = cdvision.load("small", threads={threads})
expected = repr(model.detect(bits))
pid = os.fork()
if pid == 0:
    same = repr(model.detect(bits)) == expected and repr(cdvision.detect(bits)) == expected
    sys.exit(0 if same else 3)
for _ in range(600):
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        break
    time.sleep(0.1)
else:
    os.kill(pid, 9)
    status = "hangs"
print(status, repr(model.detect(bits)) == expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [None, 1, 4])
def test_a_fork_after_loading_answers_and_ends(threads: int | None) -> None:
    code = FORK.format(photo=PHOTO, threads=threads, before="")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split() == ["0", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_that_may_hang_is_told() -> None:
    code = f"import onnxruntime, os, cdvision; cdvision.detect(cdvision.encode({PHOTO!r}, 1))\n"
    code += "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)\nos._exit(0)"
    plain = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain
    )
    assert "may hang when it ends: set ORT_DISABLE_TELEMETRY=1" in done.stderr


def test_telemetry_is_off_before_the_library_is_loaded() -> None:
    code = (
        "import os, sys, cdvision; assert 'onnxruntime' not in sys.modules;"
        f"cdvision.encode({PHOTO!r}, 1); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    plain = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain,
                          check=True)  # fmt: skip
    assert done.stdout.strip() == "1"


def test_a_model_pickles_as_its_name_and_options(model: cdvision.Model) -> None:
    named = cdvision.load("small", threads=2, limits=cdvision.StreamLimits())
    data = pickle.dumps(named)
    assert len(data) < 1000
    assert str(ROOT).encode() not in data  # another machine may have it elsewhere
    again = sent(named)
    bits = named.encode(PHOTO, 1)
    assert again.encode(PHOTO, 1) == bits
    assert again.engine.threads == 2
    assert again.detect(bits) == named.detect(bits)
    for copied in (copy.copy(model), copy.deepcopy(model)):
        assert copied.detect(bits) == model.detect(bits)


def test_a_model_from_a_folder_pickles_as_its_folder() -> None:
    tiny = cdvision.load(TINY)
    assert sent(tiny).card == tiny.card


def test_a_model_of_another_fingerprint_is_refused(model: cdvision.Model) -> None:
    loaded_again, (name, _, options) = model.__reduce__()
    with pytest.raises(cdvision.ModelError, match="expected fingerprint beef"):
        loaded_again(name, "beef", options)


def test_a_model_goes_to_a_spawned_worker(model: cdvision.Model) -> None:
    bits = model.encode(PHOTO, 1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(model.detect, (bits,)) == model.detect(bits)


@pytest.mark.parametrize(
    "error",
    [
        errors.BitstreamError("magic", offset=0, expected=b"CDV", found=b"bad"),
        errors.BitstreamError("quality"),
        errors.CdvisionError("plain"),
        errors.ImageError("no photo"),
        errors.ModelError("none"),
        errors.UnsupportedTask("fly"),
        errors.EngineError("stalled"),
        CodingError("range"),
        ResultError("shape"),
        OutputError("exists"),
    ],
)
def test_errors_keep_their_text_and_fields(error: errors.CdvisionError) -> None:
    for again in (sent(error), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
    assert str(sent(sent(error))) == str(error)


def test_an_error_of_the_service_keeps_its_status() -> None:
    pytest.importorskip("fastapi")
    from cdvision.serving.errors import ServiceError

    error = sent(ServiceError(503, "busy", {"Retry-After": "1"}))
    assert (str(error), error.status, error.headers) == ("busy", 503, {"Retry-After": "1"})


def test_a_result_with_an_error_pickles(model: cdvision.Model) -> None:
    (result,) = model.analyze([b"bad"])
    assert str(sent(result).error) == str(result.error)
    (answer,) = model.analyze([model.encode(np.zeros((64, 64, 3), np.uint8), 1)])
    assert sent(answer) == answer
