"""Every fixed struct of fuse.h 7.45 as a construct Struct of native-order integers: the source of truth for layouts.

Only integers, byte strings of fixed length (arrays of spare words) and nested Structs. Reserved and padding fields are
ordinary fields, because a relay must hand every byte on. fuse.h's leading underscores (``__reserved``) are dropped.
What never lives here: anything variable (``tails``), older sizes (``compat``), any use of these on a hot path.
"""

from __future__ import annotations

from typing import Any

from construct import Bytes, FormatField, Int16un, Int32sn, Int32un, Int64sn, Int64un, Renamed, Struct

_U16, _U32, _U64, _I32, _I64 = Int16un, Int32un, Int64un, Int32sn, Int64sn


def _words(names: str, kind: Any) -> list[Any]:
    """Consecutive fields of one integer type, by fuse.h's names."""
    return [name / kind for name in names.split()]


def _u64(names: str) -> list[Any]:
    return _words(names, _U64)


def _u32(names: str) -> list[Any]:
    return _words(names, _U32)


def _u16(names: str) -> list[Any]:
    return _words(names, _U16)


_attr = Struct(
    *_u64("ino size blocks atime mtime ctime"),
    *_u32("atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags"),
)
_kstatfs = Struct(*_u64("blocks bfree bavail files ffree"), *_u32("bsize namelen frsize padding"), "spare" / Bytes(24))
_file_lock = Struct(*_u64("start end"), *_u32("type pid"))
_sx_time = Struct("tv_sec" / _I64, "tv_nsec" / _U32, "reserved" / _I32)
_statx = Struct(
    *_u32("mask blksize"),
    "attributes" / _U64,
    *_u32("nlink uid gid"),
    *_u16("mode spare0"),
    *_u64("ino size blocks attributes_mask"),
    "atime" / _sx_time,
    "btime" / _sx_time,
    "ctime" / _sx_time,
    "mtime" / _sx_time,
    *_u32("rdev_major rdev_minor dev_major dev_minor"),
    "spare2" / Bytes(112),
)
_entry_out = Struct(
    *_u64("nodeid generation entry_valid attr_valid"), *_u32("entry_valid_nsec attr_valid_nsec"), "attr" / _attr
)
_dirent = Struct(*_u64("ino off"), *_u32("namelen type"))
_uring_ent_in_out = Struct(*_u64("flags commit_id"), *_u32("payload_sz padding"), "reserved" / _U64)

STRUCTS: dict[str, Any] = {
    # headers
    "in_header": Struct(
        *_u32("len opcode"), *_u64("unique nodeid"), *_u32("uid gid pid"), *_u16("total_extlen padding")
    ),
    "out_header": Struct("len" / _U32, "error" / _I32, "unique" / _U64),
    # building blocks
    "attr": _attr,
    "kstatfs": _kstatfs,
    "file_lock": _file_lock,
    "sx_time": _sx_time,
    "statx": _statx,
    # negotiation
    "init_in": Struct(*_u32("major minor max_readahead flags flags2"), "unused" / Bytes(44)),
    "init_out": Struct(
        *_u32("major minor max_readahead flags"),
        *_u16("max_background congestion_threshold"),
        *_u32("max_write time_gran"),
        *_u16("max_pages map_alignment"),
        *_u32("flags2 max_stack_depth"),
        "request_timeout" / _U16,
        "unused" / Bytes(22),
    ),
    "cuse_init_in": Struct(*_u32("major minor unused flags")),
    "cuse_init_out": Struct(
        *_u32("major minor unused flags max_read max_write dev_major dev_minor"), "spare" / Bytes(40)
    ),
    # requests
    "forget_in": Struct("nlookup" / _U64),
    "forget_one": Struct(*_u64("nodeid nlookup")),
    "batch_forget_in": Struct(*_u32("count dummy")),
    "getattr_in": Struct(*_u32("getattr_flags dummy"), "fh" / _U64),
    "setattr_in": Struct(
        *_u32("valid padding"),
        *_u64("fh size lock_owner atime mtime ctime"),
        *_u32("atimensec mtimensec ctimensec mode unused4 uid gid unused5"),
    ),
    "mknod_in": Struct(*_u32("mode rdev umask padding")),
    "mkdir_in": Struct(*_u32("mode umask")),
    "rename_in": Struct("newdir" / _U64),
    "rename2_in": Struct("newdir" / _U64, *_u32("flags padding")),
    "link_in": Struct("oldnodeid" / _U64),
    "open_in": Struct(*_u32("flags open_flags")),
    "create_in": Struct(*_u32("flags mode umask open_flags")),
    "release_in": Struct("fh" / _U64, *_u32("flags release_flags"), "lock_owner" / _U64),
    "flush_in": Struct("fh" / _U64, *_u32("unused padding"), "lock_owner" / _U64),
    "read_in": Struct(*_u64("fh offset"), *_u32("size read_flags"), "lock_owner" / _U64, *_u32("flags padding")),
    "write_in": Struct(*_u64("fh offset"), *_u32("size write_flags"), "lock_owner" / _U64, *_u32("flags padding")),
    "fsync_in": Struct("fh" / _U64, *_u32("fsync_flags padding")),
    "setxattr_in": Struct(*_u32("size flags setxattr_flags padding")),
    "getxattr_in": Struct(*_u32("size padding")),
    "lk_in": Struct(*_u64("fh owner"), "lk" / _file_lock, *_u32("lk_flags padding")),
    "access_in": Struct(*_u32("mask padding")),
    "interrupt_in": Struct("unique" / _U64),
    "bmap_in": Struct("block" / _U64, *_u32("blocksize padding")),
    "ioctl_in": Struct("fh" / _U64, *_u32("flags cmd"), "arg" / _U64, *_u32("in_size out_size")),
    "ioctl_iovec": Struct(*_u64("base len")),
    "poll_in": Struct(*_u64("fh kh"), *_u32("flags events")),
    "fallocate_in": Struct(*_u64("fh offset length"), *_u32("mode padding")),
    "lseek_in": Struct(*_u64("fh offset"), *_u32("whence padding")),
    "copy_file_range_in": Struct(*_u64("fh_in off_in nodeid_out fh_out off_out len flags")),
    "setupmapping_in": Struct(*_u64("fh foffset len flags moffset")),
    "removemapping_in": Struct("count" / _U32),
    "removemapping_one": Struct(*_u64("moffset len")),
    "syncfs_in": Struct("padding" / _U64),
    "statx_in": Struct(*_u32("getattr_flags reserved"), "fh" / _U64, *_u32("sx_flags sx_mask")),
    # replies
    "entry_out": _entry_out,
    "attr_out": Struct("attr_valid" / _U64, *_u32("attr_valid_nsec dummy"), "attr" / _attr),
    "open_out": Struct("fh" / _U64, "open_flags" / _U32, "backing_id" / _I32),
    "write_out": Struct(*_u32("size padding")),
    "statfs_out": Struct("st" / _kstatfs),
    "getxattr_out": Struct(*_u32("size padding")),
    "lk_out": Struct("lk" / _file_lock),
    "bmap_out": Struct("block" / _U64),
    "ioctl_out": Struct("result" / _I32, *_u32("flags in_iovs out_iovs")),
    "poll_out": Struct(*_u32("revents padding")),
    "lseek_out": Struct("offset" / _U64),
    "copy_file_range_out": Struct("bytes_copied" / _U64),
    "statx_out": Struct("attr_valid" / _U64, *_u32("attr_valid_nsec flags"), "spare" / Bytes(16), "stat" / _statx),
    "dirent": _dirent,
    "direntplus": Struct("entry_out" / _entry_out, "dirent" / _dirent),
    # notifications
    "notify_poll_wakeup_out": Struct("kh" / _U64),
    "notify_inval_inode_out": Struct("ino" / _U64, "off" / _I64, "len" / _I64),
    "notify_inval_entry_out": Struct("parent" / _U64, *_u32("namelen flags")),
    "notify_delete_out": Struct(*_u64("parent child"), *_u32("namelen padding")),
    "notify_store_out": Struct(*_u64("nodeid offset"), *_u32("size padding")),
    "notify_retrieve_out": Struct(*_u64("notify_unique nodeid offset"), *_u32("size padding")),
    "notify_retrieve_in": Struct(*_u64("dummy1 offset"), *_u32("size dummy2"), *_u64("dummy3 dummy4")),
    "notify_prune_out": Struct(*_u32("count padding"), "spare" / _U64),
    # extensions of a request
    "secctx_header": Struct(*_u32("size nr_secctx")),
    "secctx": Struct(*_u32("size padding")),
    "ext_header": Struct(*_u32("size type")),
    "supp_groups": Struct("nr_groups" / _U32),
    # device ioctls and io_uring
    "backing_map": Struct("fd" / _I32, "flags" / _U32, "padding" / _U64),
    "uring_ent_in_out": _uring_ent_in_out,
    "uring_req_header": Struct("in_out" / Bytes(128), "op_in" / Bytes(128), "ring_ent_in_out" / _uring_ent_in_out),
    "uring_cmd_req": Struct(*_u64("flags commit_id"), "qid" / _U16, "padding" / Bytes(6)),
}


def twin(struct: Any, order: str) -> Any:
    """The same Struct with every integer in byte order ``order`` (``"<"`` or ``">"``), for other machines' captures."""

    def turn(con: Any) -> Any:
        if isinstance(con, Renamed):
            return Renamed(turn(con.subcon), newname=con.name)
        if isinstance(con, FormatField):
            return FormatField(order, con.fmtstr[1])
        if isinstance(con, Struct):
            return Struct(*map(turn, con.subcons))
        return con

    return turn(struct)
