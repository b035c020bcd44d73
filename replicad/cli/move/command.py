"""`replicad move`: disks go to another place while their machine runs."""

from __future__ import annotations

import click

from .known import cancel, list_moves, show
from .start import resume, start


@click.group("move", subcommand_metavar="VERB [ARGS]...")
def command() -> None:
    """Move a virtual machine's disks to another place while it runs.

    Until the machine is switched it uses its source, where nothing is touched; afterwards the source is deleted, unless
    it is to be kept. A move that was interrupted, or failed, is remembered, and gone on with by 'move resume' or by
    starting it again.
    """


for _verb in (start, resume, list_moves, show, cancel):
    command.add_command(_verb)
