"""The layouts are the kernel's: compared with the installed linux/fuse.h, and with sizes by hand for what is newer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

from wire import codec, compat
from wire.errors import WireError
from wire.structs import STRUCTS

HEADER = Path("/usr/include/linux/fuse.h")

SIZES = {
    "in_header": 40, "out_header": 16, "init_in": 64, "init_out": 64, "attr": 88, "entry_out": 128, "attr_out": 104,
    "kstatfs": 80, "statfs_out": 80, "setattr_in": 88, "mknod_in": 16, "mkdir_in": 8, "open_in": 8, "create_in": 16,
    "open_out": 16, "release_in": 24, "flush_in": 24, "read_in": 40, "write_in": 40, "lk_in": 48, "getattr_in": 16,
    "setxattr_in": 16, "poll_in": 24, "notify_inval_entry_out": 16, "forget_in": 8, "forget_one": 16,
    "batch_forget_in": 8, "rename_in": 8, "rename2_in": 16, "link_in": 8, "fsync_in": 16, "getxattr_in": 8,
    "getxattr_out": 8, "lk_out": 24, "file_lock": 24, "access_in": 8, "interrupt_in": 8, "bmap_in": 16, "bmap_out": 8,
    "ioctl_in": 32, "ioctl_out": 16, "ioctl_iovec": 16, "poll_out": 8, "notify_poll_wakeup_out": 8,
    "notify_inval_inode_out": 24, "notify_delete_out": 24, "notify_store_out": 24, "notify_retrieve_out": 32,
    "notify_retrieve_in": 40, "notify_prune_out": 16, "fallocate_in": 32, "lseek_in": 24, "lseek_out": 8,
    "copy_file_range_in": 56, "copy_file_range_out": 8, "dirent": 24, "direntplus": 152, "setupmapping_in": 40,
    "removemapping_in": 4, "removemapping_one": 16, "syncfs_in": 8, "statx_in": 24, "statx_out": 288, "statx": 256,
    "sx_time": 16, "backing_map": 16, "cuse_init_in": 16, "cuse_init_out": 72, "write_out": 8, "secctx_header": 8,
    "secctx": 8, "ext_header": 8, "supp_groups": 4, "uring_cmd_req": 24, "uring_ent_in_out": 32,
    "uring_req_header": 288,
}  # fmt: skip

NEWER_NAMES = {("open_out", "padding"): "backing_id", ("init_out", "unused"): "max_stack_depth"}
"""Spare words of an older header, and what the first of them has become."""

EXPECTED_BY_MINOR = {
    "init_in": {1: 8, 5: 8, 6: 16, 35: 16, 36: 64, 45: 64},
    "init_out": {1: 8, 4: 8, 5: 24, 22: 24, 23: 64, 45: 64},
    "attr": {8: 80, 9: 88},
    "entry_out": {1: 120, 8: 120, 9: 128, 45: 128},
    "attr_out": {8: 96, 9: 104},
    "kstatfs": {3: 48, 4: 80},
    "statfs_out": {3: 48, 4: 80},
    "setattr_in": {1: 88, 45: 88},
    "mknod_in": {11: 8, 12: 16},
    "create_in": {11: 8, 12: 16},
    "release_in": {7: 16, 8: 24},
    "flush_in": {6: 16, 7: 24},
    "read_in": {8: 24, 9: 40},
    "write_in": {8: 24, 9: 40},
    "lk_in": {8: 40, 9: 48},
    "getattr_in": {8: 0, 9: 16},
    "setxattr_in": {32: 8, 33: 16},
    "poll_in": {11: 24, 45: 24},
}


def offsets(name: str) -> dict[str, int]:
    """Where each top-level field of a struct begins, from the derived format alone."""
    found: dict[str, int] = {}
    at = 0
    for sub in STRUCTS[name].subcons:
        found[sub.name] = at
        at += sub.sizeof()
    return found


def installed() -> dict[str, Any]:
    """struct name without fuse_ -> cffi's type, from the header of this machine; no compiler takes part."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    bodies = re.findall(r"^struct \w+ \{.*?^\};", text, flags=re.DOTALL | re.MULTILINE)
    ffi = FFI()
    ffi.cdef("\n".join(bodies))
    found = {}
    for body in bodies:
        name = body.split()[1]
        found[name.removeprefix("fuse_")] = (ffi.typeof(f"struct {name}"), ffi.sizeof(f"struct {name}"))
    return found


@pytest.mark.skipif(not HEADER.exists(), reason=f"no {HEADER}: install linux-libc-dev")
def test_every_struct_of_the_installed_header_has_our_layout() -> None:
    header = installed()
    assert len(header) >= 60
    for name, (ctype, size) in header.items():
        assert name in STRUCTS, f"the header has a struct that wire does not know: {name}"
        assert size == codec.CODECS[name].size, name
        ours = offsets(name)
        for field, info in ctype.fields:
            if info.type.kind == "array" and info.type.length is None:
                assert info.offset == size, f"{name}.{field}"
                continue
            known = field.lstrip("_") if field.lstrip("_") in ours else NEWER_NAMES.get((name, field), field)
            if (name, field) == ("init_out", "unused"):
                continue  # shrinks with every minor that takes a word of it
            if info.type.kind == "struct" and field == "dirent" and name == "direntplus":
                assert info.offset == 128
            assert ours[known] == info.offset, f"{name}.{field}"


@pytest.mark.skipif(not HEADER.exists(), reason=f"no {HEADER}: install linux-libc-dev")
def test_spare_words_begin_where_newer_fields_do() -> None:
    ctype, _ = installed()["init_out"]
    unused = dict(ctype.fields)["unused"].offset
    assert unused in offsets("init_out").values()


def test_the_table_of_sizes_names_every_struct() -> None:
    assert set(SIZES) == set(STRUCTS)


@pytest.mark.parametrize("name", SIZES)
def test_size_of_the_newest_layout(name: str) -> None:
    assert codec.CODECS[name].size == SIZES[name]
    assert compat.size(name, 46) == SIZES[name]


@pytest.mark.parametrize("name", EXPECTED_BY_MINOR)
def test_size_by_minor(name: str) -> None:
    for minor, size in EXPECTED_BY_MINOR[name].items():
        assert compat.size(name, minor) == size, f"{name} of 7.{minor}"


def test_only_structs_with_a_history_change() -> None:
    for name in STRUCTS:
        steady = len({compat.size(name, minor) for minor in range(1, 47)}) == 1
        assert steady == (name not in compat.HISTORY)


def test_older_sizes_end_between_fields() -> None:
    for name, steps in compat.HISTORY.items():
        struct = codec.CODECS[name].struct
        flat = [struct.__class__("=" + code).size for code in codec.CODECS[name]._codes()]
        ends = {sum(flat[:count]) for count in range(len(flat) + 1)}
        assert {size for _, size in steps} <= ends, name


def test_offsets_of_fields_newer_than_the_packaged_header() -> None:
    assert offsets("init_out")["max_stack_depth"] == 36
    assert offsets("init_out")["request_timeout"] == 40
    assert offsets("open_out")["backing_id"] == 12
    assert offsets("statx_out")["stat"] == 32
    assert offsets("statx")["ino"] == 32
    assert offsets("statx")["atime"] == 64
    assert offsets("statx")["rdev_major"] == 128
    assert offsets("uring_req_header")["ring_ent_in_out"] == 256
    assert offsets("uring_ent_in_out")["payload_sz"] == 16
    assert offsets("uring_cmd_req")["qid"] == 16


def test_sizes_of_unknown_structs_and_minors_are_refused() -> None:
    with pytest.raises(WireError, match="struct: one of"):
        compat.size("nonsense", 45)
    with pytest.raises(WireError, match="minor: at least 1"):
        compat.size("attr", 0)
    assert compat.size("attr", 999) == 88
