"""Built TensorRT engines on disk, each with what it was built for and how close it came.

A plan runs on the TensorRT version and the compute capability that built it, and nowhere else:
a JSON file beside it tells what it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdvision.errors import EngineError
from cdvision.package.card import ModelCard

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
FOLDER_VARIABLE = "CDVISION_ENGINES"
SUFFIX = ".plan"


def default_folder() -> Path:
    """Folder that the engine reads: ``$CDVISION_ENGINES``, or one in the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "cdvision" / "engines"


def model_sha256(card: ModelCard) -> str:
    """Hash over the names and hashes of all files of a package: another model, another hash."""
    lines = [f"{name} {digest}" for name, digest in sorted(card.files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class PlanKey:
    """What a plan was built for: model, precision, machine, and the range of every input's shape.

    The model's hash decides; its name is for people.
    """

    model: str
    model_sha256: str
    graph: str
    precision: str
    tensorrt: str
    compute_capability: str
    profile: Profile

    @property
    def digest(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def file(self) -> str:
        """Name of the plan's file."""
        where = f"trt{self.tensorrt}-sm{self.compute_capability.replace('.', '')}"
        return f"{self.model}-{self.graph}-{self.precision}-{where}-{self.digest[:12]}{SUFFIX}"


def covers(profile: Profile, shapes: Mapping[str, Shape]) -> bool:
    """Whether inputs of these shapes lie within a profile.

    >>> covers({"x": ((1, 3), (2, 3), (4, 3))}, {"x": (4, 3)})
    True
    >>> covers({"x": ((1, 3), (2, 3), (4, 3))}, {"x": (5, 3)})
    False
    """
    if profile.keys() != shapes.keys():
        return False
    ranges = [(profile[name][0], shape, profile[name][2]) for name, shape in shapes.items()]
    return all(len(least) == len(shape) for least, shape, _ in ranges) and all(
        low <= size <= high for triple in ranges for low, size, high in zip(*triple, strict=True)
    )


class PlanCache:
    """The plans of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self, key: PlanKey, plan: bytes, notes: Mapping[str, Any]) -> Path:
        """Write a plan and its record with notes, JSON values such as the parity."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / key.file
        record = {
            "key": asdict(key),
            "sha256": hashlib.sha256(plan).hexdigest(),
            # The order of building: the times of files say less once a folder was copied.
            "number": 1 + max((number for number, _ in self._numbered()), default=0),
            **notes,
        }
        path.write_bytes(plan)
        _record_path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return path

    def read(self, key: PlanKey) -> bytes:
        """Return a plan's bytes; raises EngineError where they are missing or damaged."""
        path = self.folder / key.file
        try:
            plan = path.read_bytes()
            expected = json.loads(_record_path(path).read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError) as error:
            raise EngineError(f"{path}: not an engine with its record ({error})") from error
        if hashlib.sha256(plan).hexdigest() != expected:
            raise EngineError(f"{path} is damaged: its SHA-256 is not the record's; build it again")
        return plan

    def plans(self, graph: str) -> list[PlanKey]:
        """Keys of every plan of a graph, the one stored last first."""
        newest_first = sorted(self._numbered(), key=lambda entry: -entry[0])
        return [key for _, key in newest_first if key.graph == graph]

    def _numbered(self) -> list[tuple[int, PlanKey]]:
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}.json")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                # JSON knows no tuples, and a key of lists could not be hashed or compared.
                profile = {
                    name: tuple(tuple(shape) for shape in triple)
                    for name, triple in record["key"]["profile"].items()
                }
                key = PlanKey(**{**record["key"], "profile": profile})
                found.append((int(record["number"]), key))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EngineError(f"{path}: not the record of an engine ({error})") from error
        return found


def _record_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def usable_plan(
    keys: list[PlanKey], wanted: Mapping[str, str], shapes: Mapping[str, Shape], *, build: str
) -> PlanKey:
    """Choose the first plan that fits.

    Args:
        keys: of one graph, the newest first.
        wanted: ``model_sha256``, ``tensorrt`` and ``compute_capability`` of this machine.
        shapes: of the inputs.
        build: the command that would build a plan.

    Raises:
        EngineError: none fits; says what was built elsewhere, or for which shapes.
    """
    here = [k for k in keys if all(getattr(k, name) == value for name, value in wanted.items())]
    for key in here:
        if covers(key.profile, shapes):
            return key
    if here:
        ranges = {name: (low, high) for name, (low, _, high) in here[0].profile.items()}
        raise EngineError(
            f"no engine takes inputs of shapes {dict(shapes)}: the newest was built for {ranges}; "
            f"build one with other sizes or batches: {build} --sizes ... --batches ..."
        )
    raise EngineError(f"{_elsewhere(keys, wanted)}; build it on this machine: {build}")


def _elsewhere(keys: list[PlanKey], wanted: Mapping[str, str]) -> str:
    need = f"TensorRT {wanted['tensorrt']}, compute capability {wanted['compute_capability']}"
    if not keys:
        return f"no engine for this graph ({need})"
    others = [key for key in keys if key.model_sha256 == wanted["model_sha256"]]
    if not others:
        return "the engines here were built from another version of the model"
    built = {f"TensorRT {k.tensorrt}, compute capability {k.compute_capability}" for k in others}
    return f"the engine was built elsewhere ({'; '.join(sorted(built))}), here is {need}"
