"""The derived codecs are construct's Structs, faster: same bytes, same fields, in every byte order."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from construct import Array, Byte, Bytes, Const, Int32ub, Int32un, Padding, Struct
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_strategies import QUICK
from wire import codec, derive, stubgen
from wire.errors import WireError
from wire.structs import STRUCTS, twin

ORDERS = ["=", "<", ">"]


def slow(name: str, order: str) -> Any:
    return STRUCTS[name] if order == "=" else twin(STRUCTS[name], order)


def as_container(value: Any) -> Any:
    """A NamedTuple as the plain dict that construct builds from and compares with."""
    if hasattr(value, "_asdict"):
        return {field: as_container(item) for field, item in value._asdict().items()}
    return value


def without_io(container: Any) -> Any:
    if isinstance(container, dict):
        return {key: without_io(item) for key, item in container.items() if key != "_io"}
    return container


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", STRUCTS)
def test_codec_and_construct_agree_on_random_bytes(name: str, order: str) -> None:
    made, struct = codec.order(order).CODECS[name], slow(name, order)

    @QUICK
    @given(st.binary(min_size=made.size, max_size=made.size))
    def agree(body: bytes) -> None:
        value = made.unpack_from(body)
        assert as_container(value) == without_io(struct.parse(body))
        assert made.build(value) == body == struct.build(as_container(value))
        assert made.pack(*made.flatten(value)) == body

    agree()


def test_the_native_family_is_the_machines_own_order() -> None:
    native = "<" if sys.byteorder == "little" else ">"
    body = bytes(range(40))
    assert codec.order(native).in_header.unpack_from(body) == codec.in_header.unpack_from(body)
    with pytest.raises(WireError, match="order: one of"):
        codec.order("!")


def test_nested_structs_are_nested_tuples_and_flat_fields() -> None:
    entry = codec.entry_out.make(nodeid=5, attr=codec.attr.make(mode=0o100644, size=12))
    assert codec.entry_out.fields[:7] == (
        *("nodeid", "generation", "entry_valid", "attr_valid", "entry_valid_nsec", "attr_valid_nsec", "attr.ino"),
    )
    assert codec.entry_out.unpack_from(codec.entry_out.build(entry)).attr.mode == 0o100644
    assert codec.entry_out.pack(*codec.entry_out.flatten(entry)) == codec.entry_out.build(entry)
    assert isinstance(codec.direntplus.unpack_from(bytes(152)).entry_out.attr, codec.Attr)
    assert codec.entry_out.format == codec.entry_out.struct.format
    assert codec.order(">").entry_out.type is codec.EntryOut
    assert repr(codec.order(">").open_in) == "<codec open_in >LL 8 bytes>"


def test_decoding_takes_any_buffer_at_any_offset() -> None:
    body = b"x" * 3 + codec.forget_in.pack(7)
    for kind in (bytes, bytearray, memoryview):
        assert codec.forget_in.unpack_from(kind(body), 3) == (7,)


@pytest.mark.parametrize("name", ["in_header", "entry_out", "statx_out", "init_in"])
def test_too_few_bytes_are_refused_by_name(name: str) -> None:
    made = codec.CODECS[name]
    for offset, left in ((0, made.size - 1), (1, made.size - 2), (made.size + 5, 0)):
        with pytest.raises(WireError) as caught:
            made.unpack_from(bytes(made.size - 1), offset)
        assert caught.value.field == name
        assert caught.value.limit == f"at least {made.size} bytes, got {left}"


def test_a_value_that_does_not_fit_names_its_field() -> None:
    cases: list[tuple[Any, dict[str, Any], str, str]] = [
        (codec.open_in, {"flags": 2**32}, "open_in.flags", "32 bits unsigned, got 4294967296"),
        (codec.open_out, {"backing_id": 2**31}, "open_out.backing_id", "32 bits signed, got 2147483648"),
        (codec.in_header, {"total_extlen": -1}, "in_header.total_extlen", "16 bits unsigned, got -1"),
        (codec.forget_in, {"nlookup": "one"}, "forget_in.nlookup", "64 bits unsigned, got 'one'"),
        (codec.init_in, {"unused": b"short"}, "init_in.unused", "44 bytes, got 5"),
        (codec.init_in, {"unused": 0}, "init_in.unused", "44 bytes, got 0"),
        (codec.entry_out, {"attr": 7}, "entry_out.attr", "16 fields, got 7"),
    ]
    for made, fields, field, limit in cases:
        with pytest.raises(WireError) as caught:
            made.build(made.make(**fields))
        assert (caught.value.field, caught.value.limit) == (field, limit)
    with pytest.raises(WireError, match="open_in: 2 fields, got 3"):
        codec.open_in.pack(1, 2, 3)
    with pytest.raises(WireError, match="open_in: 2 fields, got 1"):
        codec.open_in.build((1,))  # type: ignore[arg-type]
    with pytest.raises(WireError, match="open_in: no field named flag"):
        codec.open_in.make(flag=1)


def test_packing_into_a_buffer_checks_room_and_values() -> None:
    buffer = bytearray(12)
    codec.open_in.pack_into(buffer, 4, 1, 2)
    assert codec.open_in.unpack_from(buffer, 4) == (1, 2)
    for offset in (5, -1, 99):
        with pytest.raises(WireError, match="open_in: at least 8 bytes"):
            codec.open_in.pack_into(buffer, offset, 1, 2)
    with pytest.raises(WireError, match=r"open_in\.flags"):
        codec.open_in.pack_into(buffer, 0, -1, 2)
    with pytest.raises(WireError, match=r"uring_cmd_req\.padding: 6 bytes"):
        codec.uring_cmd_req.pack_into(bytearray(24), 0, 0, 0, 0, b"1234567")


@pytest.mark.parametrize(
    "struct",
    [
        Struct("a" / Int32un, Padding(4)),
        Struct("a" / Int32ub),
        Struct("a" / Array(3, Int32un)),
        Struct("a" / Const(b"x")),
        Struct("a" / Bytes(lambda this: 4)),
        Struct("a" / Struct("b" / Byte)),
        Struct("a" / Bytes(4)[2]),
    ],
)
def test_what_is_variable_or_would_lose_bytes_is_refused_at_import(struct: Any) -> None:
    with pytest.raises(TypeError):
        derive.layouts({"bad": struct})


def test_a_codec_that_disagrees_with_construct_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="open_in: 16 bytes in construct, 8 in =LL"):
        derive.check_sizes({"open_in": STRUCTS["create_in"]}, {"open_in": codec.open_in})


def test_typed_tuples_can_be_pickled() -> None:
    entry = codec.entry_out.make(nodeid=5)
    assert pickle.loads(pickle.dumps(entry)) == entry
    error = WireError("len", "at least 40 bytes")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.field, copy.limit, str(copy)) == ("len", "at least 40 bytes", "len: at least 40 bytes")


def test_the_stub_is_current() -> None:
    path = Path(stubgen.__file__).with_name("codec.pyi")
    assert path.read_text() == stubgen.stub(), "run python -m wire.stubgen > wire/codec.pyi"


@pytest.mark.parametrize("module", ["opcodes", "flags", "errors", "tails", "ioctls", "init_policy"])
def test_light_modules_do_not_import_construct(module: str) -> None:
    check = f"import sys, wire.{module}; sys.exit('construct' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_wire_imports_nothing_that_does_io() -> None:
    forbidden = {"os", "socket", "threading", "asyncio", "subprocess", "select", "io", "pathlib", "logging"}
    for path in Path(derive.__file__).parent.glob("*.py"):
        for row in path.read_text().splitlines():
            words = row.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] not in forbidden, f"{path.name}: {row}"
