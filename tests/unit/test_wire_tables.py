"""The tables are complete and agree with each other, with the installed header and with what Linux was seen to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wire import compat, flags, init_policy, ioctls, opcodes
from wire.flags import INIT_POLICY, InitFlag, Verdict
from wire.opcodes import BY_NUMBER, NOTIFICATIONS, OPCODES, Notify, Opcode, ReplyRule, Tail
from wire.structs import STRUCTS

HEADER = Path("/usr/include/linux/fuse.h")
needs_header = pytest.mark.skipif(not HEADER.exists(), reason=f"no {HEADER}: install linux-libc-dev")

FLAG_PREFIXES = {
    "FATTR_": flags.Fattr,
    "FOPEN_": flags.OpenFlag,
    "CUSE_": flags.CuseFlag,
    "FUSE_RELEASE_": flags.ReleaseFlag,
    "FUSE_GETATTR_": flags.GetattrFlag,
    "FUSE_LK_": flags.LkFlag,
    "FUSE_WRITE_": flags.WriteFlag,
    "FUSE_READ_": flags.ReadFlag,
    "FUSE_IOCTL_": flags.IoctlFlag,
    "FUSE_POLL_": flags.PollFlag,
    "FUSE_FSYNC_": flags.FsyncFlag,
    "FUSE_ATTR_": flags.AttrFlag,
    "FUSE_OPEN_": flags.OpenInFlag,
    "FUSE_SETXATTR_": flags.SetxattrFlag,
    "FUSE_SETUPMAPPING_FLAG_": flags.SetupmappingFlag,
    "FUSE_": InitFlag,
}
RENAMED = {"FUSE_IOCTL_32BIT": "BIT32"}


def test_there_are_51_requests_and_cuse_init() -> None:
    assert len(OPCODES) == 52
    assert [row.number for row in OPCODES] == [*(n for n in range(1, 54) if n not in (7, 19)), 4096]
    assert {row.number: row.name for row in OPCODES} == {op.value: op.name for op in Opcode}


def test_there_are_9_notifications() -> None:
    assert {row.number: row.name for row in NOTIFICATIONS} == {code.value: code.name for code in Notify}
    assert [row.number for row in NOTIFICATIONS] == list(range(1, 10))
    assert [row.since for row in NOTIFICATIONS] == [11, 12, 12, 15, 15, 18, 40, 44, 45]


def test_every_row_names_structs_that_exist() -> None:
    for row in OPCODES:
        assert not row.head or row.head in STRUCTS, row.name
        assert not row.reply or row.reply in STRUCTS, row.name
        assert 1 <= row.since <= 46
        assert row.enosys
    for note in NOTIFICATIONS:
        assert not note.struct or note.struct in STRUCTS


def test_three_requests_are_never_answered_and_one_perhaps() -> None:
    rules = {rule: {row.name for row in OPCODES if row.reply_rule is rule} for rule in ReplyRule}
    assert rules[ReplyRule.NEVER] == {"FORGET", "BATCH_FORGET", "NOTIFY_REPLY"}
    assert rules[ReplyRule.OPTIONAL] == {"INTERRUPT"}


def test_five_requests_may_carry_extensions() -> None:
    assert {row.name for row in OPCODES if row.may_extend} == {"SYMLINK", "MKNOD", "MKDIR", "CREATE", "TMPFILE"}


def test_names_by_request() -> None:
    two = {row.name for row in OPCODES if row.names == 2}
    assert two == {"SYMLINK", "RENAME", "RENAME2"}
    one = {row.name for row in OPCODES if row.names == 1}
    assert one == {
        *("LOOKUP", "MKNOD", "MKDIR", "UNLINK", "RMDIR", "LINK", "CREATE", "TMPFILE"),
        *("SETXATTR", "GETXATTR", "REMOVEXATTR"),
    }


def test_unknown_numbers_have_a_name_all_the_same() -> None:
    assert opcodes.name_of(1) == "LOOKUP"
    assert opcodes.name_of(77) == "opcode 77"
    assert opcodes.notify_name_of(9) == "PRUNE"
    assert opcodes.notify_name_of(77) == "notification 77"


def test_the_swapped_inits_are_init_in_the_other_byte_order() -> None:
    for number, swapped in ((26, opcodes.FUSE_INIT_BSWAP_RESERVED), (4096, opcodes.CUSE_INIT_BSWAP_RESERVED)):
        assert int.from_bytes(number.to_bytes(4, "little"), "big") == swapped
        assert swapped not in BY_NUMBER


@needs_header
def test_numbers_are_the_installed_headers() -> None:
    text = HEADER.read_text()
    for name, number in re.findall(r"^\s+(?:FUSE|CUSE)_(\w+)\s*= (\d+),", text, flags=re.MULTILINE):
        if name.startswith("NOTIFY_") and name != "NOTIFY_REPLY":
            assert Notify[name.removeprefix("NOTIFY_")] == int(number)
        elif name == "INIT" and int(number) == 4096:
            assert Opcode["CUSE_INIT"] == int(number)
        elif name.startswith(("MAX_NR", "EXT_")) or name.endswith("BSWAP_RESERVED"):
            continue
        else:
            assert Opcode[name] == int(number)


@needs_header
def test_flags_are_the_installed_headers() -> None:
    text, seen = HEADER.read_text(), 0
    for name, bit in re.findall(r"^#define (\w+)\s+\(1(?:ULL|ull)? << (\d+)\)", text, flags=re.MULTILINE):
        prefix = next(prefix for prefix in FLAG_PREFIXES if name.startswith(prefix))
        short = RENAMED.get(name, name.removeprefix(prefix))
        value = 1 << int(bit)
        if name == "FUSE_EXPIRE_ONLY":
            known = flags.EntryFlag.EXPIRE_ONLY.value
        elif name == "FUSE_UNIQUE_RESEND":
            known = flags.UNIQUE_RESEND
        elif name.removeprefix("FUSE_") in InitFlag.__members__:
            known = InitFlag[name.removeprefix("FUSE_")].value  # HAS_, SETXATTR_EXT and so on, whatever the prefix says
        elif short in init_policy.ALIASES:
            known = init_policy.ALIASES[short].value
        else:
            known = FLAG_PREFIXES[prefix][short].value
        assert known == value, name
        seen += 1
    assert seen > 60


def test_every_init_bit_from_0_to_42_has_a_policy_and_a_reason() -> None:
    assert [policy.bit for policy in INIT_POLICY.values()] == list(range(43))
    for flag, policy in INIT_POLICY.items():
        assert flag == 1 << policy.bit
        assert policy.name == flag.name
        assert 6 <= policy.since <= 43
        assert policy.reason.endswith(".")


def test_init_bits_came_with_these_minors() -> None:
    since = {policy.name: policy.since for policy in INIT_POLICY.values()}
    expected = [
        *(("ASYNC_READ", 6), ("POSIX_LOCKS", 7), ("EXPORT_SUPPORT", 10), ("BIG_WRITES", 9), ("DONT_MASK", 12)),
        *(("SPLICE_READ", 14), ("FLOCK_LOCKS", 17), ("WRITEBACK_CACHE", 23), ("POSIX_ACL", 26), ("MAX_PAGES", 28)),
        *(("SUBMOUNTS", 32), ("SETXATTR_EXT", 33), ("INIT_EXT", 36), ("SECURITY_CTX", 36), ("CREATE_SUPP_GROUP", 38)),
        *(("PASSTHROUGH", 40), ("HAS_RESEND", 40), ("ALLOW_IDMAP", 41), ("OVER_IO_URING", 42), ("REQUEST_TIMEOUT", 43)),
    ]
    assert [(name, since[name]) for name, _ in expected] == expected


def test_a_socket_refuses_splices_rings_and_the_reserved_bit() -> None:
    by = {verdict: {p.name for p in INIT_POLICY.values() if p.socket is verdict} for verdict in Verdict}
    assert by[Verdict.REFUSED] == {"SPLICE_WRITE", "SPLICE_MOVE", "SPLICE_READ", "OVER_IO_URING", "INIT_RESERVED"}
    assert by[Verdict.DAEMON] == {"PASSTHROUGH"}
    assert all(policy.direct is Verdict.PASS for policy in INIT_POLICY.values())


def test_unknown_flag_bits_are_kept() -> None:
    for kind in FLAG_PREFIXES.values():
        assert kind(0xFFFFFFFF).value == 0xFFFFFFFF
        assert (kind(1 << 29) | kind(1)).value == 1 << 29 | 1


def test_init_flags_are_two_words_of_one_set() -> None:
    offered = InitFlag.joined(0x73FFFFFB, 0x7FD)
    assert InitFlag.OVER_IO_URING in offered
    assert InitFlag.HAS_INODE_DAX not in offered
    assert offered.words() == (0x73FFFFFB, 0x7FD)
    assert InitFlag.joined(1, 0x7FD) == InitFlag.ASYNC_READ


def test_ioctl_numbers() -> None:
    assert ioctls.FUSE_DEV_IOC_CLONE == 0x8004E500
    assert ioctls.FUSE_DEV_IOC_BACKING_OPEN == 0x4010E501
    assert ioctls.FUSE_DEV_IOC_BACKING_CLOSE == 0x4004E502
    assert ioctls.FUSE_DEV_IOC_SYNC_INIT == 0xE503
    assert ioctls.NAMES[0xE503] == "FUSE_DEV_IOC_SYNC_INIT"


def test_request_heads_that_linux_sends_to_old_servers() -> None:
    expected = {
        Opcode.READ: {1: 40, 8: 40, 45: 40},
        Opcode.GETATTR: {1: 16, 8: 16, 45: 16},
        Opcode.WRITE: {1: 24, 8: 24, 9: 40, 45: 40},
        Opcode.CREATE: {11: 8, 12: 16},
        Opcode.MKNOD: {11: 8, 12: 16},
        Opcode.TMPFILE: {1: 16, 45: 16},
        Opcode.RELEASE: {1: 24},
        Opcode.INIT: {1: 64},
        Opcode.LOOKUP: {1: 0, 45: 0},
        Opcode.SETXATTR: {45: 8},
    }
    for opcode, sizes in expected.items():
        for minor, size in sizes.items():
            assert compat.request_head_size(opcode, minor) == size, f"{opcode.name} to 7.{minor}"
    assert compat.request_head_size(Opcode.SETXATTR, 45, setxattr_ext=True) == 16
    assert compat.request_head_size(77, 45) == 0


def test_reply_bodies() -> None:
    expected: dict[Opcode, dict[int, int | None]] = {
        Opcode.LOOKUP: {8: 120, 9: 128},
        Opcode.GETATTR: {8: 96, 9: 104},
        Opcode.STATFS: {3: 48, 4: 80},
        Opcode.CREATE: {8: 136, 9: 144},
        Opcode.TMPFILE: {8: 144, 45: 144},
        Opcode.STATX: {45: 288},
        Opcode.OPEN: {45: 16},
        Opcode.FSYNC: {45: 0},
        Opcode.INTERRUPT: {45: 0},
        Opcode.READ: {45: None},
        Opcode.INIT: {45: None},
        Opcode.FORGET: {45: None},
    }
    for opcode, sizes in expected.items():
        for minor, size in sizes.items():
            assert compat.reply_size(opcode, minor) == size, f"{opcode.name} to 7.{minor}"
    assert compat.reply_size(77, 45) is None


def test_reply_sizes_by_opcode() -> None:
    sizes = compat.reply_sizes(45)
    assert len(sizes) == 128
    read_sized = {n for n, size in enumerate(sizes) if size == compat.READ_SIZED}
    assert read_sized == {Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS}
    assert {n for n, size in enumerate(sizes) if size == 0} == {Opcode.FORGET, Opcode.NOTIFY_REPLY, Opcode.BATCH_FORGET}
    variable = {n for n, size in enumerate(sizes) if size == compat.VARIABLE}
    known = {Opcode.READLINK, Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.IOCTL, Opcode.INIT}
    assert variable == known | {0, 7, 19} | set(range(54, 128))
    assert (sizes[Opcode.LOOKUP], sizes[Opcode.GETATTR], sizes[Opcode.WRITE], sizes[Opcode.FSYNC]) == (144, 120, 24, 16)
    assert (compat.reply_sizes(8)[Opcode.LOOKUP], compat.reply_sizes(8)[Opcode.TMPFILE]) == (136, 160)


def test_tails_go_with_the_structs_that_count_them() -> None:
    for row in OPCODES:
        if row.tail is Tail.DATA:
            assert any(sub.name == "size" for sub in STRUCTS[row.head].subcons)
        if row.tail in (Tail.FORGETS, Tail.MAPPINGS):
            assert any(sub.name == "count" for sub in STRUCTS[row.head].subcons)
