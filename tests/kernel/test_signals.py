"""`run` hears of a signal whichever thread of the process takes it."""

import signal
from pathlib import Path

import pytest

from tests.kernel.served import Serve
from tests.kernel.served import serve as serve

#: the kernel may give a signal to any thread: here it is one that is not the main thread
TAKEN_ELSEWHERE = """
import signal, sys, threading
from fixtures.hello import Hello
from libperfuse import Session, run

class Signalled(Hello):
    def lookup(self, request, name):
        signal.pthread_kill(threading.get_ident(), signal.{name})
        return super().lookup(request, name)

run(Session(Signalled(), sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_another_thread_takes_ends_the_mount(
    serve: Serve, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "signalled.py"
    script.write_text(TAKEN_ELSEWHERE.format(name=number.name))
    signalled = serve(script)
    with pytest.raises(OSError):
        (signalled.target / "other").stat()
    assert signalled.ended() == 0
