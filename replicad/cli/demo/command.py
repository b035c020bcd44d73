"""`replicad demo`: the whole story on this machine, with real SMB servers."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click


@click.command("demo")
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep everything in DIR, which must be new or empty."
)
def command(keep: Path | None) -> None:
    """Show the whole story on this machine, with real SMB servers.

    Makes a virtual machine on one private server, replicates it to another one, changes it, goes back in time, breaks
    the replica and mends it, by the very commands that you would type. Takes some seconds and leaves nothing behind.
    """
    from .narrator import Narrator
    from .stage import stage
    from .story import tell

    narrator = Narrator(sys.stdout)
    began_s = time.monotonic()
    narrator.title("replicad demo", "A virtual machine's disks, their replica, and the way back")
    with stage(keep, narrator) as here:
        tell(here, narrator)
    narrator.closing(
        f"All of it held, in {time.monotonic() - began_s:.0f} s. "
        + (f"Everything is kept in {here.root}." if keep else "The servers are stopped and every file is removed.")
    )
    if keep:
        narrator.command(shlex.join(["replicad", "points", "--replica", str(here.replica_directory)]))
