"""What is done: tables of work. Never here: who does it (`contestants`)."""

from tests.bench.turns import Work

KIB, MIB = 1 << 10, 1 << 20
#: of the files in a tree: bytes of `file`, entries of `many`
FILE_SIZE, ENTRIES = 16 * MIB, 10_000

GETATTR, LOOKUP, OPEN = "getattr", "lookup", "open, close"
READ, READ_128, WRITE = "4 KiB read", "128 KiB read", "4 KiB write"
READ_MIB, WRITE_MIB = "1 MiB read", "1 MiB write"
READ_CACHED, WRITE_CACHED = "1 MiB read, page cache", "1 MiB write, page cache"
LIST, CREATE = "readdir, 10,000 entries", "create, unlink"
GETATTR_8, GETATTR_32 = "getattr, 8 clients", "getattr, 32 clients"
READ_8, READ_32 = "4 KiB read, 8 clients", "4 KiB read, 32 clients"
COMPILE = "unpack, compile"

_METADATA = (
    Work(GETATTR, "getattr"),
    Work(LOOKUP, "lookup"),
    Work(OPEN, "open"),
)


def _parallel(how: str) -> tuple[Work, ...]:
    return (
        Work(GETATTR_8, "getattr", clients=8, milliseconds=50),
        Work(GETATTR_32, "getattr", clients=32, milliseconds=50),
        Work(READ_8, "randread", 4 * KIB, 8, how, milliseconds=50),
        Work(READ_32, "randread", 4 * KIB, 32, how, milliseconds=50),
    )


#: on the smallest filesystem, which has all reads and writes of it direct
SMALL = (
    *_METADATA,
    Work(READ, "randread", 4 * KIB),
    Work(WRITE, "randwrite", 4 * KIB),
    Work(READ_128, "read", 128 * KIB),
    Work(READ_MIB, "read", MIB),
    Work(WRITE_MIB, "write", MIB),
    *_parallel("plain"),
)
#: on a tree of which the kernel keeps no name and no attribute
UNCACHED = (
    *_METADATA,
    Work(READ, "randread", 4 * KIB, how="direct"),
    Work(WRITE, "randwrite", 4 * KIB, how="direct"),
    Work(READ_MIB, "read", MIB, how="direct"),
    Work(WRITE_MIB, "write", MIB, how="direct"),
    *_parallel("direct"),
)
#: on a tree of which the kernel keeps names and attributes for a second, and pages as it does
CACHED = (
    Work(READ_CACHED, "read", MIB, how="cached"),
    Work(WRITE_CACHED, "write", MIB, how="cached"),
    Work(LIST, "list", ENTRIES, name="many"),
    Work(CREATE, "create", name="work"),
)
#: with somebody looking, and nobody
TRACED = tuple(each for each in SMALL if each.words in (GETATTR, READ, READ_MIB))
#: beside 499 idle mounts
BUSY = tuple(each for each in SMALL if each.words in (GETATTR, READ))
QUICK = tuple(each for each in SMALL if each.words in (GETATTR, READ, READ_MIB, GETATTR_8))
#: whose figures are throughput: operations a second of all clients together
PARALLEL = frozenset((GETATTR_8, GETATTR_32, READ_8, READ_32))
