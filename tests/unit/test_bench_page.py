"""docs/performance.md: what stands in it for given results, and that nothing written by hand is lost."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import contestants as who
from tests.bench import page, source_tree, works
from tests.bench.reasons import REASONS
from tests.bench.targets import ONE, TWO, Outcome, Run, Target
from tests.bench.turns import Figures


def figures(*microseconds: float, replies: float = 1.0) -> Figures:
    times = [each * 1000 for each in microseconds]
    return Figures(times, [replies] * len(times), [each / 2 for each in times])


def kept(**more: Any) -> dict[str, Any]:
    """Results of a run in which nothing was measured."""
    return {
        "machine": {"date": "2026-01-02", "linux": "6.18", "model": "A", "cores": 2, "memory": 8.0, "python": "3.11"},
        "rounds": 3, "seconds": 60, "versions": {"pyfuse3": "3.5"}, "missing": {},
        "noise": {"load": 0.0, "loop": [5.0, 5.0], "stolen": 0.0},
        **more,
    }  # fmt: skip


def outcome(value: float, words: str = "a ÷ b") -> Outcome:
    return Outcome(Target(words, lambda run, cores: (value, ""), most=1.3), {ONE: (value, ""), TWO: None})


def test_a_cell_has_microseconds_and_in_brackets_the_ratio_to_the_base() -> None:
    rows = page.figures({"getattr": {"C": figures(4), "x": figures(10)}}, ["getattr"], ["C", "x"], "C")
    assert rows[-1] == "| getattr | 4.0 | 10.0 (2.50) | 0% |"


def test_a_contestant_without_figures_at_a_work_has_a_dash() -> None:
    found = {"getattr": {"C": figures(4), "x": figures(4)}, "open": {"C": figures(4)}}
    assert page.figures(found, ["open"], ["C", "x"], "C")[-1] == "| open | 4.0 | - | 0% |"


def test_a_contestant_without_any_figure_has_no_column() -> None:
    assert page.figures({"getattr": {"C": figures(4)}}, ["getattr"], ["C", "x"], "C")[0] == "| work | C | spread |"


def test_who_was_asked_more_often_says_how_often() -> None:
    found = {"1 MiB read": {"C": figures(100), "x": figures(400, replies=8)}}
    assert "400.0 (4.00), 8.0 requests" in page.figures(found, ["1 MiB read"], ["C", "x"], "C", requests=True)[-1]


def test_parallel_clients_are_shown_as_thousands_of_operations_a_second() -> None:
    rows = page.parallel({works.GETATTR_8: {"C": figures(10), "x": figures(20)}}, ["C", "x"], "C")
    assert rows[-2:] == ["| C | 100.0 |", "| x | 50.0 (0.50) |"]


def test_a_missed_target_without_a_reason_says_that_there_is_none() -> None:
    assert page.target_rows([outcome(1.5)])[-1] == (
        "| a ÷ b | at most 1.3 | 1.50 | not measured | no | no reason is known yet |"
    )


def test_a_missed_target_shows_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REASONS, "a ÷ b", "because")
    assert page.target_rows([outcome(1.5)])[-1].endswith("| no | because |")


def test_a_target_that_is_not_missed_shows_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REASONS, "a ÷ b", "because")
    assert "because" not in page.target_rows([outcome(1.0)])[-1]


def test_compiling_is_in_seconds_and_compared_with_passthrough_ll() -> None:
    row = {who.PASSTHROUGH_LL: figures(2e6), who.LOOPBACK: figures(3e6)}
    found = Run({ONE: {"compile": {works.COMPILE: {name: each._asdict() for name, each in row.items()}}}})
    assert "| loopback | 3.00 (1.50) | 1.50 | - | - | - |" in page.compiled(found)


def test_the_page_keeps_what_was_written_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "profile.md").write_text("Half of it is the wake-up.\n")
    monkeypatch.setattr(page, "PROFILE", tmp_path / "profile.md")
    text = page.page(Run(kept()))
    assert "## Where each microsecond goes\n\nHalf of it is the wake-up.\n" in text


def test_the_page_begins_with_the_machine_and_whether_it_was_quiet() -> None:
    text = page.page(Run(kept()))
    assert text.index("Linux 6.18") < text.index("The machine was quiet") < text.index("## Targets")


def test_the_page_names_what_was_not_measured_and_why() -> None:
    assert "- mfusepy: no compiler" in page.page(Run(kept(missing={"mfusepy": "no compiler"})))


def test_the_page_links_the_plot() -> None:
    assert "](performance.svg)" in page.page(Run(kept()))


def test_a_plot_that_could_not_be_drawn_is_not_linked_but_explained() -> None:
    text = page.page(Run(kept(plot="no matplotlib")))
    assert "performance.svg" not in text
    assert "no matplotlib" in text


def test_the_page_is_shown_of_the_results_that_are_kept() -> None:
    """The page in docs/ is this module's, of the results beside it: nobody has edited one of them alone."""
    if not page.RESULTS.exists():
        pytest.skip("no results are kept")
    assert page.page(Run(json.loads(page.RESULTS.read_text()))) == page.PAGE.read_text()


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    row = {name: figures(4)._asdict() for name in (who.C, who.RELAY, who.SOCKET, who.PYFUSE3)}
    part = {"small": {works.GETATTR: row, works.GETATTR_8: row}}
    lines = page.page(Run(kept(**{ONE: part, TWO: part}))).splitlines()
    for above, line in itertools.pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|"), line


def test_the_source_tree_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        source_tree.pack(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_source_tree_has_some_two_hundred_files_in_twenty_directories() -> None:
    names = [name for name, _ in source_tree.files()]
    assert len({name.partition("/")[0] for name in names if "/" in name}) == 20
    assert 200 <= len([name for name in names if "/" in name]) <= 220
