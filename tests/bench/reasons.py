"""Why a target is missed, by the words of the target (`targets`). Written by hand; one that is met shows none.

Without a reason the page says that none is known yet. `make bench-page` shows a new one.
"""

REASONS: dict[str, str] = {
    "socket ÷ C relay, getattr": "",
    "socket ÷ C relay, 4 KiB read": "",
    "socket ÷ C relay, 128 KiB read": "",
    "socket ÷ C relay, throughput of 8 clients, the least": "",
    "socket ÷ C, speed of 1 MiB reads": "",
    "socket ÷ C, speed of 1 MiB writes": "",
    "direct ÷ C, mean of all operations": "",
    "libperfuse ÷ C, getattr": "",
    "pyfuse3 ÷ libperfuse, the least": "",
    "mfusepy ÷ libperfuse, the least": "",
    "mfusepy ÷ libperfuse, 1 MiB read": "",
    "pyfuse3 ÷ libperfuse behind perfused, getattr": "",
    "pyfuse3 ÷ libperfuse behind perfused, the least": "",
    "loopback behind perfused, passthrough ÷ native, random, speed, the least": "",
    "loopback behind perfused, passthrough ÷ native, sequential, speed, the least": "",
    "loopback behind perfused ÷ passthrough_ll, unpack and compile": "",
    "remembered ÷ never traced, getattr": "",
    "traced ÷ never traced, getattr": "",
    "traced, frames thrown away ÷ never traced, getattr": "",
    "traced before ÷ never traced, getattr": "",
    "PSS of each of 500 mounts": "",
    "perfuse_open() to verdict beside 480 mounts": "",
    "busy mount beside 499 idle ones ÷ alone, getattr": "",
}
