"""The probe's findings as tables for a person."""

from typing import Any

from rich.console import Console
from rich.table import Table

from wire.flags import INIT_POLICY, Verdict


def show(found: dict[str, Any], console: Console) -> None:
    """Print what `perfused.probe.probe` found."""
    kernel = found["kernel"]
    console.print(
        f"[bold]{kernel['sysname']} {kernel['release']} {kernel['machine']}[/]: FUSE {found['major']}.{found['minor']}",
        markup=True,
    )
    console.print(f"INIT carries {found['init_in_size']} bytes, max_readahead {found['max_readahead']}")
    flags = Table(title="INIT flags", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("BIT", "FLAG", "SINCE", "OFFERED", "ON A SOCKET ENDPOINT"):
        flags.add_column(heading)
    for policy in INIT_POLICY.values():
        offered = found["flags"][policy.name]
        fate = "passed" if policy.socket is Verdict.PASS else f"{policy.socket.value}: {policy.reason}"
        flags.add_row(
            str(policy.bit), policy.name, f"7.{policy.since}", "yes" if offered else "no", fate if offered else ""
        )
    console.print(flags)
    if found["unknown_flags"]:
        console.print(f"bits nobody has named yet: {', '.join(map(str, found['unknown_flags']))}")
    for title, key in (
        ("Device ioctls", "ioctls"),
        ("Mount options", "options"),
        ("Notifications about nothing", "notifications"),
        ("Limits", "limits"),
    ):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
        for name, value in found[key].items():
            table.add_row(name, str(value) if value is not None else "not there")
        console.print(table)
