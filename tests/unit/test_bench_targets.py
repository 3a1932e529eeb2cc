"""The benchmark's arithmetic: ratios of medians, what meets a target, and what was not measured."""

from typing import Any

import pytest

from tests.bench import contestants as who
from tests.bench import works
from tests.bench.noise import spread, verdict
from tests.bench.reasons import REASONS
from tests.bench.targets import ONE, TARGETS, TWO, Run, Target, outcomes
from tests.bench.turns import Figures, as_json, from_json


def took(*microseconds: float) -> dict[str, list[float]]:
    """Figures as they are kept, of rounds that took so long."""
    times = [each * 1000 for each in microseconds]
    return {"times": times, "replies": [1.0] * len(times), "cores": times}


def run(part: str, **works_: dict[str, dict[str, list[float]]]) -> Run:
    """Results with one part on one core; `_` in a work's name is a blank."""
    return Run({ONE: {part: {words.replace("_", " "): row for words, row in works_.items()}}})


def one(target: Target, kept: Run) -> Any:
    (found,) = outcomes(kept, [target])
    return found


def named(words: str) -> Target:
    (found,) = [each for each in TARGETS if each.words == words]
    return found


def test_a_ratio_is_of_medians_so_that_one_wild_round_does_not_count() -> None:
    kept = run("small", getattr={"a": took(10, 11, 900), "b": took(20, 22, 24)})
    assert kept.ratio(ONE, "small", "getattr", "b", "a") == 2.0


def test_the_least_of_several_ratios_says_whose_it_is() -> None:
    rows = {
        works.GETATTR: {who.PYFUSE3: took(40), who.LIBPERFUSE: took(8)},
        works.READ_MIB: {who.PYFUSE3: took(220), who.LIBPERFUSE: took(200)},
    }
    found = one(named("pyfuse3 ÷ libperfuse, the least"), Run({ONE: {"small": rows}, TWO: {"small": rows}}))
    assert found.values[ONE] == (pytest.approx(1.1), works.READ_MIB)
    assert found.met == "no"


def test_throughput_is_compared_as_speed_and_not_as_time() -> None:
    rows = {
        works.GETATTR_8: {who.RELAY: took(10), who.SOCKET: took(20)},
        works.READ_8: {who.RELAY: took(10), who.SOCKET: took(10)},
    }
    found = one(named("socket ÷ C relay, throughput of 8 clients, the least"), Run({TWO: {"small": rows}}))
    assert found.values[TWO] == (0.5, works.GETATTR_8)


def test_a_mean_of_ratios_is_geometric() -> None:
    rows = {
        works.GETATTR: {who.DIRECT: took(2), who.C: took(1)},
        works.READ: {who.DIRECT: took(1), who.C: took(2)},
    }
    found = one(named("direct ÷ C, mean of all operations"), Run({ONE: {"small": rows}, TWO: {"small": rows}}))
    assert found.values[ONE] == (pytest.approx(1.0), "")
    assert found.met == "yes"


def test_the_busy_mount_is_compared_with_itself_alone() -> None:
    rows = {works.GETATTR: {who.SOCKET: took(21)}, f"{works.GETATTR}, alone": {who.SOCKET: took(20)}}
    found = one(named("busy mount beside 499 idle ones ÷ alone, getattr"), Run({"many": {"busy": rows}}))
    assert found.values == {ONE: (pytest.approx(1.05), "")}
    assert found.met == "no"


def test_a_figure_of_many_mounts_is_their_median() -> None:
    found = one(named("perfuse_open() to verdict beside 480 mounts"), Run({"many": {"last": [10.0, 12.0, 90.0]}}))
    assert found.values == {ONE: (12.0, "")}


@pytest.mark.parametrize(("value", "met"), [(0.96, False), (0.97, True), (1.0, True), (1.03, True), (1.04, False)])
def test_a_target_with_two_limits_is_met_between_them(value: float, met: bool) -> None:
    assert Target("", lambda run, cores: (value, ""), least=0.97, most=1.03).met(value) is met


def test_what_is_judged_is_what_is_shown() -> None:
    assert Target("", lambda run, cores: (0, ""), most=1.15).met(1.1549)


def test_a_target_missed_on_one_of_two_is_missed() -> None:
    values = {ONE: 1.0, TWO: 3.0}
    found = one(Target("", lambda run, cores: (values[cores], ""), most=2), Run({}))
    assert found.met == "no"


def test_a_contestant_that_was_not_measured_leaves_its_target_open() -> None:
    found = one(named("libperfuse ÷ C, getattr"), run("small", getattr={who.C: took(4)}))
    assert found.values == {ONE: None, TWO: None}
    assert found.met == "not measured"


def test_a_target_measured_on_one_of_two_and_met_there_is_not_called_met() -> None:
    kept = run("small", getattr={who.C: took(4), who.LIBPERFUSE: took(4)})
    assert one(named("libperfuse ÷ C, getattr"), kept).met == "not measured"


def test_a_ratio_without_a_limit_is_neither_met_nor_missed() -> None:
    rows = {"small": {works.GETATTR: {who.C: took(4), who.SOCKET: took(12)}}}
    assert one(named("socket ÷ C, getattr"), Run({ONE: rows, TWO: rows})).met == ""


def test_no_target_fails_for_want_of_any_figure() -> None:
    assert {each.met for each in outcomes(Run({}))} <= {"not measured", ""}


def test_targets_have_names_of_their_own() -> None:
    words = [each.words for each in TARGETS]
    assert len(words) == len(set(words))


def test_every_reason_belongs_to_a_target() -> None:
    assert set(REASONS) <= {each.words for each in TARGETS}


def test_figures_survive_being_kept() -> None:
    found = {"getattr": {"C": Figures([4000.0, 4100.0], [1.0, 1.01], [1000.0, 900.25])}}
    assert from_json(as_json(found)) == found


def test_the_spread_leaves_wild_rounds_out() -> None:
    assert Figures([10, 10, 10, 10, 1000], [1] * 5, [1] * 5).spread == 0


def test_a_machine_where_nothing_else_ran_is_quiet() -> None:
    assert verdict(0.1, [5.0, 5.1, 5.05], 0.0).startswith("The machine was quiet")


@pytest.mark.parametrize(
    ("load", "loop", "stolen", "word"),
    [(2.0, [5.0, 5.0], 0.0, "ran before"), (0.1, [5.0, 7.0], 0.0, "loop"), (0.1, [5.0, 5.0], 0.1, "took cores away")],
)
def test_a_noisy_machine_is_called_so_with_the_reason(load: float, loop: list[float], stolen: float, word: str) -> None:
    said = verdict(load, loop, stolen)
    assert said.startswith("**The machine was noisy**")
    assert word in said


def test_one_slow_look_among_many_is_no_noise() -> None:
    assert spread([5.0] * 20 + [9.0]) == 0
