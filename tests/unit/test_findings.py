"""What suites found: judged by a profile, compared with before, and reported in every form."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perfused.conformance import profiles
from perfused.conformance.findings import (
    Expectation,
    Finding,
    Report,
    Unreadable,
    Verdict,
    changes,
    judged,
    read_report,
)
from perfused.conformance.reports import html, junit, tap

FINDINGS = [
    Finding("open/good", Verdict.PASS, seconds=0.5, facts={"opcodes": ["OPEN"], "aspect": "reply", "minors": [45]}),
    Finding(
        "open/bad", Verdict.FAIL, message="flags: wanted 1, got <2> & more", details=("2 OPEN", "2 OPEN -> ok"),
        repeat="perfusectl conform kernel --only open/bad", facts={"opcodes": ["OPEN"], "aspect": "error"},
    ),
    Finding("read/absent", Verdict.SKIP, message="the kernel has no # READ"),
    Finding("read/stuck", Verdict.HANG, message="killed after 15 s"),
    Finding("read/known", Verdict.XFAIL, message="EIO", reason="never did"),
    Finding("read/healed", Verdict.XPASS, reason="once failed"),
]  # fmt: skip


@pytest.fixture
def report() -> Report:
    """One finding of nearly every verdict."""
    return Report("kernel", {"name": "Linux 6.18 x86_64", "minor": 45}, list(FINDINGS), 1.5, "2026-01-02")


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.HANG, Verdict.PANIC])
def test_what_a_profile_foresaw_is_xfail(verdict: Verdict) -> None:
    (found,) = judged([Finding("a/b", verdict)], {"a/b": Expectation("known", "here")})
    assert (found.verdict, found.reason) == (Verdict.XFAIL, "known")


def test_what_a_profile_foresaw_and_passed_is_xpass() -> None:
    (found,) = judged([Finding("a/b", Verdict.PASS)], {"a/b": Expectation("known")})
    assert found.verdict is Verdict.XPASS


def test_what_fails_sometimes_may_pass() -> None:
    (found,) = judged([Finding("a/b", Verdict.PASS)], {"a/b": Expectation("known", sometimes=True)})
    assert found.verdict is Verdict.PASS


def test_a_skipped_case_stays_skipped_whatever_a_profile_says() -> None:
    (found,) = judged([Finding("a/b", Verdict.SKIP)], {"a/b": Expectation("known")})
    assert found.verdict is Verdict.SKIP


@pytest.mark.parametrize(
    ("verdict", "failed"),
    [(Verdict.PASS, False), (Verdict.SKIP, False), (Verdict.XFAIL, False), (Verdict.HOST, False), (Verdict.FAIL, True)]
    + [(Verdict.HANG, True), (Verdict.PANIC, True), (Verdict.XPASS, True)],
)
def test_a_run_fails_by_what_nobody_expected(verdict: Verdict, failed: bool) -> None:
    assert Report("kernel", {}, [Finding("a/b", verdict)]).failed is failed


def test_json_comes_back_as_it_was(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.as_json()))
    assert read_report(path).findings == report.findings


def test_json_names_what_was_tested_and_each_verdict(report: Report) -> None:
    made = report.as_json()
    assert made["kernel"]["name"] == "Linux 6.18 x86_64"
    assert {each["id"]: each["verdict"] for each in made["cases"]}["read/stuck"] == "HANG"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suite": "kernel", "cases": [{"id": "a"}]}', '{"cases": 1}'])
def test_a_file_that_is_no_report_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(Unreadable, match=r"other\.json"):
        read_report(path)


def test_only_what_differs_is_a_change() -> None:
    before = Report("kernel", {}, [Finding("a", Verdict.PASS), Finding("b", Verdict.FAIL), Finding("c", Verdict.PASS)])
    after = Report("kernel", {}, [Finding("a", Verdict.HANG), Finding("b", Verdict.FAIL), Finding("d", Verdict.PASS)])
    found = changes(before, after)
    assert [(each.id, each.before, each.after, each.worse) for each in found] == [
        ("a", "PASS", "HANG", True),
        ("c", "PASS", "", False),
        ("d", "", "PASS", False),
    ]


def test_tap_has_a_plan_a_line_a_case_and_the_transcript_of_what_failed(report: Report) -> None:
    lines = tap(report).splitlines()
    assert lines[:2] == ["TAP version 14", "1..6"]
    assert "ok 1 - open/good" in lines
    assert "not ok 2 - open/bad" in lines
    assert "    2 OPEN -> ok" in lines
    assert "ok 3 - read/absent # SKIP the kernel has no \\# READ" in lines
    assert "not ok 5 - read/known # TODO never did" in lines


def test_junit_counts_by_group(report: Report) -> None:
    root = ElementTree.fromstring(junit(report))
    counts = {suite.get("name"): (suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in root}
    assert counts == {"open": ("2", "1", "0"), "read": ("4", "2", "2")}


def test_junit_holds_whatever_a_case_says() -> None:
    odd = Report("fs", {}, [Finding("a/b", Verdict.FAIL, message="\x00\x1b[1m <&>\ud800", details=("\x07",))])
    assert ElementTree.fromstring(junit(odd)).find("testsuite/testcase/failure") is not None


def test_the_page_escapes_what_cases_say_and_has_every_one(report: Report) -> None:
    page = html(report)
    assert "got &lt;2&gt; &amp; more" in page
    assert all(each.id in page for each in FINDINGS)


def test_the_page_counts_passed_of_asked_in_its_matrix(report: Report) -> None:
    page = html(report)
    row = page[page.index("<th scope=row>OPEN</th>") :].partition("</tr>")[0]
    assert ">1/1</td>" in row
    assert ">0/1</td>" in row
    assert row.endswith(">1/2</td>")


PROFILE = """
kernel = "Linux 9.99"
[expected."a/b"]
reason = "never did"
source = "measured"
"""


def test_a_profile_says_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PROFILE)
    assert profiles.read(path) == {"a/b": Expectation("never did", "measured")}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("expected = 1", "expected"),
        ("[expected]\nx = 1", r"expected\.x"),
        ('[expected.x]\nsource = "s"', r"expected\.x"),
        ("[expected.x]\nreason = 1", r"expected\.x\.reason"),
        ('[expected.x]\nreason = "r"\nother = 1', r"expected\.x\.other"),
        ("kernel = ", "p.toml"),
    ],
)
def test_a_bad_profile_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(Unreadable, match=named):
        profiles.read(path)


def test_a_written_profile_expects_what_failed_and_keeps_known_reasons(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    count = profiles.write(path, "Linux 6.18", FINDINGS, {"read/known": Expectation("for ages", "a letter", True)})
    made = profiles.read(path)
    assert count == 3
    assert made.keys() == {"open/bad", "read/stuck", "read/known"}
    assert made["read/known"] == Expectation("for ages", "a letter", True)
    assert made["open/bad"].reason == "flags: wanted 1, got <2> & more"


def test_a_profile_fits_the_kernels_whose_name_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "KEPT", tmp_path)
    for name, kernel in (("six", "Linux 6"), ("six-one", "Linux 6.1")):
        (tmp_path / f"{name}.toml").write_text(f'kernel = "{kernel}"\n')
    assert profiles.fitting("Linux 6.1.176 x86_64") == tmp_path / "six-one.toml"
    assert profiles.fitting("Linux 6.18.44 x86_64") == tmp_path / "six.toml"
    assert profiles.fitting("gVisor 4.4.0 x86_64") is None


def test_every_kept_profile_can_be_read() -> None:
    for path in profiles.KEPT.glob("*.toml"):
        assert all(each.reason for each in profiles.read(path).values())


def test_an_unknown_profile_names_those_that_are_kept() -> None:
    with pytest.raises(Unreadable, match="none of those kept here"):
        profiles.find("nixda")
