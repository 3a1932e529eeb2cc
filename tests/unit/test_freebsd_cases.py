"""The table of FreeBSD's cases: it names cases that are there, and its page is what the table says."""

from tests.kernels import freebsd


def test_every_case_that_is_named_is_there() -> None:
    assert freebsd.strangers() == []


def test_the_table_has_no_fewer_cases_than_freebsd() -> None:
    assert len(freebsd.table()) >= 446


def test_each_case_without_one_here_has_a_reason() -> None:
    assert all(len(ours) > 8 for ours in freebsd.table().values() if ours.startswith("-"))


def test_the_page_is_the_table() -> None:
    assert freebsd.PAGE.read_text(encoding="utf-8") == freebsd.page(), "python -m tests.kernels.freebsd writes it"
