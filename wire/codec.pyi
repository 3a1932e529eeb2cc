# Written by `python -m wire.stubgen > wire/codec.pyi`; edit structs.py instead.
# ruff: noqa
# fmt: off
"""The typed face of the derived codecs: one NamedTuple and one codec a struct of fuse.h."""

from typing import Any, NamedTuple

from wire.derive import Codec as Codec

InHeader = NamedTuple("InHeader", [
    ("len", int), ("opcode", int), ("unique", int), ("nodeid", int), ("uid", int), ("gid", int), ("pid", int),
    ("total_extlen", int), ("padding", int),
])
OutHeader = NamedTuple("OutHeader", [("len", int), ("error", int), ("unique", int)])
Attr = NamedTuple("Attr", [
    ("ino", int), ("size", int), ("blocks", int), ("atime", int), ("mtime", int), ("ctime", int),
    ("atimensec", int), ("mtimensec", int), ("ctimensec", int), ("mode", int), ("nlink", int), ("uid", int),
    ("gid", int), ("rdev", int), ("blksize", int), ("flags", int),
])
Kstatfs = NamedTuple("Kstatfs", [
    ("blocks", int), ("bfree", int), ("bavail", int), ("files", int), ("ffree", int), ("bsize", int),
    ("namelen", int), ("frsize", int), ("padding", int), ("spare", bytes),
])
FileLock = NamedTuple("FileLock", [("start", int), ("end", int), ("type", int), ("pid", int)])
SxTime = NamedTuple("SxTime", [("tv_sec", int), ("tv_nsec", int), ("reserved", int)])
Statx = NamedTuple("Statx", [
    ("mask", int), ("blksize", int), ("attributes", int), ("nlink", int), ("uid", int), ("gid", int), ("mode", int),
    ("spare0", int), ("ino", int), ("size", int), ("blocks", int), ("attributes_mask", int), ("atime", SxTime),
    ("btime", SxTime), ("ctime", SxTime), ("mtime", SxTime), ("rdev_major", int), ("rdev_minor", int),
    ("dev_major", int), ("dev_minor", int), ("spare2", bytes),
])
InitIn = NamedTuple("InitIn", [
    ("major", int), ("minor", int), ("max_readahead", int), ("flags", int), ("flags2", int), ("unused", bytes),
])
InitOut = NamedTuple("InitOut", [
    ("major", int), ("minor", int), ("max_readahead", int), ("flags", int), ("max_background", int),
    ("congestion_threshold", int), ("max_write", int), ("time_gran", int), ("max_pages", int),
    ("map_alignment", int), ("flags2", int), ("max_stack_depth", int), ("request_timeout", int), ("unused", bytes),
])
CuseInitIn = NamedTuple("CuseInitIn", [("major", int), ("minor", int), ("unused", int), ("flags", int)])
CuseInitOut = NamedTuple("CuseInitOut", [
    ("major", int), ("minor", int), ("unused", int), ("flags", int), ("max_read", int), ("max_write", int),
    ("dev_major", int), ("dev_minor", int), ("spare", bytes),
])
ForgetIn = NamedTuple("ForgetIn", [("nlookup", int)])
ForgetOne = NamedTuple("ForgetOne", [("nodeid", int), ("nlookup", int)])
BatchForgetIn = NamedTuple("BatchForgetIn", [("count", int), ("dummy", int)])
GetattrIn = NamedTuple("GetattrIn", [("getattr_flags", int), ("dummy", int), ("fh", int)])
SetattrIn = NamedTuple("SetattrIn", [
    ("valid", int), ("padding", int), ("fh", int), ("size", int), ("lock_owner", int), ("atime", int),
    ("mtime", int), ("ctime", int), ("atimensec", int), ("mtimensec", int), ("ctimensec", int), ("mode", int),
    ("unused4", int), ("uid", int), ("gid", int), ("unused5", int),
])
MknodIn = NamedTuple("MknodIn", [("mode", int), ("rdev", int), ("umask", int), ("padding", int)])
MkdirIn = NamedTuple("MkdirIn", [("mode", int), ("umask", int)])
RenameIn = NamedTuple("RenameIn", [("newdir", int)])
Rename2In = NamedTuple("Rename2In", [("newdir", int), ("flags", int), ("padding", int)])
LinkIn = NamedTuple("LinkIn", [("oldnodeid", int)])
OpenIn = NamedTuple("OpenIn", [("flags", int), ("open_flags", int)])
CreateIn = NamedTuple("CreateIn", [("flags", int), ("mode", int), ("umask", int), ("open_flags", int)])
ReleaseIn = NamedTuple("ReleaseIn", [("fh", int), ("flags", int), ("release_flags", int), ("lock_owner", int)])
FlushIn = NamedTuple("FlushIn", [("fh", int), ("unused", int), ("padding", int), ("lock_owner", int)])
ReadIn = NamedTuple("ReadIn", [
    ("fh", int), ("offset", int), ("size", int), ("read_flags", int), ("lock_owner", int), ("flags", int),
    ("padding", int),
])
WriteIn = NamedTuple("WriteIn", [
    ("fh", int), ("offset", int), ("size", int), ("write_flags", int), ("lock_owner", int), ("flags", int),
    ("padding", int),
])
FsyncIn = NamedTuple("FsyncIn", [("fh", int), ("fsync_flags", int), ("padding", int)])
SetxattrIn = NamedTuple("SetxattrIn", [("size", int), ("flags", int), ("setxattr_flags", int), ("padding", int)])
GetxattrIn = NamedTuple("GetxattrIn", [("size", int), ("padding", int)])
LkIn = NamedTuple("LkIn", [("fh", int), ("owner", int), ("lk", FileLock), ("lk_flags", int), ("padding", int)])
AccessIn = NamedTuple("AccessIn", [("mask", int), ("padding", int)])
InterruptIn = NamedTuple("InterruptIn", [("unique", int)])
BmapIn = NamedTuple("BmapIn", [("block", int), ("blocksize", int), ("padding", int)])
IoctlIn = NamedTuple("IoctlIn", [
    ("fh", int), ("flags", int), ("cmd", int), ("arg", int), ("in_size", int), ("out_size", int),
])
IoctlIovec = NamedTuple("IoctlIovec", [("base", int), ("len", int)])
PollIn = NamedTuple("PollIn", [("fh", int), ("kh", int), ("flags", int), ("events", int)])
FallocateIn = NamedTuple("FallocateIn", [
    ("fh", int), ("offset", int), ("length", int), ("mode", int), ("padding", int),
])
LseekIn = NamedTuple("LseekIn", [("fh", int), ("offset", int), ("whence", int), ("padding", int)])
CopyFileRangeIn = NamedTuple("CopyFileRangeIn", [
    ("fh_in", int), ("off_in", int), ("nodeid_out", int), ("fh_out", int), ("off_out", int), ("len", int),
    ("flags", int),
])
SetupmappingIn = NamedTuple("SetupmappingIn", [
    ("fh", int), ("foffset", int), ("len", int), ("flags", int), ("moffset", int),
])
RemovemappingIn = NamedTuple("RemovemappingIn", [("count", int)])
RemovemappingOne = NamedTuple("RemovemappingOne", [("moffset", int), ("len", int)])
SyncfsIn = NamedTuple("SyncfsIn", [("padding", int)])
StatxIn = NamedTuple("StatxIn", [
    ("getattr_flags", int), ("reserved", int), ("fh", int), ("sx_flags", int), ("sx_mask", int),
])
EntryOut = NamedTuple("EntryOut", [
    ("nodeid", int), ("generation", int), ("entry_valid", int), ("attr_valid", int), ("entry_valid_nsec", int),
    ("attr_valid_nsec", int), ("attr", Attr),
])
AttrOut = NamedTuple("AttrOut", [("attr_valid", int), ("attr_valid_nsec", int), ("dummy", int), ("attr", Attr)])
OpenOut = NamedTuple("OpenOut", [("fh", int), ("open_flags", int), ("backing_id", int)])
WriteOut = NamedTuple("WriteOut", [("size", int), ("padding", int)])
StatfsOut = NamedTuple("StatfsOut", [("st", Kstatfs)])
GetxattrOut = NamedTuple("GetxattrOut", [("size", int), ("padding", int)])
LkOut = NamedTuple("LkOut", [("lk", FileLock)])
BmapOut = NamedTuple("BmapOut", [("block", int)])
IoctlOut = NamedTuple("IoctlOut", [("result", int), ("flags", int), ("in_iovs", int), ("out_iovs", int)])
PollOut = NamedTuple("PollOut", [("revents", int), ("padding", int)])
LseekOut = NamedTuple("LseekOut", [("offset", int)])
CopyFileRangeOut = NamedTuple("CopyFileRangeOut", [("bytes_copied", int)])
StatxOut = NamedTuple("StatxOut", [
    ("attr_valid", int), ("attr_valid_nsec", int), ("flags", int), ("spare", bytes), ("stat", Statx),
])
Dirent = NamedTuple("Dirent", [("ino", int), ("off", int), ("namelen", int), ("type", int)])
Direntplus = NamedTuple("Direntplus", [("entry_out", EntryOut), ("dirent", Dirent)])
NotifyPollWakeupOut = NamedTuple("NotifyPollWakeupOut", [("kh", int)])
NotifyInvalInodeOut = NamedTuple("NotifyInvalInodeOut", [("ino", int), ("off", int), ("len", int)])
NotifyInvalEntryOut = NamedTuple("NotifyInvalEntryOut", [("parent", int), ("namelen", int), ("flags", int)])
NotifyDeleteOut = NamedTuple("NotifyDeleteOut", [("parent", int), ("child", int), ("namelen", int), ("padding", int)])
NotifyStoreOut = NamedTuple("NotifyStoreOut", [("nodeid", int), ("offset", int), ("size", int), ("padding", int)])
NotifyRetrieveOut = NamedTuple("NotifyRetrieveOut", [
    ("notify_unique", int), ("nodeid", int), ("offset", int), ("size", int), ("padding", int),
])
NotifyRetrieveIn = NamedTuple("NotifyRetrieveIn", [
    ("dummy1", int), ("offset", int), ("size", int), ("dummy2", int), ("dummy3", int), ("dummy4", int),
])
NotifyPruneOut = NamedTuple("NotifyPruneOut", [("count", int), ("padding", int), ("spare", int)])
SecctxHeader = NamedTuple("SecctxHeader", [("size", int), ("nr_secctx", int)])
Secctx = NamedTuple("Secctx", [("size", int), ("padding", int)])
ExtHeader = NamedTuple("ExtHeader", [("size", int), ("type", int)])
SuppGroups = NamedTuple("SuppGroups", [("nr_groups", int)])
BackingMap = NamedTuple("BackingMap", [("fd", int), ("flags", int), ("padding", int)])
UringEntInOut = NamedTuple("UringEntInOut", [
    ("flags", int), ("commit_id", int), ("payload_sz", int), ("padding", int), ("reserved", int),
])
UringReqHeader = NamedTuple("UringReqHeader", [("in_out", bytes), ("op_in", bytes), ("ring_ent_in_out", UringEntInOut)])
UringCmdReq = NamedTuple("UringCmdReq", [("flags", int), ("commit_id", int), ("qid", int), ("padding", bytes)])

in_header: Codec[InHeader]
out_header: Codec[OutHeader]
attr: Codec[Attr]
kstatfs: Codec[Kstatfs]
file_lock: Codec[FileLock]
sx_time: Codec[SxTime]
statx: Codec[Statx]
init_in: Codec[InitIn]
init_out: Codec[InitOut]
cuse_init_in: Codec[CuseInitIn]
cuse_init_out: Codec[CuseInitOut]
forget_in: Codec[ForgetIn]
forget_one: Codec[ForgetOne]
batch_forget_in: Codec[BatchForgetIn]
getattr_in: Codec[GetattrIn]
setattr_in: Codec[SetattrIn]
mknod_in: Codec[MknodIn]
mkdir_in: Codec[MkdirIn]
rename_in: Codec[RenameIn]
rename2_in: Codec[Rename2In]
link_in: Codec[LinkIn]
open_in: Codec[OpenIn]
create_in: Codec[CreateIn]
release_in: Codec[ReleaseIn]
flush_in: Codec[FlushIn]
read_in: Codec[ReadIn]
write_in: Codec[WriteIn]
fsync_in: Codec[FsyncIn]
setxattr_in: Codec[SetxattrIn]
getxattr_in: Codec[GetxattrIn]
lk_in: Codec[LkIn]
access_in: Codec[AccessIn]
interrupt_in: Codec[InterruptIn]
bmap_in: Codec[BmapIn]
ioctl_in: Codec[IoctlIn]
ioctl_iovec: Codec[IoctlIovec]
poll_in: Codec[PollIn]
fallocate_in: Codec[FallocateIn]
lseek_in: Codec[LseekIn]
copy_file_range_in: Codec[CopyFileRangeIn]
setupmapping_in: Codec[SetupmappingIn]
removemapping_in: Codec[RemovemappingIn]
removemapping_one: Codec[RemovemappingOne]
syncfs_in: Codec[SyncfsIn]
statx_in: Codec[StatxIn]
entry_out: Codec[EntryOut]
attr_out: Codec[AttrOut]
open_out: Codec[OpenOut]
write_out: Codec[WriteOut]
statfs_out: Codec[StatfsOut]
getxattr_out: Codec[GetxattrOut]
lk_out: Codec[LkOut]
bmap_out: Codec[BmapOut]
ioctl_out: Codec[IoctlOut]
poll_out: Codec[PollOut]
lseek_out: Codec[LseekOut]
copy_file_range_out: Codec[CopyFileRangeOut]
statx_out: Codec[StatxOut]
dirent: Codec[Dirent]
direntplus: Codec[Direntplus]
notify_poll_wakeup_out: Codec[NotifyPollWakeupOut]
notify_inval_inode_out: Codec[NotifyInvalInodeOut]
notify_inval_entry_out: Codec[NotifyInvalEntryOut]
notify_delete_out: Codec[NotifyDeleteOut]
notify_store_out: Codec[NotifyStoreOut]
notify_retrieve_out: Codec[NotifyRetrieveOut]
notify_retrieve_in: Codec[NotifyRetrieveIn]
notify_prune_out: Codec[NotifyPruneOut]
secctx_header: Codec[SecctxHeader]
secctx: Codec[Secctx]
ext_header: Codec[ExtHeader]
supp_groups: Codec[SuppGroups]
backing_map: Codec[BackingMap]
uring_ent_in_out: Codec[UringEntInOut]
uring_req_header: Codec[UringReqHeader]
uring_cmd_req: Codec[UringCmdReq]

CODECS: dict[str, Codec[Any]]

class Family:
    CODECS: dict[str, Codec[Any]]
    in_header: Codec[InHeader]
    out_header: Codec[OutHeader]
    attr: Codec[Attr]
    kstatfs: Codec[Kstatfs]
    file_lock: Codec[FileLock]
    sx_time: Codec[SxTime]
    statx: Codec[Statx]
    init_in: Codec[InitIn]
    init_out: Codec[InitOut]
    cuse_init_in: Codec[CuseInitIn]
    cuse_init_out: Codec[CuseInitOut]
    forget_in: Codec[ForgetIn]
    forget_one: Codec[ForgetOne]
    batch_forget_in: Codec[BatchForgetIn]
    getattr_in: Codec[GetattrIn]
    setattr_in: Codec[SetattrIn]
    mknod_in: Codec[MknodIn]
    mkdir_in: Codec[MkdirIn]
    rename_in: Codec[RenameIn]
    rename2_in: Codec[Rename2In]
    link_in: Codec[LinkIn]
    open_in: Codec[OpenIn]
    create_in: Codec[CreateIn]
    release_in: Codec[ReleaseIn]
    flush_in: Codec[FlushIn]
    read_in: Codec[ReadIn]
    write_in: Codec[WriteIn]
    fsync_in: Codec[FsyncIn]
    setxattr_in: Codec[SetxattrIn]
    getxattr_in: Codec[GetxattrIn]
    lk_in: Codec[LkIn]
    access_in: Codec[AccessIn]
    interrupt_in: Codec[InterruptIn]
    bmap_in: Codec[BmapIn]
    ioctl_in: Codec[IoctlIn]
    ioctl_iovec: Codec[IoctlIovec]
    poll_in: Codec[PollIn]
    fallocate_in: Codec[FallocateIn]
    lseek_in: Codec[LseekIn]
    copy_file_range_in: Codec[CopyFileRangeIn]
    setupmapping_in: Codec[SetupmappingIn]
    removemapping_in: Codec[RemovemappingIn]
    removemapping_one: Codec[RemovemappingOne]
    syncfs_in: Codec[SyncfsIn]
    statx_in: Codec[StatxIn]
    entry_out: Codec[EntryOut]
    attr_out: Codec[AttrOut]
    open_out: Codec[OpenOut]
    write_out: Codec[WriteOut]
    statfs_out: Codec[StatfsOut]
    getxattr_out: Codec[GetxattrOut]
    lk_out: Codec[LkOut]
    bmap_out: Codec[BmapOut]
    ioctl_out: Codec[IoctlOut]
    poll_out: Codec[PollOut]
    lseek_out: Codec[LseekOut]
    copy_file_range_out: Codec[CopyFileRangeOut]
    statx_out: Codec[StatxOut]
    dirent: Codec[Dirent]
    direntplus: Codec[Direntplus]
    notify_poll_wakeup_out: Codec[NotifyPollWakeupOut]
    notify_inval_inode_out: Codec[NotifyInvalInodeOut]
    notify_inval_entry_out: Codec[NotifyInvalEntryOut]
    notify_delete_out: Codec[NotifyDeleteOut]
    notify_store_out: Codec[NotifyStoreOut]
    notify_retrieve_out: Codec[NotifyRetrieveOut]
    notify_retrieve_in: Codec[NotifyRetrieveIn]
    notify_prune_out: Codec[NotifyPruneOut]
    secctx_header: Codec[SecctxHeader]
    secctx: Codec[Secctx]
    ext_header: Codec[ExtHeader]
    supp_groups: Codec[SuppGroups]
    backing_map: Codec[BackingMap]
    uring_ent_in_out: Codec[UringEntInOut]
    uring_req_header: Codec[UringReqHeader]
    uring_cmd_req: Codec[UringCmdReq]

def order(order: str) -> Family: ...
