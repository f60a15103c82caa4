"""The one table of tasks: how each is asked, and how its answer is told.

``Stream.ask``, ``analyze``, pipelines, the command line, the service, ``eval`` and export read it.
A package of a third party adds tasks by the entry point ``cdvision.tasks``, whose name is the
task's and whose value is "module:TASK"; a program adds one with ``register_task``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from cdvision.errors import CdvisionError, UnsupportedTask
from cdvision.numbers import check_number


@dataclass(frozen=True)
class TaskOption:
    """One option of a question."""

    name: str  # of the argument; the command line writes ``_`` as ``-``
    default: float | int | bool  # its value where it is left out; its type is the option's
    help: str  # one line
    low: float | None = None  # least value
    high: float | None = None  # greatest value; None for no limit
    batched: bool = True  # whether ``analyze``, the command line and the service take it too
    aliases: tuple[str, ...] = ()  # other names of it on the command line

    def check(self, value: Any) -> None:
        """Refuse a value of another kind or out of range; raises CdvisionError."""
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise CdvisionError(f"{self.name}: expected True or False, found {value!r}")
        else:
            whole = isinstance(self.default, int)
            check_number(self.name, value, self.low, self.high, whole=whole)


@dataclass(frozen=True)
class Column:
    """Where a task's answers stand in a table of results: a list of structs.

    Lines of CSV call one entry by its ``kind``. Each of the ``fields`` has a type: ``float``,
    ``int``, ``string`` or ``boolean``.
    """

    name: str
    kind: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    name: str  # of the task, of its command, and of its path in the service
    summary: str  # one line, as a command tells it
    # "module:Class" of its answers, which offer ``to_dict``, ``to_rows``, ``__len__`` and
    # ``__str__``.
    result: str
    # Name under which an analysis keeps the answer; tasks that share one answer the same question,
    # the first of them the more fully.
    answer: str
    options: tuple[TaskOption, ...] = ()  # what a question may say
    column: Column | None = None  # of tables of results; None where answers do not go into tables
    drawable: bool = False  # whether an answer can be drawn on a photo
    # Options under which every graph of the task is run, for recording its inputs.
    thorough: Mapping[str, Any] = field(default_factory=dict)
    # Options under which `cdvision eval` asks.
    measured: Mapping[str, Any] = field(default_factory=dict)
    # For each kind of labels that `cdvision eval` takes, "module:name" of the scoring; one of the
    # kind ``table`` is given the rows of a csv.
    scoring: Mapping[str, str] = field(default_factory=dict)
    # An answer as JSON, for the service's contract.
    example: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_tables(self) -> bool:
        """Whether an analysis answers it: a picture is no entry of a table."""
        return self.column is not None

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options with defaults filled in; raises CdvisionError for any other."""
        known = {option.name: option for option in self.options}
        for name, value in options.items():
            if name not in known:
                expected = ", ".join(known) or "none"
                raise CdvisionError(f"{self.name}: expected options {expected}, found {name!r}")
            known[name].check(value)
        return {name: options.get(name, option.default) for name, option in known.items()}

    def taken_from(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of some options that this task takes."""
        names = {option.name for option in self.options}
        return {name: value for name, value in options.items() if name in names}


CONFIDENCE = TaskOption("confidence", 0.3, "Least confidence of a box.", 0, 1)
BOX_OPTIONS = (
    CONFIDENCE,
    TaskOption("iou", 0.6, "Overlap from which a weaker box is dropped.", 0, 1, batched=False),
    TaskOption("max_detections", 100, "At most so many boxes.", 1, batched=False),
    TaskOption("class_agnostic", False, "Drop what overlaps a better box of any class."),
)
ALL_ATTRIBUTES = TaskOption(
    "all_attributes", False, "All attributes, not only plain ones.", aliases=("all",)
)
BOXES = Column(
    "boxes",
    "box",
    {
        **dict.fromkeys(("left", "top", "right", "bottom", "confidence"), "float"),
        "class_id": "int",
        "class_name": "string",
        "mask": "string",
    },
)
CLASSES = Column(
    "classes", "class", {"class_id": "int", "class_name": "string", "probability": "float"}
)
ATTRIBUTES = Column(
    "attributes", "attribute", {"name": "string", "probability": "float", "present": "boolean"}
)
# A detector's precision-recall curve needs its weak boxes too; NanoDet's own evaluation uses 0.05.
WEAK_BOXES = {"confidence": 0.05}
_CORNERS = [14.2, 20.5, 310.0, 402.7]
_BOX = {"xyxy": _CORNERS, "confidence": 0.91, "class_id": 15, "class_name": "cat"}
_TOP = {"class_id": 285, "class_name": "Egyptian cat", "probability": 0.75}
_MASK = {"size": [300, 451], "counts": "Xg51k800001O0"}
_SCORES = "cdvision.evaluation"

# The tasks by name; of those that share an answer, the fullest stands first.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "segment",
            "Outline what is in a picture, from its stream.",
            "cdvision.results:Detections",
            "detections",
            BOX_OPTIONS,
            BOXES,
            drawable=True,
            thorough={"confidence": 0.0},
            measured=WEAK_BOXES,
            scoring={"coco-masks": f"{_SCORES}.coco_ap:CocoScoring"},
            example={"image_size": [451, 300], "detections": [{**_BOX, "mask": _MASK}]},
        ),
        Task(
            "detect",
            "Say what is where in a picture, from its stream.",
            "cdvision.results:Detections",
            "detections",
            BOX_OPTIONS,
            BOXES,
            drawable=True,
            thorough={"confidence": 0.0},
            measured=WEAK_BOXES,
            scoring={
                "coco": f"{_SCORES}.coco_ap:CocoScoring",
                "voc": f"{_SCORES}.voc_ap:VocScoring",
            },
            example={"image_size": [451, 300], "detections": [_BOX]},
        ),
        Task(
            "classify",
            "Say what is in a picture, from its stream.",
            "cdvision.results:Classification",
            "classification",
            (TaskOption("top", 5, "How many classes.", 1),),
            CLASSES,
            measured={"top": 5},
            scoring=dict.fromkeys(("classes", "folder"), f"{_SCORES}.accuracy:TopScoring"),
            example={"classes": [_TOP]},
        ),
        Task(
            "attributes",
            "Tell the attributes of a face, from its stream.",
            "cdvision.results:Attributes",
            "attributes",
            (ALL_ATTRIBUTES,),
            ATTRIBUTES,
            measured={"all_attributes": True},
            scoring={"attributes": f"{_SCORES}.attribute_scoring:AttributeScoring"},
            example={"attributes": [{"name": "Smiling", "probability": 0.97, "present": True}]},
        ),
        Task("reconstruct", "Rebuild pictures, where a model can.", "numpy:ndarray", "picture"),
    )
}


def register_task(task: Task) -> None:
    """Add a task to the table; raises CdvisionError where the name is another's."""
    if TASKS.get(task.name, task) != task:
        raise CdvisionError(f"task {task.name!r}: there is one of that name already")
    TASKS[task.name] = task


def find_task(name: str) -> Task:
    """Return a task of the table; raises UnsupportedTask that lists what there is."""
    table = tasks()
    if name not in table:
        raise UnsupportedTask(f"no task {name!r}: expected one of {', '.join(table)}")
    return table[name]


def tasks() -> dict[str, Task]:
    """Return all tasks by name, those of installed third parties among them."""
    _register_installed()
    return TASKS


def task_of_labels(kind: str) -> Task:
    """Return the task that labels of a kind are for, such as ``"coco"``."""
    return next(task for task in tasks().values() if kind in task.scoring)


def answered_by(names: Iterable[str]) -> list[Task]:
    """Return one task for each answer that some tasks ask for: the fullest."""
    wanted = set(names)
    found: dict[str, Task] = {}
    for task in tasks().values():
        if task.name in wanted:
            found.setdefault(task.answer, task)
    return list(found.values())


@cache
def _register_installed() -> None:
    for entry in entry_points(group="cdvision.tasks"):
        register_task(entry.load())
