"""The tutorial's first filesystem works whichever way it is mounted, and is as short as the tutorial says."""

import ast
import os
import signal

import pytest

from tests.kernel.conftest import ROOT
from tests.kernel.served import VIAS, Serve, serve

__all__ = ["serve"]
HELLO = "fixtures/hello.py"


@pytest.mark.parametrize("via", VIAS)
def test_hello_lists_and_reads_its_file(serve: Serve, via: str) -> None:
    target = serve(HELLO, via=via).target
    assert os.listdir(target) == ["hello"]
    assert (target / "hello").read_bytes() == b"hello, world\n"


@pytest.mark.parametrize("via", VIAS)
def test_hello_ends_well_when_it_is_unmounted(serve: Serve, via: str) -> None:
    assert serve(HELLO, via=via).unmounted() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("via", VIAS)
def test_hello_ends_well_when_it_is_told_to(serve: Serve, via: str, number: signal.Signals) -> None:
    hello = serve(HELLO, via=via)
    assert hello.signalled(number) == 0
    assert not os.path.ismount(hello.target)


def test_a_name_that_is_not_there_is_not_found(serve: Serve) -> None:
    with pytest.raises(FileNotFoundError):
        os.stat(serve(HELLO).target / "other")


def test_what_hello_has_not_is_refused(serve: Serve) -> None:
    with pytest.raises(OSError):
        (serve(HELLO).target / "new").write_text("")


def test_hello_has_at_most_30_lines_of_code() -> None:
    source = (ROOT / HELLO).read_text()
    documented = {
        line for node in ast.parse(source).body[:1] for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    code = [line for number, line in enumerate(source.splitlines(), 1) if line.strip() and number not in documented]
    assert len(code) <= 30
