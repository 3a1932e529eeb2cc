"""INIT: what is agreed on, flag by flag, at every minor and major, and how the table says so."""

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libperfuse import FuseError, Init, Operations, Session
from libperfuse.negotiation import DEFAULTS
from tests.unit.server_support import ALL_FLAGS, PATIENCE, Kernel, kernel, offer, with_methods
from wire import codec
from wire.flags import INIT_POLICY, InitFlag
from wire.opcodes import Opcode

F = InitFlag
#: what is agreed on with no method at all, where everything is offered
BARE = {
    F.ASYNC_READ, F.FILE_OPS, F.BIG_WRITES, F.AUTO_INVAL_DATA, F.ASYNC_DIO, F.NO_OPEN_SUPPORT, F.PARALLEL_DIROPS,
    F.ABORT_ERROR, F.MAX_PAGES, F.NO_OPENDIR_SUPPORT, F.SETXATTR_EXT, F.INIT_EXT, F.HAS_EXPIRE_ONLY, F.HAS_RESEND,
}  # fmt: skip
#: what a method changes
BY_METHOD: list[tuple[str, set[InitFlag]]] = [
    ("setlk", {F.POSIX_LOCKS}), ("ioctl", {F.HAS_IOCTL_DIR}), ("readdirplus", {F.DO_READDIRPLUS}), ("readdir", set()),
    ("open", {F.NO_OPEN_SUPPORT}), ("opendir", {F.NO_OPENDIR_SUPPORT}),
]  # fmt: skip


def _init(*methods: str) -> Init:
    return Init(with_methods({name: lambda *words: None for name in methods}))


def _agreed(init: Init, **more: int) -> set[InitFlag]:
    answer = init.answer(offer(**more))
    return {flag for flag in InitFlag if InitFlag.joined(answer.flags, answer.flags2) & flag}


def test_the_table_has_a_row_for_every_flag_in_order_of_bits() -> None:
    assert [each.flag for each in DEFAULTS] == list(InitFlag)


def test_a_filesystem_without_methods_agrees_on_the_defaults() -> None:
    assert _agreed(_init()) == BARE


@pytest.mark.parametrize(("method", "changed"), BY_METHOD)
def test_a_method_brings_its_flag(method: str, changed: set[InitFlag]) -> None:
    assert _agreed(_init(method)) == BARE ^ changed


def test_readdir_beside_readdirplus_lets_the_kernel_choose() -> None:
    assert _agreed(_init("readdir", "readdirplus")) == BARE | {F.DO_READDIRPLUS, F.READDIRPLUS_AUTO}


@pytest.mark.parametrize("flag", InitFlag)
def test_a_wish_is_agreed_on_where_it_is_offered(flag: InitFlag) -> None:
    init = _init()
    init.wish(flag, F.INIT_EXT)
    assert flag in _agreed(init)
    other = _init()
    other.wish(flag)
    assert flag not in _agreed(other, flags=int(ALL_FLAGS & ~flag))


@pytest.mark.parametrize("flag", InitFlag)
def test_a_refusal_holds(flag: InitFlag) -> None:
    init = _init("setlk", "ioctl", "readdir", "readdirplus")
    init.request_timeout = 5
    init.refuse(flag)
    assert flag not in _agreed(init)


@settings(max_examples=100)
@given(flags=st.integers(0, 2**43 - 1), minor=st.integers(9, 60), wishes=st.integers(0, 2**43 - 1))
def test_nothing_is_agreed_on_that_was_not_offered_or_is_newer_than_the_minor(
    flags: int, minor: int, wishes: int
) -> None:
    init = _init()
    init.wish(*(flag for flag in InitFlag if wishes & flag))
    said = offer(minor=minor, flags=flags)
    answer = init.answer(said)
    assert answer.minor == min(45, minor)
    assert init.agreed is not None
    assert not init.agreed & ~InitFlag.joined(said.flags, said.flags2)
    assert all(INIT_POLICY[flag].since <= answer.minor for flag in InitFlag if init.agreed & flag)
    assert bool(answer.max_pages) == bool(init.agreed & F.MAX_PAGES)


@pytest.mark.parametrize(
    ("refused", "write", "pages"),
    [((), 1 << 20, 256), ((F.MAX_PAGES,), 131072, 0), ((F.MAX_PAGES, F.BIG_WRITES), 4096, 0)],
)  # fmt: skip
def test_max_write_is_what_the_flags_allow(refused: tuple[InitFlag, ...], write: int, pages: int) -> None:
    init = _init()
    init.refuse(*refused)
    answer = init.answer(offer())
    assert (answer.max_write, answer.max_pages, init.max_write) == (write, pages, write)


@pytest.mark.parametrize(("minor", "size"), [(9, 24), (22, 24), (23, 64), (45, 64), (46, 64)])
def test_the_reply_is_as_long_as_the_minor_has_it(minor: int, size: int) -> None:
    with kernel(Operations(), init=False) as made:
        assert len(made.init(offer(minor))) == 16 + size
        assert made.session.init.minor == min(minor, 45)


def test_an_author_may_lower_the_minor() -> None:
    def init(init: Init) -> None:
        init.minor = 12

    with kernel(with_methods({"init": init})) as made:
        assert (made.agreed.major, made.agreed.minor) == (7, 12)
        assert not made.agreed.flags & F.MAX_PAGES


def test_a_later_major_is_asked_to_offer_7_and_init_is_called_once() -> None:
    called: list[int] = []
    with kernel(with_methods({"init": lambda init: called.append(init.kernel.major)}), init=False) as made:
        assert made.init(offer(major=8, minor=0))[16:] == bytes([7, 0, 0, 0, 45, 0, 0, 0])
        assert codec.init_out.unpack_from(made.init(offer()), 16).major == 7
        assert made.error(Opcode.STATFS) == errno.ENOSYS
    assert called == [7]


def _fails(operations: Operations, said: codec.InitIn) -> tuple[int, BaseException]:
    """The errno that a kernel gets for INIT, and what the session raises."""
    made = Kernel(operations, init=False)
    code = -codec.out_header.unpack_from(made.init(said)).error
    with pytest.raises(BaseException) as caught:
        made.session.join(PATIENCE)
    made.sock.close()
    return code, caught.value


@pytest.mark.parametrize("said", [{"major": 6}, {"minor": 8}, {"minor": 1}])
def test_an_older_kernel_is_refused(said: dict[str, int]) -> None:
    code, raised = _fails(Operations(), offer(**said))
    assert code == errno.EPROTO
    assert "this server needs 7.9" in str(raised)


def test_a_wish_for_too_old_a_minor_is_refused() -> None:
    def init(init: Init) -> None:
        init.minor = 8

    assert _fails(with_methods({"init": init}), offer())[0] == errno.EPROTO


@pytest.mark.parametrize("bad", [ValueError("no"), FuseError(errno.EPERM)], ids=repr)
def test_an_init_that_raises_ends_the_session_with_it(bad: Exception) -> None:
    def init(init: Init) -> None:
        raise bad

    code, raised = _fails(with_methods({"init": init}), offer())
    assert code == (errno.EIO if isinstance(bad, ValueError) else errno.EPERM)
    assert raised is bad


@pytest.mark.parametrize("field", ["max_background", "time_gran", "max_write"])
def test_a_number_that_fits_no_init_reply_is_an_error_for_the_kernel_too(field: str) -> None:
    code, raised = _fails(with_methods({"init": lambda init: setattr(init, field, 1 << 33)}), offer())
    assert code == errno.EIO
    assert "bits unsigned" in str(raised)


def test_rows_say_what_is_wished_offered_and_agreed_and_why() -> None:
    init = _init()
    assert {(each.offered, each.agreed) for each in init.rows()} == {(None, None)}
    init.wish(F.WRITEBACK_CACHE, F.POSIX_ACL)
    init.answer(offer(flags=int(ALL_FLAGS & ~F.POSIX_ACL)))
    rows: dict[InitFlag, Any] = {each.flag: each for each in init.rows()}
    assert rows[F.WRITEBACK_CACHE][1:] == (True, True, True, "the author's wish")
    assert rows[F.POSIX_ACL][1:] == (True, False, False, "the author's wish")
    assert rows[F.SPLICE_READ][1:] == (False, True, False, "this server does not splice")


@pytest.mark.parametrize("name", ["init", "forget", "destroy", "cuse_init"])
def test_what_the_session_itself_calls_is_no_coroutine_function(name: str) -> None:
    async def method(*words: Any) -> None:
        pass

    with pytest.raises(TypeError, match=name):
        Session(with_methods({name: method}), "/nowhere")


def test_a_cuse_device_is_answered_by_its_method() -> None:
    out = codec.cuse_init_out.make(major=7, minor=45, dev_major=1)
    with kernel(with_methods({"cuse_init": lambda request, arg: (out, b"DEVNAME=x\0")}), init=False) as made:
        reply = made.ask(Opcode.CUSE_INIT, codec.cuse_init_in.make(major=7, minor=45))
        assert reply[16:] == codec.cuse_init_out.build(out) + b"DEVNAME=x\0"
        assert made.error(Opcode.OPEN, codec.open_in.make()) == errno.ENOSYS
