"""The suite for kernels, on this one: verdicts, what a failure shows, hangs, crashes, machines without cffi."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perfused.conformance.findings import Verdict
from perfused.conformance.kernel import runner
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Case, Skipped, cases
from perfused.conformance.kernel.server import Server
from perfused.conformance.kernel.tree import Tree
from tests.kernel.conftest import ROOT, eventually
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

CONFORM = (sys.executable, "-m", "perfused.cli.control", "conform")


@pytest.fixture(scope="module")
def kernel(namespace: None) -> runner.Kernel:
    """What this kernel offered."""
    return runner.learn()


@pytest.fixture(autouse=True)
def nothing_left(watchdog: None) -> Iterator[None]:
    """No case leaves a mount in the namespace of who runs the suite."""
    before = Path("/proc/self/mountinfo").read_text().count("fuse.conformance")
    yield
    assert Path("/proc/self/mountinfo").read_text().count("fuse.conformance") == before


def run(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """perfusectl conform."""
    done = subprocess.run([*CONFORM, *words], capture_output=True, text=True, timeout=50, cwd=ROOT, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def one(kernel: runner.Kernel, body: object, patience: float = runner.PATIENCE, **fields: object) -> runner.Outcome:
    """The outcome of a made-up case."""
    made = Case("test/case", body, (Opcode.OPEN,), "other", **fields)  # type: ignore[arg-type]
    return runner.one(made, kernel, patience)


def opens(k: Bench) -> None:
    """A case's beginning: a file is opened."""
    k.mount().tree.add("a")
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_RDONLY)))


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_there_are_600_cases_and_each_says_where_it_comes_from() -> None:
    found = cases()
    assert len(found) >= 600
    assert all(each.source for each in found)


def test_every_opcode_and_notification_has_a_case() -> None:
    found = cases()
    sent = set(Opcode) - {Opcode.CUSE_INIT, Opcode.DESTROY, Opcode.BMAP}
    assert {number for each in found for number in each.opcodes} >= set(sent)
    assert {number for each in found for number in each.notifications} >= set(range(1, 10))


def test_every_minor_to_45_has_a_case() -> None:
    assert {minor for each in cases() for minor in each.minors} >= set(range(1, 46))


# -- verdicts --------------------------------------------------------------------------------------------------------


def test_a_kernel_is_known_by_its_release_and_its_offer(kernel: runner.Kernel) -> None:
    assert kernel.name.startswith(f"Linux {os.uname().release}")
    assert kernel.minor >= 31
    assert kernel.flags & InitFlag.ASYNC_READ


def test_a_case_that_holds_passes(kernel: runner.Kernel) -> None:
    assert one(kernel, opens).verdict is Verdict.PASS


def test_a_case_that_does_not_hold_shows_the_field_its_offset_and_the_frames(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        opens(k)
        k.field(k.one(Opcode.OPEN), "open_flags", 77)

    found = one(kernel, body)
    assert found.verdict is Verdict.FAIL
    assert found.message == "open_in.open_flags at offset 44 of OPEN: wanted 77, got 0"
    assert any("OPEN nodeid=2" in line for line in found.details)
    assert any("0020" in line for line in found.details), "no hexadecimal dump of OPEN"


def test_an_errno_that_was_not_wanted_is_named(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        k.mount()
        k.fails(13, lambda: os.stat(k.file("nixda")), "stat")

    assert one(kernel, body).message == "stat: wanted EACCES, got ENOENT"


def test_a_call_that_hangs_is_killed_and_the_next_case_runs(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        k.mount().tree.add("a")
        k.hold(Opcode.GETATTR)
        k.start(lambda: os.stat(k.file("a")))
        time.sleep(60)

    found = one(kernel, body, patience=1.0)
    assert found.verdict is Verdict.HANG
    assert one(kernel, opens).verdict is Verdict.PASS


def test_a_client_that_waits_longer_than_it_may_is_a_failure(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        k.mount()
        k.patience = 0.3
        k.hold(Opcode.STATFS)
        k.do(lambda: os.statvfs(k.path))

    assert "still waits" in one(kernel, body).message


def test_a_case_that_is_wrong_itself_says_so(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        raise KeyError("oops")

    assert one(kernel, body).message == "the case itself: KeyError: 'oops'"


def test_what_a_case_lacks_skips_it(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        raise Skipped("no such thing here")

    found = one(kernel, body)
    assert (found.verdict, found.message) == (Verdict.SKIP, "no such thing here")


def test_a_flag_that_the_kernel_does_not_offer_skips_the_case(kernel: runner.Kernel) -> None:
    found = one(kernel, opens, flags=int(InitFlag.FILE_OPS))
    assert (found.verdict, found.message) == (Verdict.SKIP, "the kernel does not offer FILE_OPS")


def test_a_minor_that_the_kernel_does_not_speak_skips_the_case(kernel: runner.Kernel) -> None:
    assert one(kernel, opens, since=99).verdict is Verdict.SKIP


# -- the audit -------------------------------------------------------------------------------------------------------


def frame(body: bytes = bytes(8), opcode: int = Opcode.OPEN, unique: int = 4, nodeid: int = 1) -> bytes:
    """A request as a kernel would send it."""
    return codec.in_header.pack(40 + len(body), opcode, unique, nodeid, 0, 0, 1, 0, 0) + body


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (frame(bytes(12)), "4 bytes after its end"),
        (frame(bytes(4)), "open_in"),
        (frame(opcode=7777), "no opcode of fuse.h"),
        (frame(unique=0), "unique is 0"),
        (frame(nodeid=0), "nodeid is 0"),
        (frame()[:-1], "len"),
        (frame(b"name-without-end", Opcode.LOOKUP), "name"),
    ],
)
def test_a_request_with_another_layout_is_a_fault(made: bytes, named: str) -> None:
    read, write = os.pipe()
    server = Server(write, Tree(), 45)
    server.take(made)
    os.close(read)
    os.close(write)
    assert any(named in fault for fault in server.faults), server.faults


def test_a_good_request_is_no_fault() -> None:
    read, write = os.pipe()
    server = Server(write, Tree(), 45)
    server.take(frame())
    os.close(read)
    os.close(write)
    assert server.faults == []


def test_a_rule_that_breaks_is_a_fault_and_the_caller_gets_an_answer(kernel: runner.Kernel) -> None:
    def body(k: Bench) -> None:
        k.mount().tree.add("a")
        k.answer(Opcode.OPEN, lambda request: b"" + request.head.nixda)
        k.fails(5, lambda: os.open(k.file("a"), os.O_RDONLY))

    assert "the server itself: OPEN: AttributeError" in one(kernel, body).message


# -- the journal -----------------------------------------------------------------------------------------------------


def test_the_case_in_which_everything_ended_is_suspect_and_the_rest_is_run(
    kernel: runner.Kernel, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    first, second, third = [Case(f"test/{name}", opens, (), "other") for name in "abc"]
    runner.run([first], kernel, journal=journal)
    with open(journal, "a") as more:
        more.write(json.dumps({"begun": "test/b"}) + "\n")
    found = runner.run([first, second, third], kernel, journal=journal, resume=True)
    assert [each.verdict for each in found] == [Verdict.PASS, Verdict.PANIC, Verdict.PASS]


# -- the command -----------------------------------------------------------------------------------------------------


def test_every_report_of_a_run_can_be_read(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"report.{name}" for name in ("json", "tap", "junit", "html")}
    run("kernel", "--only", "open/", *(word for name, path in paths.items() for word in (f"--{name}", path)))
    found = json.loads(paths["json"].read_text())
    assert {each["verdict"] for each in found["cases"]} == {"PASS"}
    assert found["kernel"]["release"] == os.uname().release
    assert f"1..{len(found['cases'])}" in paths["tap"].read_text()
    assert len(ElementTree.parse(paths["junit"]).findall("testsuite/testcase")) == len(found["cases"])
    assert "<h2>Opcodes</h2>" in paths["html"].read_text()


def test_a_comparison_with_itself_finds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    run("kernel", "--only", "open/request", "--json", path)
    assert "nothing differs" in run("diff", path, path).stdout


def test_a_case_that_got_worse_ends_a_comparison_with_1(tmp_path: Path) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    run("kernel", "--only", "open/request", "--json", before)
    after.write_text(before.read_text().replace('"PASS"', '"FAIL"'))
    assert "open/request" in run("diff", before, after, status=1).stdout


def test_a_profile_makes_a_pass_that_it_did_not_foresee_unexpected(tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text('[expected."open/request"]\nreason = "never did"\n')
    assert (
        "XPASS open/request: never did"
        in run("kernel", "--only", "open/request", "--profile", profile, status=1).stdout
    )


def test_a_profile_that_is_not_there_is_one_clear_line() -> None:
    done = run("kernel", "--only", "open/request", "--profile", "nixda", status=2)
    assert done.stderr.startswith("perfusectl: profile nixda: no such file")


def test_without_cffi_the_suite_mounts_with_mount8(tmp_path: Path) -> None:
    (tmp_path / "cffi.py").write_text("raise ImportError('not here')")
    (tmp_path / "_cffi_backend.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "perfused.conformance.kernel"]
        + ["--only", "open/request", "--only", "open/error"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, timeout=50, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok 1 - open/" in done.stdout


def test_an_interrupted_run_leaves_no_case_behind(tmp_path: Path) -> None:
    running = subprocess.Popen([*CONFORM, "kernel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    eventually(lambda: bool(children.read_text()), "the first case runs")
    running.send_signal(signal.SIGINT)
    assert running.wait(20) != 0
