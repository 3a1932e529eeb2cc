"""Where log lines go, and the debug classes of -d."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfused import log
from perfused.log import LOGGER, UnknownClass, parse_classes

ORIGINAL = ["fuse", "puffs", "dump", "fh", "reclaim", "readdir", "requeue", "sync", "misc", "filename"]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """The logger as it was before."""
    before = LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    yield
    for each in LOGGER.handlers:
        if each not in before[0]:
            each.close()
    LOGGER.handlers[:], LOGGER.propagate = before[0], before[1]
    LOGGER.setLevel(before[2])


@pytest.mark.parametrize("name", [*ORIGINAL, "resize"])
def test_every_class_of_the_original_is_known(name: str) -> None:
    assert parse_classes(name) == {name}


def test_the_originals_spelling_of_resize_is_known() -> None:
    assert parse_classes("reize") == {"resize"}


def test_classes_are_separated_by_commas_in_any_case_with_spaces() -> None:
    assert parse_classes(" Fuse ,MISC,,sync") == {"fuse", "misc", "sync"}


def test_all_is_every_class() -> None:
    assert parse_classes("all") == set(log.CLASSES)


def test_nothing_is_no_class() -> None:
    assert parse_classes("") == frozenset()


@pytest.mark.parametrize("word", ["fusee", "none", "*", "fuse misc"])
def test_an_unknown_class_is_named_with_those_there_are(word: str) -> None:
    with pytest.raises(UnknownClass) as caught:
        parse_classes(f"fuse,{word}")
    assert str(caught.value).startswith(f"{word!r} is no debug class; there are fuse, puffs, ")


def test_a_file_gets_the_lines(tmp_path: Path) -> None:
    log.set_up(True, False, str(tmp_path / "log"))
    LOGGER.info("mounted %s", "/mnt/\udcff")
    assert (tmp_path / "log").read_text().endswith(": INFO: mounted /mnt/\\udcff\n")


def test_a_file_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    log.set_up(True, False, str(tmp_path / "log"))
    LOGGER.warning("after")
    assert [line.split(": ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["before", "after"]


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        log.set_up(True, False, str(tmp_path / "none" / "log"))


def test_the_foreground_has_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(True, False)
    LOGGER.warning("careful")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("perfused[")
    assert err.endswith("]: WARNING: careful\n")


@pytest.mark.parametrize(("debug", "shown"), [(True, ["debug", "info"]), (False, ["info"])])
def test_debug_lines_are_shown_where_asked_for(tmp_path: Path, debug: bool, shown: list[str]) -> None:
    log.set_up(True, debug, str(tmp_path / "log"))
    LOGGER.debug("debug")
    LOGGER.info("info")
    assert [line.split(": ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == shown


def test_muting_hides_debug_lines_alone(tmp_path: Path) -> None:
    log.set_up(True, True, str(tmp_path / "log"))
    log.mute(True)
    LOGGER.debug("hidden")
    LOGGER.info("shown")
    log.mute(False)
    LOGGER.debug("back")
    assert [line.split(": ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["shown", "back"]


def test_setting_up_again_leaves_one_place(tmp_path: Path) -> None:
    log.set_up(True, False, str(tmp_path / "one"))
    first = LOGGER.handlers[0]
    log.set_up(True, False, str(tmp_path / "two"))
    first.close()
    LOGGER.info("line")
    assert (tmp_path / "one").read_text() == ""
    assert "line" in (tmp_path / "two").read_text()


def test_the_logs_descriptors_can_be_kept_over_a_fork(tmp_path: Path) -> None:
    log.set_up(True, False, str(tmp_path / "log"))
    (handler,) = LOGGER.handlers
    assert isinstance(handler, logging.FileHandler)
    assert log.descriptors() == {handler.stream.fileno()}
