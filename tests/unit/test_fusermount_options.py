"""Mount options as fusermount3 has them on its command line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libperfuse import fusermount
from libperfuse.fusermount_options import FLAGS, IGNORED, OWN, SWITCHES, VALUES, BadOption, MountOptions, parse, split

ROOT = Path(__file__).parents[2]


def parsed(*given: str, root: bool = False) -> MountOptions:
    """The options, which must not be warned of."""
    return parse(list(given), root, lambda sentence: pytest.fail(sentence))


@given(st.lists(st.text(min_size=1)))
def test_an_option_is_what_it_was_before_its_commas_and_backslashes_were_escaped(options: list[str]) -> None:
    words = ",".join(re.sub(r"([,\\])", r"\\\1", each) for each in options)
    assert [plain for _, plain in split(words)] == options


@given(st.text(alphabet="a,\\="))
def test_nothing_is_lost_in_splitting_but_a_comma_at_the_end(words: str) -> None:
    joined = ",".join(raw for raw, _ in split(words))
    assert words in (joined, joined + ",")


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_=,\\0", max_size=40))
def test_whatever_is_given_is_read_or_refused(words: str) -> None:
    refused = ""
    try:
        parsed(words)
    except BadOption as bad:
        refused = str(bad)
    assert not refused or refused.startswith("unknown option '")


def test_the_default_mount_has_neither_set_user_id_programs_nor_devices() -> None:
    assert parsed() == MountOptions("/dev/fuse", "fuse", 2 | 4, "", False)


def test_root_may_have_both() -> None:
    assert parsed("suid,dev", root=True).flags == 0


def test_root_may_mount_a_block_device() -> None:
    assert parsed("blkdev,blksize=512,subtype=x", root=True)[1:4] == ("fuseblk.x", 2 | 4, "blksize=512")


@pytest.mark.parametrize("name", [name for name, (_, on, _) in FLAGS.items() if on])
def test_a_flag_is_set_by_its_name(name: str) -> None:
    assert parsed(name).flags & FLAGS[name][0]


@pytest.mark.parametrize("name", [name for name, (_, on, safe) in FLAGS.items() if safe and not on])
def test_the_last_of_two_that_contradict_each_other_holds(name: str) -> None:
    bit = FLAGS[name][0]
    other = next(each for each, (flag, on, _) in FLAGS.items() if flag == bit and on)
    assert not parsed(f"{other},{name}").flags & bit
    assert parsed(name, other).flags & bit


@pytest.mark.parametrize("given", ["fsname=here", r"fsname=he\re", "fsname=there,fsname=here", "subtype=here"])
def test_the_source_is_the_name_or_the_subtype(given: str) -> None:
    assert parsed(given).source == "here"


def test_what_fuse_is_told_keeps_its_order() -> None:
    assert (
        parsed("max_read=1,allow_other", "ro,default_permissions").data == "max_read=1,allow_other,default_permissions"
    )


def test_every_option_is_in_the_manual_page() -> None:
    page = (ROOT / "docs/man/perfuse-fusermount3.1").read_text(encoding="utf-8")
    text = page.split('.SH "MOUNT OPTIONS"')[1].split(".SH ENVIRONMENT")[0]
    names = {*FLAGS, *SWITCHES, *VALUES, *IGNORED, *OWN, "fsname", "subtype", "blkdev", "auto_unmount"}
    assert {name for name in names if not re.search(rf"(?<!\w){name}(?!\w)", text)} == set()


@pytest.mark.parametrize("option", re.findall(r"^ (--?[A-Za-z-]+)", fusermount.USAGE, re.MULTILINE))
def test_every_option_of_the_summary_is_in_the_manual_page(option: str) -> None:
    page = (ROOT / "docs/man/perfuse-fusermount3.1").read_text(encoding="utf-8").replace(r"\-", "-")
    assert re.search(rf"^\.(B|BI|BR) {option}(?![\w-])", page.split(".SH OPTIONS")[1], re.MULTILINE)
