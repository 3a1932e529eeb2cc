"""The source tree that is unpacked and compiled: made here, always the same, from nothing.

20 directories of 3 small C files and 7 headers each, a Makefile, one program. Never here: who compiles it.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

DIRECTORIES, UNITS, HEADERS = 20, 3, 7
FUNCTIONS = 8

_MAKEFILE = """\
CC = gcc
CFLAGS = -O0 -pipe -I.
OBJECTS = $(patsubst %.c,%.o,$(sort $(wildcard part*/*.c))) main.o
program: $(OBJECTS)
\t$(CC) -o $@ $(OBJECTS)
%.o: %.c $(wildcard part*/*.h)
\t$(CC) $(CFLAGS) -c -o $@ $<
"""


def header(part: int, number: int) -> str:
    """A header: a struct, a constant, what its directory's units define; it includes the next directory's first."""
    lines = [f"#ifndef PART{part}_{number}", f"#define PART{part}_{number}"]
    if not number and part + 1 < DIRECTORIES:
        lines.append(f'#include "part{part + 1:02}/h0.h"')
    lines.append(f"struct s{part}_{number} {{ long a[{number + 2}]; struct s{part}_{number} *next; }};")
    lines += [f"#define C{part}_{number} {part * 31 + number}"]
    lines += [f"long f{part}_{unit}_{each}(long x);" for unit in range(UNITS) for each in range(FUNCTIONS)]
    return "\n".join([*lines, "#endif", ""])


def unit(part: int, number: int) -> str:
    """A C file that includes its directory's headers and defines FUNCTIONS functions that call one another."""
    lines = [f'#include "part{part:02}/h{each}.h"' for each in range(HEADERS)]
    for each in range(FUNCTIONS):
        before = f"f{part}_{number}_{each - 1}(x)" if each else f"x + C{part}_{number % HEADERS}"
        lines += [
            f"long f{part}_{number}_{each}(long x)",
            "{",
            f"\tstruct s{part}_{each % HEADERS} s = {{ {{ {before} }}, 0 }};",
            f"\tfor (long i = 0; i < {each + 3}; i++)\n\t\ts.a[i & 1] += i * x;",
            "\treturn s.a[0] ^ s.a[1];",
            "}",
        ]
    return "\n".join([*lines, ""])


def files() -> Iterator[tuple[str, str]]:
    """Names and texts, in the order in which they are packed."""
    yield "Makefile", _MAKEFILE
    for part in range(DIRECTORIES):
        for number in range(HEADERS):
            yield f"part{part:02}/h{number}.h", header(part, number)
        for number in range(UNITS):
            yield f"part{part:02}/u{number}.c", unit(part, number)
    calls = " + ".join(f"f{part}_0_{FUNCTIONS - 1}(n)" for part in range(DIRECTORIES))
    yield "main.c", f'#include "part00/h0.h"\nint main(int n, char **v)\n{{\n\treturn !v | !({calls});\n}}\n'


def pack(path: Path) -> None:
    """Write the tree as a tar file, the same bytes each time."""
    made = set()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in files():
            directory = name.rpartition("/")[0]
            if directory and directory not in made:
                made.add(directory)
                member = tarfile.TarInfo(directory)
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
