"""Why a target is missed, by the words of the target (`targets`). Written by hand; one that is met shows none.

Without a reason the page says that none is known yet. `make bench-page` shows a new one.
"""

REASONS: dict[str, str] = {
    "socket ÷ C relay, getattr": (
        "CPython itself: a loop that looks at nothing (Python loop) is at 1.16 already; heads decoded and the book"
        " of what is in flight are the rest (see where each microsecond goes)"
    ),
    "socket ÷ C relay, 4 KiB read": "as for getattr: Python's own cost for a request and its reply, some 3.5 µs",
    "socket ÷ C relay, 128 KiB read": "Python's own cost for a request and its reply, some 3.5 µs",
    "socket ÷ C relay, throughput of 8 clients, the least": (
        "two threads share the interpreter's lock: on two cores whoever waits for it sleeps and is woken, and all "
        "processor time is used up; a loop that looks at nothing (Python loop) reaches 0.66"
    ),
    "socket ÷ C, speed of 1 MiB reads": (
        "three copies in place of one, and 1 MiB does not stay in the cache between them: the C relay is no faster"
        " (0.45); splice(2) copies as often and is slower"
    ),
    "socket ÷ C, speed of 1 MiB writes": "as for reads; init.max_frame = 266240 makes them a fifth faster",
    "direct ÷ C, mean of all operations": (
        "met on one core; no frame passes the daemon, and on two cores C itself scatters by 40 %"
    ),
    "libperfuse ÷ C, getattr": (
        "reading and writing alone, in CPython, is at 1.25 to 1.35: argument parsing and the interpreter's lock "
        "taken twice; with answers kept packed it is at 1.41"
    ),
    "pyfuse3 ÷ libperfuse, the least": (
        "the copy into the kernel is all there is to a large read: C itself is only 1.4 times as fast as pyfuse3; "
        "small operations are 5 to 6 times as fast"
    ),
    "mfusepy ÷ libperfuse, the least": "noise of placement: both are one thread on one core",
    "mfusepy ÷ libperfuse, 1 MiB read": "",
    "pyfuse3 ÷ libperfuse behind perfused, getattr": (
        "met on one core; on two, each of four hops wakes the other core, which costs this virtual machine more "
        "than the work does (C relay 2.3 × C)"
    ),
    "pyfuse3 ÷ libperfuse behind perfused, the least": (
        "a large read is copied three times in place of once; small operations are 1.6 to 2.3 times as fast"
    ),
    "loopback behind perfused, passthrough ÷ native, random, speed, the least": (
        "the kernel's own passthrough: no request reaches the daemon; a 4 KiB read on a tmpfs costs 0.3 µs more "
        "through two filesystems"
    ),
    "loopback behind perfused, passthrough ÷ native, sequential, speed, the least": (
        "the kernel's own passthrough: no request reaches the daemon"
    ),
    "loopback behind perfused ÷ passthrough_ll, unpack and compile": (
        "met on one core; with two, make -j2 leaves no core idle: the 0.7 s that loopback and relay need "
        "themselves are no longer beside the compiler's, and CPython answers one request at a time"
    ),
    "remembered ÷ never traced, getattr": (
        "while somebody looks, the engine judges and shows every frame in Python before it goes on: some 4 µs"
    ),
    "traced ÷ never traced, getattr": (
        "perfusectl decodes every frame on the same core: some 20 µs each, frames are dropped where it cannot follow"
    ),
    "traced, frames thrown away ÷ never traced, getattr": (
        "every frame is packed, sent to a second process in packets of 96 and read there, on the same core"
    ),
    "traced before ÷ never traced, getattr": "noise: the hooks are off, the loop is the same",
    "PSS of each of 500 mounts": "",
    "perfuse_open() to verdict beside 480 mounts": (
        "reading mountinfo, which grows with the mounts, and a fork beside a large table of them"
    ),
    "busy mount beside 499 idle ones ÷ alone, getattr": "noise: idle workers do not run",
}
