"""What a program under perfusectl exec does with /dev/fuse, mounts and their like, call by call.

Most tests have the same program make the same calls plain and under exec, and compare what they returned.
"""

from pathlib import Path

import pytest

from tests.kernel.conftest import fuse_mounts
from tests.kernel.launching import ENDPOINTS, Launcher, execs, launcher, options_for
from tests.kernel.ordinary import daemon_of_all

__all__ = ["daemon_of_all", "execs", "launcher"]

KINDS = {"socket": "socket", "device": "file", "direct": "device"}
MOUNTED = options_for()


def same(launcher: Launcher, *steps: str, endpoints: tuple[str, ...] = ENDPOINTS) -> list[str]:
    """What each step gives, which must be the same plain and under exec."""
    plain = launcher.steps("plain", *steps)
    for endpoint in endpoints:
        assert launcher.steps(endpoint, *steps) == plain, endpoint
    return plain


# -- opening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "opening",
    ["open /dev/fuse b", "open //dev//fuse b", "open /dev/../dev/./fuse b", "open /proc/self/root/dev/fuse b",
     "openat cwd /dev/fuse b", "openat 99 /dev/fuse b", "openat2 cwd /dev/fuse b", "open32 /dev/fuse b",
     "openat32 cwd /dev/fuse b"],
)  # fmt: skip
def test_the_device_is_perfuseds_whatever_call_opens_it(launcher: Launcher, endpoint: str, opening: str) -> None:
    name = opening.split()[0]
    assert launcher.steps(endpoint, opening, "kind @0") == [f"{name} 0", f"kind {KINDS[endpoint]}"]


@pytest.mark.parametrize("call", ["openat", "openat2", "openat32"])
def test_the_device_is_perfuseds_from_a_directory(launcher: Launcher, call: str) -> None:
    said = launcher.steps(
        "socket", "open /dev rd", f"{call} @0 fuse b", f"{call} @0 ../dev//fuse b", "kind @1", "kind @2"
    )
    assert said == ["open 0", f"{call} 0", f"{call} 0", "kind socket", "kind socket"]


def test_the_device_is_perfuseds_from_the_working_directory(launcher: Launcher) -> None:
    assert launcher.steps("socket", "chdir /dev", "open fuse b", "kind @0")[1:] == ["open 0", "kind socket"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("letters", ["b", "bc", "bn", "bcn"])
def test_flags_of_the_open_hold(launcher: Launcher, endpoint: str, letters: str) -> None:
    same(launcher, f"open /dev/fuse {letters}", "flags @0", endpoints=(endpoint,))


@pytest.mark.parametrize("letters", ["r", "w", "bp", "bd", "bx"])
def test_an_open_of_another_kind_is_the_kernels(launcher: Launcher, letters: str) -> None:
    same(launcher, f"open /dev/fuse {letters}", "kind @0")


def test_other_files_are_the_kernels(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "fuse").write_text("mine")
    (tmp_path / "other").write_text("mine")
    steps = [f"open {tmp_path}/fuse b", f"open {tmp_path}/other b", f"open {tmp_path}/none/fuse b", "open - b",
             "open ! b", "open ~ b", "open %4095 b", "open %5000 b", "openat 99 fuse b", f"open {tmp_path} b",
             "kind @0", "kind @1", f"openat2 cwd {tmp_path}/fuse b", "openat2 cwd /dev/fuse b 8"]  # fmt: skip
    assert "open EFAULT" in same(launcher, *steps)


def test_a_call_that_this_kernel_lacks_is_lacking(launcher: Launcher) -> None:
    """x32 is not built into every kernel."""
    plain = launcher.steps("plain", "openx32 /dev/fuse b")
    if plain == ["openx32 0"]:
        pytest.skip("this kernel has x32")
    assert launcher.steps("socket", "openx32 /dev/fuse b") == plain == ["openx32 ENOSYS"]


@pytest.mark.parametrize("number", [16, 165, 166, 257])
def test_numbers_of_x86_64_are_other_calls_in_a_32_bit_call(launcher: Launcher, number: int, tmp_path: Path) -> None:
    # 16 is ioctl on x86_64 and lchown on i386: it is done, so not to the machine's device.
    mine = tmp_path / "fuse"
    mine.touch()
    same(launcher, f"sys32 {number} {mine if number == 16 else '/dev/fuse'} 2 - - -", "kind @0")


@pytest.mark.parametrize("number", [5, 21, 22, 52, 54, 295])
def test_numbers_of_i386_are_other_calls_in_a_64_bit_call(launcher: Launcher, number: int) -> None:
    same(launcher, f"sys64 {number} /dev/fuse - - - -", "kind @0")


# -- mounting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("call", ["mount", "mount32"])
def test_a_mount_is_perfuseds(launcher: Launcher, target: Path, endpoint: str, call: str) -> None:
    program = launcher.serving(
        endpoint, "open /dev/fuse bc", f"{call} execs {target} fuse.execs 0 {MOUNTED}", "serve @0", "pause"
    )
    assert (target / "f").read_text() == "hello"
    (found,) = launcher.listed(target)
    assert (found["program"], found["endpoint"], found["fstype"]) == ("execs", endpoint, "fuse.execs")
    assert launcher.done(program, "x")[0] == 0


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("before", "path"),
    [((), "{target}/"), ((), "{target}/."), (("chdir {target}",), "."), (("chdir {target}",), "~"),
     (("chdir {target}/..",), "mnt"), (("chdir /tmp",), "{link}"), (("open {target} rd",), "/proc/self/fd/@1"),
     (("thread",), "{target}"), (("fork",), "{target}"), (("exec",), "{target}"), (("fork", "exec"), "{target}"),
     (("fork", "chdir {target}/.."), "mnt"), (("dup @0", "close @0"), "{target}")],
    ids=lambda each: " ".join(each).replace("{target}", "T").replace("/", "_") if each else None,
)  # fmt: skip
def test_a_mount_is_where_the_program_means_it(
    launcher: Launcher, target: Path, endpoint: str, before: tuple[str, ...], path: str
) -> None:
    link = target.parent / "link"
    link.symlink_to(target)
    words = {"target": target, "link": link}
    joined = "fork" in before or "thread" in before
    number = "@1" if "dup @0" in before else "@0"
    steps = ["open /dev/fuse b", *(each.format(**words) for each in before)]
    steps += [f"mount execs {path.format(**words)} fuse 0 {options_for(number)}", *(["join"] if joined else [])]
    plain = launcher.steps("plain", *steps, f"umount {target} 2")
    assert launcher.steps(endpoint, *steps, f"umount {target} 2") == plain
    if path != "~":
        assert plain[-1] == "umount 0"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_mount_in_a_namespace_of_the_programs_own_is_there(launcher: Launcher, target: Path, endpoint: str) -> None:
    program = launcher.serving(
        endpoint, "unshare 0x20000", "open /dev/fuse b", f"open {target} rd",
        f"mount execs /proc/self/fd/@1 fuse 0 {MOUNTED}", "serve @0", f"open {target}/f r", "read @2", "close @2",
        "pause", f"umount {target} 2", f"umount {target} 2",
    )  # fmt: skip
    assert program.said[3:] == ["mount 0\n", "serve 0\n", "open 0\n", "read 0\n", "close 0\n"]
    assert fuse_mounts(target) == []
    assert launcher.done(program, "x")[1].splitlines() == ["umount 0", "umount EINVAL"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("path", ["/mnt", "mnt", "../../../mnt", "link"])
def test_a_mount_in_a_chroot_is_in_it(launcher: Launcher, target: Path, endpoint: str, path: str) -> None:
    (target.parent / "link").symlink_to("/mnt")
    steps = ("open /dev/fuse b", f"chroot {target.parent}", "chdir /", f"mount execs {path} fuse 0 {MOUNTED}")
    program = launcher.serving(endpoint, *steps, "serve @0", "pause", "umount mnt 2", "umount mnt 2")
    assert program.said[3] == "mount 0\n"
    assert fuse_mounts(target) == [str(target)]
    assert launcher.done(program, "x")[1].splitlines() == ["umount 0", "umount EINVAL"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("descriptor", ["fsconfig @1 1 fd @0", "fsconfig @1 5 fd - @0"], ids=["string", "SET_FD"])
@pytest.mark.parametrize("path", ["{target}", "~"])
def test_the_newer_calls_mount_as_well(
    launcher: Launcher, target: Path, endpoint: str, descriptor: str, path: str
) -> None:
    names = {"rootmode": "40000", "user_id": "0", "group_id": "0", "source": "here", "subtype": "execs"}
    settings = (f"fsconfig @1 1 {key} {value}" for key, value in names.items())
    move = f"move_mount @2 ~ cwd {target} 4" if path != "~" else "move_mount @2 ~ @3 ~ 0x44"
    steps = (
        "open /dev/fuse b", "fsopen fuse 1", descriptor, *settings, "fsconfig @1 0 default_permissions",
        "fsconfig @1 6 - - 0", "flags @1", "fsmount @1 1 2", f"open {target} rd", move,
    )  # fmt: skip
    program = launcher.serving(
        endpoint, *steps, "serve @0", f"open {target}/f r", "read @4", "close @4", "pause", f"umount {target} 2"
    )
    assert not [line for line in program.said if not line.endswith((" 0\n", "flags cloexec rdwr\n"))]
    (found,) = launcher.listed(target)
    assert (found["source"], found["fstype"], found["endpoint"]) == ("here", "fuse.execs", endpoint)
    assert launcher.done(program, "x")[1] == "umount 0\n"


@pytest.mark.parametrize(
    "steps",
    [
        ("fsopen fuse 1", "fsconfig @0 6 - - 0"),
        ("fsopen fuse 1", "fsmount @0 0 0"),
        ("fsopen fuse 2",),
        ("fsopen fuse 1", "fsconfig @0 99 - - 0"),
        ("fsopen ! 0",),
        ("fsopen fuse 1", "fsconfig @0 1 ! x"),
        ("fsopen fuse 1", "fsconfig @0 1 fd 99", "fsconfig @0 6 - - 0"),
        ("fsconfig 99 6 - - 0",),
        ("fsmount 99 0 0",),
        ("move_mount 99 ~ cwd /tmp 4",),
    ],
)
def test_the_newer_calls_fail_as_they_do(launcher: Launcher, steps: tuple[str, ...]) -> None:
    same(launcher, *steps, endpoints=("socket",))


def test_other_filesystems_are_mounted_by_the_kernel(launcher: Launcher, target: Path) -> None:
    other = target.parent / "other"
    other.mkdir()
    same(
        launcher, "unshare 0x20000", f"mount tmp {target} tmpfs 0 size=64k", f"mount {target} {other} - 4096 -",
        f"mount - {other} - 4129 -", f"mount - {other} - 0x40000 -", f"umount {other} 0", f"umount {target} 2",
        f"umount {target} 0", f"mount - {target} fuse 32 fd=0", "fsopen tmpfs 0", "fsconfig @0 1 size 64k",
        "fsconfig @0 6 - - 0", "fsmount @0 0 0", f"move_mount @1 ~ cwd {target} 4", f"umount {target} 0",
        "umount /none 0", "umount ! 0", "umount - 0", endpoints=("socket",),
    )  # fmt: skip


BAD = {
    "no target": ("execs {target}/none fuse 0 {fd}", 0),
    "empty target": ("execs ~ fuse 0 {fd}", 0),
    "no descriptor": ("execs {target} fuse 0 rootmode=40000,user_id=0,group_id=0", 0),
    "closed descriptor": ("execs {target} fuse 0 fd=77,rootmode=40000,user_id=0,group_id=0", 0),
    "regular file": ("execs {target} fuse 0 {file}", 0),
    "unknown option": ("execs {target} fuse 0 {fd},colour=green", 0),
    "no options": ("execs {target} fuse 0 -", 0),
    "no root mode": ("execs {target} fuse 0 fd=@0,user_id=0,group_id=0", 0),
    "no user": ("execs {target} fuse 0 fd=@0,rootmode=40000,group_id=0", 0),
    "bad number": ("execs {target} fuse 0 {fd},max_read=many", 0),
    "target below a file": ("execs {target}.file/x fuse 0 {fd}", 0),
    "bad pointer to target": ("execs ! fuse 0 {fd}", 0),
    "bad pointer to type": ("execs {target} ! 0 {fd}", 0),
    "bad pointer to source": ("! {target} fuse 0 {fd}", 0),
    "bad pointer to options": ("execs {target} fuse 0 !", 0),
    "long target": ("execs %4100 fuse 0 {fd}", 0),
    "long part of target": ("execs %300 fuse 0 {fd}", 0),
    "long source": ("%4096 {target} fuse 0 {fd}", 0),
    "long type": ("execs {target} %4096 0 {fd}", 0),
    "type of another filesystem": ("execs {target} fusectl2 0 {fd}", 0),
    "no type": ("execs {target} - 0 {fd}", 0),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_bad_mount_fails_as_it_does_plain(launcher: Launcher, target: Path, endpoint: str) -> None:
    (target.parent / "mnt.file").touch()
    words = {"target": target, "fd": MOUNTED, "file": options_for("@1")}
    steps = ["open /dev/fuse b", "open /etc/passwd r", *(f"mount {each.format(**words)}" for each, _ in BAD.values())]
    plain, under = (launcher.run(each, launcher.execs, *steps)[1].splitlines() for each in ("plain", endpoint))
    names = ["open", "open", *BAD]
    assert dict(zip(names, under, strict=True)) == dict(zip(names, plain, strict=True))
    assert "mount 0" not in plain


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_one_descriptor_is_mounted_once(launcher: Launcher, target: Path, endpoint: str) -> None:
    mounting = f"mount execs {target} fuse 0 {MOUNTED}"
    said = launcher.run(
        endpoint, launcher.execs, "open /dev/fuse b", mounting, "serve @0", mounting, f"umount {target} 2"
    )
    plain = launcher.run(
        "plain", launcher.execs, "open /dev/fuse b", mounting, "serve @0", mounting, f"umount {target} 2"
    )
    assert said[1] == plain[1]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_options_may_end_where_memory_does(launcher: Launcher, target: Path, endpoint: str) -> None:
    same(launcher, "open /dev/fuse b", f"mountedge execs {target} fuse 0 {MOUNTED}", f"umount {target} 2",
         endpoints=(endpoint,))  # fmt: skip


def test_flags_of_the_mount_hold(launcher: Launcher, target: Path) -> None:
    program = launcher.serving(
        "socket", "open /dev/fuse b", f"mount execs {target} fuse {0xC0ED0000 | 1 | 2 | 4 | 8 | 1024:#x} {MOUNTED}",
        "serve @0", "pause",
    )  # fmt: skip
    (line,) = [each for each in Path("/proc/self/mounts").read_text().splitlines() if f" {target} " in each]
    assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= set(line.split()[3].split(","))
    assert launcher.done(program, "x")[0] == 0


# -- unmounting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("flags", [0, 2, 3, 8, 64])
@pytest.mark.parametrize("call", ["umount", "umount2_32"])
def test_a_program_unmounts_its_own_mount_once(
    launcher: Launcher, target: Path, endpoint: str, flags: int, call: str
) -> None:
    steps = ("open /dev/fuse b", f"mount execs {target} fuse 0 {MOUNTED}", "serve @0")
    unmounting = (f"{call} {target} {flags}", f"{call} {target} {flags}", f"umount {target} 2")
    same(launcher, *steps, *unmounting, endpoints=(endpoint,))


def test_an_old_umount_is_umount2_without_flags(launcher: Launcher, target: Path) -> None:
    steps = ("open /dev/fuse b", f"mount execs {target} fuse 0 {MOUNTED}", "serve @0")
    assert same(launcher, *steps, f"umount32 {target}", f"umount32 {target}")[3:] == ["umount32 0", "umount32 EINVAL"]


def test_what_lies_beneath_a_mount_that_is_gone_stays(launcher: Launcher, target: Path) -> None:
    """A program that unmounts at its end, as many do, after somebody else has."""
    program = launcher.serving(
        "socket", "unshare 0x20000", f"mount tmp {target} tmpfs 0 -", "open /dev/fuse b",
        f"mount execs {target} fuse 0 {MOUNTED}", "serve @0", "fork", "exec", "say x", "join", "pause",
        f"umount {target} 0", f"umount {target} 0", f"umount {target} 0",
    )  # fmt: skip
    subprocess_in(program, "umount", str(target))
    assert launcher.done(program, "x")[1].splitlines() == ["umount 0", "umount 0", "umount EINVAL"]


def subprocess_in(program: object, *command: str) -> None:
    """Run a command in the mount namespace of a program under exec."""
    import subprocess

    from tests.kernel.launching import descendants

    subprocess.run(["nsenter", "-t", str(descendants(program.pid)[1]), "-m", *command], check=True)  # type: ignore[attr-defined]


def test_mounts_of_others_are_the_kernels_to_unmount(launcher: Launcher, target: Path) -> None:
    other = target.parent / "other"
    other.mkdir()
    steps = ("unshare 0x20000", "open /dev/fuse b", f"mount execs {target} fuse 0 {MOUNTED}", "serve @0")
    same(launcher, *steps, f"mount tmp {other} tmpfs 0 -", f"umount {other} 0", f"umount {other} 0", "umount /none 0",
         f"umount {target}/f 0", f"umount {target} 2")  # fmt: skip


# -- ioctls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_clone_is_another_descriptor_of_the_same_mount(launcher: Launcher, target: Path, endpoint: str) -> None:
    """Requests arrive on either, and replies go through the one they came by."""
    program = launcher.serving(
        endpoint, "open /dev/fuse bc", f"mount execs {target} fuse 0 {MOUNTED}", "open /dev/fuse bc", "clone @1 @0",
        "flags @1", "serve @0", "serve @1", "pause",
    )  # fmt: skip
    assert program.said[2:5] == ["open 0\n", "clone 0\n", "flags cloexec rdwr\n"]
    for _ in range(20):
        assert (target / "f").read_text() == "hello"
    assert launcher.done(program, "x")[::2] == (0, "")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_clone_alone_serves_a_mount(launcher: Launcher, target: Path, endpoint: str) -> None:
    program = launcher.serving(
        endpoint, "open /dev/fuse bc", f"mount execs {target} fuse 0 {MOUNTED}", "open /dev/fuse bc", "clone @1 @0",
        "serve @1", "pause",
    )  # fmt: skip
    assert (target / "f").read_text() == "hello"
    assert launcher.done(program, "x")[::2] == (0, "")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_clone_of_something_else_fails_as_it_does(launcher: Launcher, target: Path, endpoint: str) -> None:
    same(
        launcher, "open /dev/fuse b", "open /dev/fuse b", "open /etc/passwd r", "clone @0 @1", "clone @0 @2",
        "clone @0 99", "cloneat @0", "clone @2 @0", "clone 99 @0", f"mount execs {target} fuse 0 {MOUNTED}",
        "clone @0 @2", "clone @1 @0", "clone @1 @0", "clone @0 @1", f"umount {target} 2", endpoints=(endpoint,),
    )  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_process_mounts_a_second_time(launcher: Launcher, target: Path, endpoint: str) -> None:
    other = target.parent / "other"
    other.mkdir()
    program = launcher.serving(
        endpoint, "open /dev/fuse bc", f"mount execs {target} fuse 0 {MOUNTED}", "serve @0", "open /dev/fuse bc",
        f"mount execs {other}/none fuse 0 {options_for('@1')}", f"mount execs {other} fuse 0 {options_for('@1')}",
        "flags @1", "kind @1", "serve @1", "pause", f"umount {other} 0", f"umount {target} 0",
    )  # fmt: skip
    assert program.said[4:8] == ["mount ENOENT\n", "mount 0\n", "flags cloexec rdwr\n", f"kind {KINDS[endpoint]}\n"]
    assert (other / "f").read_text() == (target / "f").read_text() == "hello"
    (found,) = launcher.listed(other)
    assert found["endpoint"] == endpoint
    assert launcher.done(program, "x")[1].splitlines() == ["umount 0", "umount 0"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_file_behind_the_mount_is_registered_and_read(launcher: Launcher, target: Path, endpoint: str) -> None:
    (target.parent / "behind").write_text("BEHIND")
    program = launcher.serving(
        endpoint, "open /dev/fuse bc", f"mount execs {target} fuse 0 {MOUNTED}", "serve @0", f"open {target}/f r",
        "close @1", f"open {target.parent}/behind r", "backing @0 @2", "pause", "unback @0", "unback @0",
    )  # fmt: skip
    assert program.said[6] == "backing 0\n"
    assert (target / "f").read_text() == "BEHIND"
    assert launcher.done(program, "x")[1].splitlines() == ["unback 0", "unback ENOENT"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_ioctl_of_no_device_is_the_kernels(launcher: Launcher, endpoint: str) -> None:
    same(launcher, "open /etc/passwd r", "backing @0 @0", "backing 99 @0", "unback @0", "ioctl 0 0x80046601 0",
         endpoints=(endpoint,))  # fmt: skip
