"""Prints what a header decode and an entry_out build cost, in microseconds, the best of several runs.

Run it as ``python tests/bench/codec_bench.py``; one core, nothing else running.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from wire import codec, message, render

ROUNDS = 7
CALLS = 20_000


def best(call: Callable[[], object]) -> float:
    """Microseconds of one call, the best of ``ROUNDS`` runs of ``CALLS``."""
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def contestants() -> dict[str, Callable[[], object]]:
    """What is measured, by the words it is printed with."""
    header = codec.in_header.make(opcode=1, unique=12, nodeid=1)
    lookup = message.build_request(message.Request(header, names=(b"etc",)))
    frame = bytearray(lookup)
    flat = codec.entry_out.flatten(codec.entry_out.make(nodeid=5, attr=codec.attr.make(mode=0o100644)))
    entry = codec.entry_out.build(codec.entry_out.make(nodeid=5))
    room = bytearray(144)
    decode, raw_decode = codec.in_header.unpack_from, codec.in_header.struct.unpack_from
    pack, raw_pack, pack_into = codec.entry_out.pack, codec.entry_out.struct.pack, codec.entry_out.struct.pack_into
    unpack_entry, pack_out = codec.entry_out.unpack_from, codec.out_header.struct.pack_into
    return {
        "in_header decode, NamedTuple": lambda: decode(frame),
        "in_header decode, raw tuple": lambda: raw_decode(frame),
        "out_header build in place, raw": lambda: pack_out(room, 0, 144, 0, 12),
        "entry_out build, checked": lambda: pack(*flat),
        "entry_out build, raw": lambda: raw_pack(*flat),
        "entry_out build in place, raw": lambda: pack_into(room, 16, *flat),
        "entry_out decode, nested": lambda: unpack_entry(entry),
        "LOOKUP parse, whole request": lambda: message.parse_request(lookup),
        "LOOKUP as a line": lambda: render.line(lookup),
    }


#: most µs, by the words of `contestants`
TARGETS = {"in_header decode, NamedTuple": "0.5 µs", "entry_out build, checked": "1 µs"}


def figures() -> dict[str, tuple[float, str]]:
    """What is measured: (µs, the target or nothing), the best of several runs."""
    return {words: (best(call), TARGETS.get(words, "")) for words, call in contestants().items()}


def main() -> None:
    """Print one row a contestant."""
    for words, call in contestants().items():
        print(f"{best(call):8.2f} µs  {words}")


if __name__ == "__main__":
    main()
