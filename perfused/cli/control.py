"""perfusectl(8): looks at and steers a running perfused, runs programs on it, and says what this kernel offers.

The commands are in rooms of their own, and a room is only entered when its command is asked for: a program that is run
on perfused need not wait for tables. Rendering and waiting happen there, never in the daemon.
"""

from importlib import import_module

import click

from perfused import __version__

#: command -> module of this package, and what it is called there
COMMANDS = {
    "conform": ("conforming", "conform"),
    "exec": ("executing", "execute"),
    "mounts": ("asking", "mounts"),
    "probe": ("asking", "probe"),
    "stats": ("asking", "stats"),
    "trace": ("asking", "trace"),
    "umount": ("asking", "umount"),
}


class Rooms(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found = getattr(import_module(f"perfused.cli.{module}"), name)
        assert isinstance(found, click.Command)
        return found


@click.group(cls=Rooms, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", "path", default=None, metavar="PATH", help="The daemon's control socket (PERFUSED_SOCKET).")
@click.version_option(__version__, prog_name="perfusectl")
@click.pass_context
def main(context: click.Context, path: str | None) -> None:
    """Look at and steer perfused."""
    context.obj = path


if __name__ == "__main__":
    main()
