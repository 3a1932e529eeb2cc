"""The list of what is installed, and the page of what runs."""

from pathlib import Path

import pytest

from tests.clients import page
from tests.clients.harness import Program, lacking
from tests.kernel.conftest import ROOT

RECORD = {
    "program": "some", "package": "some", "version": "1.2", "api": "own", "device": "open, mount(2)", "via": "exec",
    "asked": "auto", "endpoint": "device", "minor": 31, "flags": ["MAX_PAGES", "POSIX_LOCKS"], "max_write": 131072,
    "result": "runs", "exit_code": 0, "mount_s": 0.2, "masked": ["not offered on this endpoint: SPLICE_READ"],
}  # fmt: skip


def test_a_row_says_what_a_program_has_negotiated() -> None:
    assert page.row(RECORD) == (
        "| some | 1.2 | own | open, mount(2) | device (auto) | 7.31 | POSIX_LOCKS | 128 KiB | runs | 0 | 0.2 |"
    )


def test_a_program_that_fails_stands_out() -> None:
    assert "| **fails** |" in page.row(RECORD | {"result": "fails"})


def test_the_table_stands_between_its_markers() -> None:
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    new = page.written(text, page.table([RECORD]))
    assert new.startswith(f"before\n{page.BEGIN}\n")
    assert new.endswith(f"\n{page.END}\nafter\n")
    assert "old" not in new
    assert "- not offered on this endpoint: SPLICE_READ: some" in new


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no line"):
        page.written("nothing", [])


def test_the_page_of_this_tree_has_them() -> None:
    page.written(page.PAGE.read_text(), [])


def test_of_two_records_of_a_case_the_later_counts(tmp_path: Path) -> None:
    file = tmp_path / "records"
    file.write_text("\n".join(page.json.dumps(RECORD | {"result": result}) for result in ("fails", "runs")))
    (record,) = page.records(file)
    assert record["result"] == "runs"


def test_every_package_that_a_test_asks_for_is_installed_by_make_clients(request: pytest.FixtureRequest) -> None:
    listed = (ROOT / ".ci" / "clients").read_text().replace('"', " ").split()
    wanted = {
        marker.args[0].package
        for item in request.session.items
        for marker in [item.get_closest_marker("client")]
        if marker
    }
    assert wanted <= set(listed)


def test_a_missing_program_is_named_with_its_package() -> None:
    missing = Program("none", "some-package", "no-such-program", "own", "none", 0, 1.0)
    assert lacking(missing) == "package some-package is not installed: make clients installs it"
