"""The daemon's loop: what it reaps. In a process of its own, since a test must not take this one's children."""

import subprocess
import sys

SCRIPT = """
import os, select
from perfused.loop import Loop
from perfused.spawner import adopt_orphans

adopt_orphans()
loop, ended = Loop(), []


def child(orphans):
    go, told = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(go, 1)
        for _ in range(orphans):
            if not os.fork():
                os._exit(3)
        # Seen to have ended, and left for whoever comes after us.
        for _ in range(orphans):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        os._exit(7)
    loop.watch_child(pid, ended.append)
    os.write(told, b"x")


child(0)
child(3)
loop.run(lambda: len(ended) == 2)
print(sorted(os.waitstatus_to_exitcode(each) for each in ended))
# A third one's end finds what the second may have left too late to be seen with it.
child(0)
loop.run(lambda: len(ended) == 3)
try:
    print(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG))
except ChildProcessError:
    print("no child is left")
"""


def test_orphans_of_a_child_are_reaped_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["[7, 7]", "no child is left"]
