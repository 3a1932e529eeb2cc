"""The examples of libfuse 3, as Debian ships them, but for /dev/cuse: what each is an example of is seen to work."""

import fcntl
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import workload
from tests.clients.harness import EXAMPLES, Case, client
from tests.kernel.conftest import eventually
from wire import codec
from wire.opcodes import Opcode

HIGH, LOW = "libfuse 3.14, paths", "libfuse 3.14, low level"
EVERY = ("auto", "socket", "device", "direct")


def example(
    name: str, api: str, title: str = "", **more: object
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test that runs an example of libfuse3-dev."""
    return client(title or name, "libfuse3-dev", api=api, needs=EXAMPLES / name, **more)  # type: ignore[arg-type]


@example("hello", HIGH, endpoints=EVERY, eof=8)
def test_hello(case: Case) -> None:
    program = case.start(EXAMPLES / "hello", "-f", case.target)
    workload.reads(case.target, {"hello": b"Hello World!\n"})
    case.unmounted(program)


@example("hello", HIGH, "hello, a daemon")
def test_hello_as_a_daemon(case: Case) -> None:
    program = case.start(EXAMPLES / "hello", case.target)
    workload.reads(case.target, {"hello": b"Hello World!\n"})
    case.unmounted(program)


@example("hello_ll", LOW)
def test_hello_ll(case: Case) -> None:
    program = case.start(EXAMPLES / "hello_ll", "-f", case.target)
    workload.reads(case.target, {"hello": b"Hello World!\n"})
    case.unmounted(program)


@example("hello", HIGH, "hello, ended by SIGTERM")
def test_a_signal_ends_an_example_and_its_mount(case: Case) -> None:
    program = case.start(EXAMPLES / "hello", "-f", case.target)
    workload.reads(case.target, {"hello": b"Hello World!\n"})
    case.record |= case.negotiated()
    program.terminate()
    case.ended(program, 8)


@pytest.mark.parametrize("name", [pytest.param(name, marks=()) for name in ("passthrough", "passthrough_fh")])
@example("passthrough", HIGH)
def test_passthrough_shows_the_whole_tree(case: Case, name: str) -> None:
    case.record["program"] = name
    source = case.directory("source")
    program = case.start(EXAMPLES / name, "-f", case.target)
    inside = case.target / str(source).lstrip("/")
    workload.tree(inside)
    workload.big_file(inside / "big")
    (inside / "through").write_bytes(b"the mount")
    assert (source / "through").read_bytes() == b"the mount"
    case.unmounted(program)


def everything_that_passthrough_ll_can(case: Case, source: Path) -> None:
    """Data, names, xattrs, and flock of two openings."""
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    file = case.target / "file"
    file.write_bytes(b"data")
    assert (source / "file").read_bytes() == b"data"
    os.setxattr(file, "user.test", b"value")
    assert os.getxattr(source / "file", "user.test") == b"value"
    assert os.listxattr(file) == ["user.test"]
    with open(file) as one, open(file) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


@example("passthrough_ll", LOW, endpoints=EVERY, eof=1)
def test_passthrough_ll(case: Case) -> None:
    source = case.directory("source")
    program = case.start(
        EXAMPLES / "passthrough_ll", "-f", "-o", f"source={source},cache=auto,flock,xattr", case.target
    )
    everything_that_passthrough_ll_can(case, source)
    case.unmounted(program)


@example("passthrough_ll", LOW, "passthrough_ll, writeback")
def test_passthrough_ll_with_the_page_cache_written_back(case: Case) -> None:
    source = case.directory("source")
    options = f"source={source},cache=always,writeback,flock,xattr"
    program = case.start(EXAMPLES / "passthrough_ll", "-f", "-o", options, case.target)
    everything_that_passthrough_ll_can(case, source)
    case.unmount()
    if case.daemon is not None:
        assert "WRITEBACK_CACHE" in case.record["flags"]
    case.ended(program)


@example("passthrough_ll", LOW, "passthrough_ll, clone_fd", endpoints=("auto", "device", "direct"))
def test_passthrough_ll_with_a_device_for_each_thread(case: Case) -> None:
    source = case.directory("source")
    options = f"source={source},cache=never,flock,xattr,clone_fd"
    program = case.start(EXAMPLES / "passthrough_ll", "-f", "-o", options, case.target)
    content = {f"file{number}": workload.noise(1 << 20, number) for number in range(4)}
    for name, data in content.items():
        (source / name).write_bytes(data)
    threads = [threading.Thread(target=workload.reads, args=(case.target, {name: content[name]})) for name in content]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    everything_that_passthrough_ll_can(case, source)
    case.unmounted(program)


@example("null", HIGH)
def test_null_is_mounted_on_a_file(case: Case) -> None:
    file = case.file("null")
    program = case.start(EXAMPLES / "null", "-f", file, target=file)
    with open(file, "r+b", buffering=0) as opened:
        assert opened.read(4) == bytes(4)
        assert opened.write(b"gone") == 4
    assert stat.S_ISREG(file.stat().st_mode)
    case.unmounted(program, target=file)


@example("ioctl", HIGH)
def test_ioctl_reaches_the_filesystem_and_its_answer_the_caller(case: Case) -> None:
    program = case.start(EXAMPLES / "ioctl", "-f", case.target)
    sized = (EXAMPLES / "ioctl_client", case.target / "fioc")
    assert case.call(*sized) == "0\n"
    case.call(*sized, 4096)
    assert case.call(*sized) == "4096\n"
    eventually(lambda: (case.target / "fioc").read_bytes() == bytes(4096), "the kernel asks for the size again")
    case.unmounted(program)


@example("poll", HIGH)
def test_poll_wakes_who_waits_for_a_file(case: Case) -> None:
    program = case.start(EXAMPLES / "poll", "-f", case.target)
    files = {os.open(case.target / f"{number:X}", os.O_RDONLY): number for number in range(16)}
    waiting = select.poll()
    for each in files:
        waiting.register(each, select.POLLIN)
    woken = set()
    for _ in range(4):
        for each, events in waiting.poll(5000):
            assert events & select.POLLIN
            assert os.read(each, 4096)
            woken.add(files[each])
    for each in files:
        os.close(each)
    assert woken
    case.unmount()
    if case.daemon is not None:
        assert case.record["notifications"]
    case.ended(program)


@example("poll", HIGH, "poll, with its client")
def test_poll_tells_its_own_client(case: Case) -> None:
    program = case.start(EXAMPLES / "poll", "-f", case.target)
    rows = case.call(EXAMPLES / "poll_client", cwd=case.target).splitlines()
    assert len(rows) == 16
    assert all(any(not cell.startswith("_") for cell in row.split()) for row in rows)
    case.unmounted(program)


@pytest.mark.parametrize("name", ["notify_inval_inode", "invalidate_path"])
@example("notify_inval_inode", LOW)
def test_content_that_the_kernel_may_keep_for_ever_is_read_anew_when_it_changes(case: Case, name: str) -> None:
    if name == "invalidate_path":
        case.record |= {"program": name, "api": HIGH}
    program = case.start(EXAMPLES / name, "-f", "--update-interval=1", case.target)
    file = case.target / "current_time"
    before = file.read_bytes()
    assert b"time" in before
    eventually(lambda: file.read_bytes() != before, "new content is seen")
    case.unmount()
    if case.daemon is not None:
        assert case.record["notifications"]
    case.ended(program)


@example("notify_store_retrieve", LOW)
def test_content_stored_in_the_page_cache_is_read_and_given_back(case: Case) -> None:
    program = case.start(EXAMPLES / "notify_store_retrieve", "-f", "--update-interval=1", case.target)
    file = case.target / "current_time"
    before = file.read_bytes()
    eventually(lambda: file.read_bytes() != before, "new content is seen")
    case.unmount()
    if case.daemon is not None:
        assert case.record["notifications"]
        assert case.record["requests"]["NOTIFY_REPLY"]
    case.ended(program)


@pytest.mark.parametrize("options", [(), ("--only-expire",)], ids=["inval", "expire"])
@example("notify_inval_entry", LOW)
def test_a_name_that_is_gone_is_forgotten_before_its_time(case: Case, options: tuple[str, ...]) -> None:
    case.record["program"] = " ".join(("notify_inval_entry", *options))
    program = case.start(
        EXAMPLES / "notify_inval_entry", "-f", "--update-interval=1", "--timeout=600", *options, case.target
    )

    def known() -> Path | None:
        (name,) = os.listdir(case.target)
        return case.target / name if (case.target / name).exists() else None

    name = eventually(known, "a name is found")
    eventually(lambda: not name.exists(), "the name is not found any more")
    case.unmount()
    if case.daemon is not None:
        assert case.record["notifications"]
    case.ended(program)


@example("printcap", LOW)
def test_printcap_sees_what_it_is_offered_and_unmounts_again(case: Case) -> None:
    program = case.start(EXAMPLES / "printcap", mounted=False)
    case.ended(program)
    said = case.log()
    assert "Protocol version: 7." in said
    assert "FUSE_CAP_ASYNC_READ" in said
    assert "fuse_printcap" not in Path("/proc/self/mounts").read_text()


@example("hello_ll_uds", LOW)
def test_an_example_that_wants_no_device_is_left_alone(case: Case) -> None:
    address = Path("/tmp/libfuse-hello-ll.sock")
    program = case.start(EXAMPLES / "hello_ll_uds", mounted=False)
    eventually(address.exists, "it listens")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        eventually(lambda: connection.connect_ex(str(address)) == 0, "it accepts a connection")

        def asked(opcode: Opcode, body: bytes, nodeid: int = 0) -> bytes:
            connection.sendall(codec.in_header.pack(40 + len(body), opcode, 2, nodeid, 0, 0, 0, 0, 0) + body)
            head = codec.out_header.unpack_from(connection.recv(16, socket.MSG_WAITALL))
            assert not head.error
            return connection.recv(head.len - 16, socket.MSG_WAITALL)

        init = codec.init_in.build(codec.init_in.make(major=7, minor=31, max_readahead=4096))
        assert codec.init_out.unpack_from(asked(Opcode.INIT, init)).major == 7
        assert codec.entry_out.unpack_from(asked(Opcode.LOOKUP, b"hello\0", 1)).nodeid == 2
        read = codec.read_in.build(codec.read_in.make(size=4096))
        assert asked(Opcode.READ, read, 2) == b"Hello World!\n"
    case.ended(program, 1)  # an end of file is an error to libfuse
    address.unlink()
