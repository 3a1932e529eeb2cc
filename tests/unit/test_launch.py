"""The parts of perfusectl exec that need no kernel of ours: the filter, the structs, a thread's memory, the choice."""

import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from cffi import FFI

from libperfuse.launch import filter as stopping
from libperfuse.launch import notify, tracee
from libperfuse.launch.choose import READS_WHILE_MOUNTING, choose
from wire import ioctls
from wire.control import Endpoint

HEADER = Path("/usr/include/linux/seccomp.h")


def verdict(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """What the instructions of a filter return for a call: an interpreter of classic BPF, as far as filters use it."""
    padded = (*args, *[0] * (6 - len(args)))
    data = struct.pack("=iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    at, register = 0, 0
    while True:
        opcode, yes, no, k = code[at]
        at += 1
        if opcode == 0x20:
            (register,) = struct.unpack_from("=I", data, k)
        elif opcode == 0x54:
            register &= k
        elif opcode == 0x15:
            at += yes if register == k else no
        elif opcode == 0x06:
            return int(k)
        else:
            pytest.fail(f"opcode {opcode:#x} is not among those of filters")


def everything() -> Iterator[tuple[str, stopping.Machine, str, int]]:
    for name, machines in stopping.MACHINES.items():
        for machine in machines:
            for call, number in machine.numbers.items():
                yield name, machine, call, number


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("name", "machine", "call", "number"), list(everything()))
def test_a_call_is_stopped_if_it_may_be_about_a_device(
    name: str, machine: stopping.Machine, call: str, number: int, whole: bool
) -> None:
    program = stopping.program(name, whole, x32=True)
    if call in ("open", "openat"):
        place = 1 if call == "open" else 2
        for flags in range(1 << 12):
            given = [0, 0, 0]
            given[place] = flags | 1 << 31 | 0xFFFF_FFFF << 32
            wanted = stopping.STOP if flags & 0o3 == 2 and not flags & (0o100 | 0o1000 | 0o2000) else stopping.ALLOW
            assert verdict(program, machine.arch, number, tuple(given)) == wanted
    elif call == "ioctl":
        for command in ioctls.NAMES:
            assert verdict(program, machine.arch, number, (3, command)) == stopping.STOP
            assert verdict(program, machine.arch, number, (3, command ^ 1 << 16)) == stopping.ALLOW
        assert verdict(program, machine.arch, number, (3, 0x5401)) == stopping.ALLOW
    elif call == "vmsplice":
        assert verdict(program, machine.arch, number) == (stopping.ERRNO | 22 if whole else stopping.ALLOW)
    else:
        assert verdict(program, machine.arch, number) == stopping.STOP


@pytest.mark.parametrize("name", list(stopping.MACHINES))
def test_a_number_is_that_of_its_own_convention(name: str) -> None:
    program = stopping.program(name, True, x32=True)
    opening = (0, 2, 2)
    for machine in stopping.MACHINES[name]:
        own = {
            number for each in stopping.MACHINES[name] if each.arch == machine.arch for number in each.numbers.values()
        }
        for number in [*range(600), *(0x4000_0000 | each for each in range(600))]:
            if number not in own:
                assert verdict(program, machine.arch, number, opening) == stopping.ALLOW
    assert verdict(program, 0x1234_5678, 2, opening) == stopping.ALLOW


def test_calls_of_x32_are_left_to_a_kernel_that_has_none() -> None:
    program = stopping.program("x86_64", False)
    assert verdict(program, stopping.X86_64.arch, stopping.X32.numbers["open"], (0, 2)) == stopping.ALLOW


@pytest.mark.parametrize("name", list(stopping.MACHINES))
def test_a_filter_is_one_that_the_kernel_takes(name: str) -> None:
    program = stopping.program(name, True, x32=True)
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096
    code = list(struct.iter_unpack("=HBBI", program))
    assert all(at + 1 + max(yes, no) < len(code) for at, (opcode, yes, no, _) in enumerate(code) if opcode == 0x15)
    assert code[-1][0] == 0x06


@pytest.mark.skipif(not HEADER.exists(), reason="no linux/seccomp.h here")
@pytest.mark.parametrize(
    ("struct_name", "made"),
    [("seccomp_notif_resp", notify._RESP), ("seccomp_notif_addfd", notify._ADDFD), ("seccomp_notif", notify._NOTIF)],
)
def test_structs_are_as_long_as_the_headers(struct_name: str, made: struct.Struct) -> None:
    sizes = {"__u64": 8, "__s64": 8, "__u32": 4, "__s32": 4, "int": 4, "struct seccomp_data": 64}
    (body,) = re.findall(rf"struct {struct_name} \{{(.*?)\}};", HEADER.read_text(), re.DOTALL)
    fields = re.findall(r"^\s*(struct seccomp_data|\w+) \w+;", re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL), re.M)
    assert sum(sizes[each] for each in fields) == made.size


ffi = FFI()
ffi.cdef("int mprotect(void *at, size_t length, int protection);")
libc = ffi.dlopen(None)


def address(place: "FFI.CData") -> int:
    """Where something of cffi's is."""
    return int(ffi.cast("uintptr_t", place))


def put(at: int, data: bytes) -> None:
    """Write bytes there."""
    ffi.memmove(ffi.cast("char *", at), data, len(data))


@pytest.fixture
def two_pages() -> Iterator[int]:
    """The address of a page of mine after which there is nothing."""
    room = mmap.mmap(-1, 2 * tracee.PAGE)
    view = ffi.from_buffer(room)
    second = view + tracee.PAGE
    assert libc.mprotect(second, tracee.PAGE, 0) == 0
    yield address(view)
    assert libc.mprotect(second, tracee.PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    del view, second
    room.close()


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 129, 4000, 4095])
def test_a_string_is_read_up_to_where_memory_ends(two_pages: int, length: int) -> None:
    at = two_pages + tracee.PAGE - length - 1
    put(at, b"x" * length + b"\0")
    assert tracee.text(os.getpid(), at) == b"x" * length


def test_a_string_that_runs_into_nothing_is_a_bad_address(two_pages: int) -> None:
    put(two_pages + tracee.PAGE - 10, b"x" * 10)
    with pytest.raises(OSError, match="Bad address"):
        tracee.text(os.getpid(), two_pages + tracee.PAGE - 10)
    with pytest.raises(OSError, match="Bad address"):
        tracee.page(os.getpid(), two_pages + tracee.PAGE)


def test_options_that_run_into_nothing_end_there(two_pages: int) -> None:
    put(two_pages + tracee.PAGE - 10, b"x" * 10)
    assert tracee.page(os.getpid(), two_pages + tracee.PAGE - 10) == b"x" * 10
    assert tracee.page(os.getpid(), 0) == b""


def test_a_string_over_two_pages_is_whole() -> None:
    room = ffi.new("char[]", 3 * tracee.PAGE)
    start = address(room)
    put(start, b"a" * 5000)
    assert tracee.text(os.getpid(), start + 1000) == b"a" * 4000
    # The longest path, as long as the kernel would read.
    assert len(tracee.text(os.getpid(), start)) >= tracee.PAGE
    assert tracee.page(os.getpid(), start) == b"a" * (tracee.PAGE - 1)
    assert tracee.text(os.getpid(), 0) == b""


def test_what_nothing_is_known_of_gets_a_device() -> None:
    assert choose(os.getpid(), "anything").endpoint is Endpoint.DEVICE


@pytest.mark.parametrize("name", sorted(READS_WHILE_MOUNTING))
def test_programs_that_read_while_they_mount_get_a_device(name: str) -> None:
    found = choose(os.getpid(), name)
    assert found.endpoint is Endpoint.DEVICE
    assert name in found.reason
