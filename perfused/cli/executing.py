"""perfusectl exec: an unmodified FUSE program as a client of perfused."""

import os
import sys

import click

from libperfuse.launch.front import run
from wire.control import Endpoint

ENDPOINTS = {"auto": None, "socket": Endpoint.SOCKET, "device": Endpoint.DEVICE, "direct": Endpoint.DIRECT}


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Run a FUSE program, as it is, on perfused.",
)
@click.option(
    "--endpoint",
    type=click.Choice(list(ENDPOINTS)),
    default="auto",
    show_default=True,
    help="What the program holds as its device; auto: what is known to suit it.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say which endpoint each device has, and why.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(path: str | None, endpoint: str, verbose: bool, program: tuple[str, ...]) -> None:
    """Run PROGRAM so that its /dev/fuse is perfused's and its mounts are made by perfused.

    Its exit status and signals pass through: 127 where PROGRAM is not there, 126 where it cannot be run, 69 where
    perfused cannot be reached.
    """
    if path:
        os.environ["PERFUSED_SOCKET"] = path
    sys.exit(run(program, ENDPOINTS[endpoint], verbose, "perfusectl"))
