"""How learning rates rise and fall, how averages look back, and what one step of the loop does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from cdvision.models.dicm.training.rates import ramp  # noqa: E402
from cdvision.training.plan import Plan, Progress  # noqa: E402
from cdvision.training.stage import Stage  # noqa: E402
from cdvision.training.stage_run import MAX_NORM, run_stage  # noqa: E402
from cdvision.training.weight_average import WeightAverage  # noqa: E402

PLAN = Plan(minutes=60.0, steps=8, batch=2, device=torch.device("cpu"), warmup_steps=4)
FACTORS = {  # a line up to step 3, times 0.01 + 0.99 of half a cosine over the eight steps
    0: 0.25, 1: 0.5 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 8))),
    2: 0.75 * 0.8550178567, 3: 0.01 + 0.99 * 0.5 * (1 + math.cos(3 * math.pi / 8)),
    4: 0.505, 6: 0.1549821433, 8: 0.01,
}  # fmt: skip


@pytest.mark.parametrize(("step", "factor"), FACTORS.items())
def test_rates_rise_in_a_line_and_fall_as_half_a_cosine(step: int, factor: float) -> None:
    assert PLAN.rate_factor(Progress(step)) == pytest.approx(factor, rel=1e-9)


def test_a_run_is_as_long_as_its_steps_or_its_minutes() -> None:
    assert [PLAN.done(Progress(n, 1e9)) for n in (0, 2, 8, 9)] == [0, 0.25, 1, 1]
    timed = replace(PLAN, steps=None, minutes=2.0)
    assert [timed.done(Progress(99, s)) for s in (0, 30, 120, 121)] == [0, 0.25, 1, 1]
    assert replace(timed, minutes=0.0).done(Progress()) == 1
    late = Progress(1000, 60.0)  # warm-up counts steps, the fall goes by time
    assert timed.rate_factor(late) == pytest.approx(0.505)


@pytest.mark.parametrize(
    ("done", "weight"), [(0, 0), (0.05, 0), (0.1, 0.25), (0.15, 0.5), (0.25, 1), (1, 1)]
)
def test_the_rate_term_comes_in_between_a_twentieth_and_a_quarter(
    done: float, weight: float
) -> None:
    assert ramp(done) == pytest.approx(weight)


# --- averages


def scalar(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.register_buffer("seen", torch.tensor(value))
    nn.init.constant_(layer.weight, value)
    return layer


@pytest.mark.parametrize(
    ("memory", "means"),
    # 2/11, 3/12 and 4/13 of the mean are left while there are few steps; then the memory's share.
    [(0.998, (9 / 11, 1.7045454545, 2.6013986014)), (0.1, (0.9, 1.89, 2.889))],
)
def test_an_average_of_three_steps_by_hand(memory: float, means: tuple[float, ...]) -> None:
    average = WeightAverage(scalar(0.0), memory=memory)
    for value, mean in zip((1.0, 2.0, 3.0), means, strict=True):
        average.follow(scalar(value))
        assert float(average.network.weight) == pytest.approx(mean, rel=1e-6)
        assert float(average.network.get_buffer("seen")) == value
    assert int(average.taken) == 3
    average.restart(scalar(7.0))
    assert float(average.network.weight) == 7.0


def test_an_average_never_trains_and_leaves_what_is_frozen() -> None:
    average = WeightAverage(scalar(0.0))
    assert not average.network.weight.requires_grad
    average.follow(scalar(1.0).requires_grad_(False))
    assert float(average.network.weight) == 0.0


def test_an_average_forgets_by_half_in_its_half_life() -> None:
    average = WeightAverage(scalar(1.0), memory=0.5 ** (1 / 10))
    average.taken += 10_000  # long past the beginning
    for _ in range(10):
        average.follow(scalar(0.0))
    assert float(average.network.weight) == pytest.approx(0.5, rel=1e-6)


# --- the loop


class Slope(Stage):
    """Descends a line: the loss of a step is ``slope(step)`` times the weight."""

    name = "slope"

    def __init__(self, slope: Callable[[int], float], rate: float = 0.1) -> None:
        self.slope, self.layer, self.moves = slope, scalar(1.0), list[str]()
        self.optimizer = torch.optim.SGD(
            [{"params": self.layer.parameters(), "lr": rate}, {"params": [], "lr": 2 * rate}]
        )
        self.rates: list[list[float]] = []
        self.drawn: list[tuple[float, float]] = []
        self.step = 0

    def modules(self) -> dict[str, nn.Module]:
        return {"layer": self.layer}

    def result(self) -> nn.Module:
        return self.layer

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.moves.append("player")
        self.drawn.append((float(rng.random()), float(torch.rand(()))))
        loss = self.slope(self.step) * self.layer.weight.sum()
        self.step += 1
        return loss, {"number": torch.tensor(float(self.step))}

    def after_step(self) -> None:
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])


def test_every_step_takes_the_schedules_share_of_every_rate(tmp_path: Path) -> None:
    stage = Slope(lambda step: 1.0)
    run_stage(stage, tmp_path, PLAN)
    factors = [PLAN.rate_factor(Progress(step)) for step in range(8)]
    assert stage.rates == [pytest.approx([0.1 * f, 0.2 * f]) for f in factors]
    assert float(stage.layer.weight.detach()) == pytest.approx(1 - 0.1 * sum(factors), rel=1e-6)


def test_long_gradients_are_cut_and_broken_ones_skipped(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=3, warmup_steps=1)
    stage = Slope(lambda step: (1e6, math.nan, math.inf)[step], rate=1e-3)
    run_stage(stage, tmp_path, plan)
    assert float(stage.layer.weight.detach()) == pytest.approx(1 - 1e-3 * MAX_NORM, rel=1e-4)
    assert len(stage.rates) == 1  # nothing follows a step that was not taken
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 3


def test_steps_and_seeds_draw_numbers_of_their_own(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=4)
    first, again, other = (Slope(lambda step: 0.0) for _ in range(3))
    run_stage(first, tmp_path / "first", plan)
    run_stage(again, tmp_path / "again", plan)
    run_stage(other, tmp_path / "other", replace(plan, seed=1))
    assert first.drawn == again.drawn
    for column in (0, 1):
        numbers = [pair[column] for stage in (first, other) for pair in stage.drawn]
        assert len(set(numbers)) == 8


def test_the_opponent_moves_first_and_by_the_same_schedule(tmp_path: Path) -> None:
    class Duel(Slope):
        def opponent_loss(self, rng: np.random.Generator, done: float) -> Any:
            self.moves.append("opponent")
            return -2.0 * self.other.weight.sum(), {"heat": torch.tensor(5.0)}

    stage = Duel(lambda step: 1.0)
    stage.other = scalar(0.0)
    stage.opponent = torch.optim.SGD(stage.other.parameters(), 0.1)
    plan = replace(PLAN, steps=2)
    run_stage(stage, tmp_path, plan)
    assert stage.moves == ["opponent", "player"] * 2
    factors = [plan.rate_factor(Progress(step)) for step in range(2)]
    assert float(stage.other.weight.detach()) == pytest.approx(0.2 * sum(factors), rel=1e-6)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["heat"], line["opponent_norm"], line["norm"]) == (5.0, 2.0, 1.0)


def test_the_log_holds_the_means_of_twenty_steps(tmp_path: Path) -> None:
    run_stage(Slope(lambda step: 0.0), tmp_path, replace(PLAN, steps=45))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["number"]) for line in lines] == [(20, 10.5), (40, 30.5), (45, 43)]
