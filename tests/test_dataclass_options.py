"""Options from dataclasses: every kind of field, values refused, and every command's table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import click
import pytest
from click.testing import CliRunner

from cdvision.cli.command_line import command_line
from cdvision.cli.dataclass_options import dataclass_options
from cdvision.cli.training_options import RunOptions
from cdvision.errors import CdvisionError
from cdvision.fitting.options import FitOptions
from cdvision.models.any_network.training.options import EncoderOptions
from cdvision.models.dicm.training import options as dicm
from cdvision.models.faces.training import options as faces
from cdvision.models.small.training.options import MapOptions, MaskOptions, ReceiverOptions
from cdvision.training.checked_options import (
    CheckedOptions,
    Count,
    Ends,
    Range,
    Rate,
    option_fields,
)
from cdvision.training.plan import LengthOptions, PlanOptions


@dataclass(frozen=True)
class Kinds(CheckedOptions):
    """One field of each kind.

    It has two paragraphs.

    Attributes:
        needed: a file that has no
            default (one: two).
        count: how ``many``.
        share: of it.
        rate: above nothing.
        name: of it.
        flag: a flag.
        pair: a pair of flags.
        unset: None is the third state.
        choice: one of two words.
        finest: one of two numbers.
        ends: two numbers.
        files: any number of files.
        most: none by default.

    Raises:
        nothing: at all.
    """

    needed: Path
    count: Count = 3
    share: Annotated[float, Range(0, 1)] = 0.0
    rate: Rate = 1e-3
    name: str = "mine"
    flag: bool = False
    pair: bool = True
    unset: bool | None = None
    choice: Literal["one", "two"] = "one"
    finest: Literal[4, 8] = 4
    ends: Ends | None = None
    files: tuple[Path, ...] = ()
    most: Annotated[int, Range(2, 9)] | None = None

    kept: ClassVar[int] = 1


def call(part: Any, *arguments: Any) -> tuple[list[Any], Any]:
    """Call a command with the options of a dataclass; return what it got, and click's result."""
    seen: list[Any] = []

    @click.command()
    @dataclass_options(options=part)
    def command(options: CheckedOptions) -> None:
        seen.append(options)

    return seen, CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ((), {}),
        (("--count", 7), {"count": 7}),
        (("--share", 0.25), {"share": 0.25}),
        (("--rate", "2e-4"), {"rate": 2e-4}),
        (("--name", "yours"), {"name": "yours"}),
        (("--flag",), {"flag": True}),
        (("--no-pair",), {"pair": False}),
        (("--unset",), {"unset": True}),
        (("--no-unset",), {"unset": False}),
        (("--choice", "two"), {"choice": "two"}),
        (("--finest", 8), {"finest": 8}),
        (("--ends", 1, 2.5), {"ends": (1.0, 2.5)}),
        (("--files", __file__, "--files", "/"), {"files": (Path(__file__), Path("/"))}),
        (("--most", 9), {"most": 9}),
    ],
)
def test_a_field_of_each_kind_is_read(arguments: tuple[Any, ...], changed: dict[str, Any]) -> None:
    seen, _ = call(Kinds, "--needed", __file__, *arguments)
    assert seen == [Kinds(Path(__file__), **changed)]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"count": 0}, "--count: expected at least 1, found 0"),
        ({"share": 1.5}, "--share: expected at least 0 and at most 1, found 1.5"),
        ({"share": float("nan")}, "--share: expected at least 0 and at most 1, found nan"),
        ({"rate": 0.0}, "--rate: expected more than 0, found 0.0"),
        ({"choice": "three"}, "--choice: expected one of one, two, found three"),
        ({"finest": 6}, "--finest: expected one of 4, 8, found 6"),
        ({"ends": (2.0, 1.0)}, "--ends: expected more than 0, rising, found (2.0, 1.0)"),
        ({"ends": (2.0, 2.0)}, "--ends: expected more than 0, rising, found (2.0, 2.0)"),
        ({"ends": (0.0, 1.0)}, "--ends: expected more than 0, rising, found (0.0, 1.0)"),
        ({"most": 10}, "--most: expected at least 2 and at most 9, found 10"),
    ],
)
def test_values_out_of_range_are_refused(changed: dict[str, Any], line: str) -> None:
    """In the call that makes the dataclass, and on the command line with exit status 2."""
    with pytest.raises(CdvisionError) as refused:
        Kinds(Path(__file__), **changed)
    assert str(refused.value) == line
    ((name, value),) = changed.items()
    values = value if isinstance(value, tuple) else (value,)
    if value == value:  # click takes NaN for a number; the dataclass does not
        seen, result = call(Kinds, "--needed", __file__, f"--{name}", *values)
        assert (seen, result.exit_code) == ([], 2)
        assert f"--{name}" in result.output


def test_paths_must_exist_and_needed_options_be_there(tmp_path: Path) -> None:
    _, result = call(Kinds, "--needed", tmp_path / "none")
    assert "does not exist" in result.output
    _, result = call(Kinds)
    assert "Missing option '--needed'" in result.output


def test_help_comes_from_the_attributes_of_the_class() -> None:
    _, result = call(Kinds, "--help")
    shown = " ".join(result.output.split())
    assert "--needed PATH A file that has no default (one: two). [required]" in shown
    assert "--count INTEGER RANGE How `many`. [default: 3; x>=1]" in shown
    assert "--share FLOAT RANGE Of it. [default: 0.0; 0<=x<=1]" in shown
    assert "--flag A flag. --pair / --no-pair A pair of flags. [default: pair]" in shown
    assert "--finest [4|8] One of two numbers. [default: 4]" in shown
    assert "at all" not in shown


def test_defaults_of_a_command_and_a_field_that_two_dataclasses_share() -> None:
    @dataclass(frozen=True)
    class Seeded(CheckedOptions):
        """Another dataclass with a seed."""

        seed: int = 0

    seen: list[Any] = []

    @click.command()
    @dataclass_options(plan=LengthOptions(minutes=2.0, batch=4), other=Seeded)
    def command(**options: Any) -> None:
        seen.append(options)

    names = [parameter.name for parameter in command.params]
    assert names == ["minutes", "steps", "batch", "device", "seed"]
    CliRunner().invoke(command, ["--seed", "7", "--batch", "6"], catch_exceptions=False)
    plan = LengthOptions(minutes=2.0, batch=6, seed=7)
    assert seen == [{"plan": plan, "other": Seeded(seed=7)}]


def test_what_no_option_can_be() -> None:
    @dataclass(frozen=True)
    class Wrong(CheckedOptions):
        """Nothing that a command line can say."""

        table: dict[str, int]

    with pytest.raises(TypeError, match="table: no option can be dict"):
        option_fields(Wrong)


# --- every command of training and fitting

COMMANDS: dict[str, tuple[Any, ...]] = {
    "fit": (FitOptions,),
    "train encoder": (RunOptions(minutes=60.0), EncoderOptions),
    "train small": (RunOptions(minutes=150.0), MapOptions),
    "train receiver": (RunOptions(minutes=10.0), ReceiverOptions),
    "train masks": (MaskOptions(minutes=35.0),),
    "train dicm contrastive": (
        RunOptions(minutes=600.0, batch=256),
        dicm.StartOptions,
        dicm.CropOptions,
        dicm.ContrastiveOptions,
    ),
    "train dicm full": (
        RunOptions(minutes=90.0, batch=8),
        dicm.StartOptions,
        dicm.SenderData,
        dicm.SenderOptions(bpp=(0.03, 0.4)),
    ),
    "train dicm light": (
        RunOptions(minutes=90.0, batch=8),
        dicm.StartOptions,
        dicm.SenderData,
        dicm.SenderOptions,
    ),
    "train dicm redundancy": (
        RunOptions(minutes=30.0, batch=64),
        dicm.StartOptions,
        dicm.CropOptions,
        dicm.RedundancyOptions,
    ),
    "train dicm joint": (
        RunOptions(minutes=240.0, batch=256),
        dicm.StartOptions,
        dicm.CropOptions,
        dicm.JointOptions,
    ),
    "train dicm codec": (
        RunOptions(minutes=120.0, batch=32),
        dicm.StartOptions,
        dicm.CodecCropOptions,
        dicm.CodecOptions,
    ),
    "train dicm heads": (
        RunOptions(minutes=60.0, batch=16),
        dicm.StartOptions,
        dicm.HeadsData,
        dicm.DetectorShape,
        dicm.HeadsOptions,
    ),
    "train faces generator": (
        RunOptions(minutes=20.0, batch=64),
        faces.FaceSource,
        faces.NetworkOptions,
        faces.GeneratorOptions,
    ),
    "train faces trunk": (
        RunOptions(minutes=15.0, batch=32),
        faces.FaceSource,
        faces.NetworkOptions,
        faces.TrunkOptions,
    ),
    "train faces inversion": (
        RunOptions(minutes=30.0, batch=32),
        faces.FaceSource,
        faces.NetworkOptions,
        faces.PerceptualOptions,
        faces.InversionOptions,
    ),
    "train faces rows": (
        RunOptions(minutes=20.0, batch=8),
        faces.FaceSource,
        faces.PerceptualOptions,
        faces.RowsOptions,
    ),
    "train faces score": (RunOptions(minutes=0.0, batch=32), faces.FaceSource),
    "train faces hsc": (RunOptions(minutes=15.0, batch=32), faces.FaceSource, faces.HscOptions),
    "train faces style-layers": (
        RunOptions(minutes=15.0, batch=64),
        faces.FaceSource,
        faces.StyleLayersOptions,
    ),
}
BY_HAND = {
    "fit": "model network split weights images split_table out name fp32 mean std range order "
    "as_json",
    "train encoder": "sources serve out start weights mean std range order split_table as_json",
    "train small": "photos initial_weights out split_table start",
    "train receiver": "finished photos initial_weights split_table out",
    "train masks": "start photos boxes out",
    "train dicm": "photos out",
    "train dicm heads": "out",
    "train faces": "faces out",
    "train faces score": "faces out photos split_table",
    "train faces hsc": "faces out initial_weights",
    "train faces style-layers": "faces out initial_weights",
}


def command_at(path: str) -> click.Command:
    found: click.Command = command_line
    for name in path.split():
        assert isinstance(found, click.Group)
        child = found.get_command(click.Context(found), name)
        assert child is not None
        found = child
    return found


@pytest.mark.parametrize("path", COMMANDS)
def test_options_and_defaults_of_a_command_are_those_of_its_dataclasses(path: str) -> None:
    wanted: dict[str, Any] = {}
    for part in COMMANDS[path]:
        for field in fields(part):
            own = isinstance(part, type)
            wanted[field.name] = field.default if own else getattr(part, field.name)
    command = command_at(path)
    by_hand = BY_HAND.get(path) or BY_HAND[path.rpartition(" ")[0]]
    assert {p.name for p in command.params} == {*wanted, *by_hand.split()}
    context = click.Context(command)
    defaults = {p.name: p.get_default(context) for p in command.params if p.name in wanted}
    as_text = {name: str(value) if name == "finest" else value for name, value in wanted.items()}
    assert {
        name: None if str(v) == "Sentinel.UNSET" else v for name, v in defaults.items()
    } == as_text


def test_every_training_command_stands_in_the_table() -> None:
    """Those that are left make no plan: they build, average, convert or compute."""
    found = set()
    for group in ("train", "train dicm", "train faces"):
        parent = command_at(group)
        assert isinstance(parent, click.Group)
        found |= {f"{group} {name}" for name in parent.list_commands(click.Context(parent))}
    others = {
        *("train dicm", "train faces", "train package", "train dicm package"),
        *("train faces package", "train average", "train descriptor", "train add-masks"),
        *("train convert-zoo", "train sequence"),
    }
    assert found - others == set(COMMANDS) - {"fit"}


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train dicm redundancy . -o o --side 100", "--side: expected a multiple of 32, found 100"),
        ("train dicm codec . -o o --side 96", "--side: expected a multiple of 64, found 96"),
        ("train dicm joint . -o o --bpp 0.4 0.02", "--bpp: expected more than 0, rising"),
        ("train dicm joint . -o o --learning-rate 0", "'--learning-rate': 0.0 is not in the range"),
        ("train dicm heads -o o", "heads: expected --boxes JSON or --classes CSV, found neither"),
        ("train faces inversion . -o o --freeze-encoder", "without --tune-generator"),
        ("train faces inversion . -o o --drawn 0.95", "'--drawn': 0.95 is not in the range"),
        ("train faces hsc . -o o --base-bytes 20 90 --all-bytes 10 200", "bytes: expected 0 < LOW"),
        ("train faces hsc . -o o --widths thin", "'--widths': 'thin' is not one of"),
        (
            "train encoder . -o o --serve a@b --bytes 900 300",
            "--bytes: expected at least 32, rising",
        ),
        ("fit --network a --images . -o o --width 4", "'--width': 4 is not in the range"),
        ("train small . --initial-weights . --device moon", "--device: 'moon' cannot be used"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(command: str, line: str) -> None:
    result = CliRunner().invoke(command_line, command.split())
    assert result.exit_code == 2
    (told,) = result.stderr.splitlines()
    assert line in told


@pytest.mark.parametrize("command", ["train", "train faces", "train dicm redundancy", "fit"])
def test_help_needs_no_torch(command: str) -> None:
    program = (
        "import sys; from cdvision.cli.command_line import main\n"
        f"sys.argv[1:] = {[*command.split(), '--help']!r}\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Options:" in done.stdout


# --- what the dataclasses compute


def test_plans_of_options() -> None:
    plan = RunOptions(minutes=3.0, steps=9, batch=5, device="cpu", seed=4).plan()
    assert (plan.minutes, plan.steps, plan.batch, plan.seed) == (3.0, 9, 5, 4)
    assert (plan.device.type, plan.bf16) == ("cpu", False)
    assert PlanOptions(device="cpu", bf16=True).plan().bf16
    smoke = RunOptions(device="cpu", batch=64, smoke=True).plan()
    assert (smoke.steps, smoke.batch) == (2, 2)
    assert FitOptions(device="cpu", bf16=False).plan().save_minutes == 2.0
    with pytest.raises(CdvisionError, match="--device: 'moon' cannot be used"):
        PlanOptions(device="moon").plan()


def test_numbers_that_options_compute() -> None:
    rates = faces.InversionOptions(tune_generator=True, freeze_encoder=True).rates
    assert rates == {"trunk": 0.0, "heads": 0.0, "generator": 2e-3}
    rates = faces.InversionOptions(freeze_trunk=True).rates
    assert rates == {"trunk": 0.0, "heads": 1e-3, "generator": 0.0}
    assert faces.InversionOptions().rates == {"trunk": 5e-5, "heads": 1e-3, "generator": 0.0}
    assert dicm.JointOptions().rate == 1e-3
    assert dicm.JointOptions(distil=True).rate == 1e-4
    assert dicm.JointOptions(distil=True, learning_rate=3e-3).rate == 3e-3
    targets = dicm.CodecOptions(bpp=(0.02, 2.56)).targets
    assert targets == pytest.approx([0.02 * 2**quality for quality in range(8)])
    assert dicm.CodecOptions().targets is None
    assert EncoderOptions(bytes=(40.0, 5120.0)).targets == pytest.approx(
        [40.0 * 2**quality for quality in range(8)]
    )
    assert EncoderOptions().targets[::7] == (280.0, 6600.0)
