"""`replicad restore`: a point's files, written somewhere else."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicad.model.address import Address, LocalAddress
from replicad.model.errors import ConfigError, OutOfSpaceError, PermanentError
from replicad.model.names import folded
from replicad.model.progress import Observer
from replicad.model.sizes import human_bytes

from .options import SignIn, complete_vm, config_option, json_option, replica_option, sign_in_options, standalone_option
from .output import print_json, print_line, print_table
from .replica_target import ReplicaTarget, credentials_for, find_target, locate_replica, open_target
from .working_here import beside_the_daemon, say_working_here

if TYPE_CHECKING:
    from replicad.service.compose import OneOffCredentials
    from replicad.workflows.restore import RestoreReport


@click.command("restore")
@click.argument("vm", required=False, shell_complete=complete_vm)
@click.option("--to", "directory", required=True, metavar="DIR", help="Where to: a directory or a share.")
@click.option("--point", "number", type=click.IntRange(1), metavar="N", help="Which point; else the latest.")
@replica_option
@config_option
@json_option
@standalone_option
@sign_in_options
def command(
    vm: str | None,
    directory: str,
    number: int | None,
    replica: str | None,
    config: Path | None,
    as_json: bool,
    standalone: bool,
    sign_in: SignIn,
) -> None:
    """Write the disks of one recovery point of VM to DIR, every byte checked. Nothing there is overwritten."""
    from .progress import showing_progress
    from .run_async import run_async

    target = find_target(vm, replica, config)
    to = locate_replica(directory)
    _refuse_inside(target, to)
    if not standalone and target.machine is not None:
        say_working_here(config)
    credentials = credentials_for(target, sign_in)
    with beside_the_daemon(target.vm, config), showing_progress() as observe, _directory(to):
        report = run_async(_restore(target, number, to, credentials, observe))
    if as_json:
        print_json(
            {
                "vm": report.point.vm,
                "point": report.point.number,
                "time": report.point.time.isoformat(),
                "consistency": report.point.consistency.value,
                "to": str(to),
                "disks": [
                    {"path": d.path, "size_bytes": d.size_bytes, "written_bytes": d.written_bytes} for d in report.disks
                ],
            }
        )
        return
    print_line(f"{report.point.vm}: point {report.point.number} restored to {to}, every byte checked")
    print_table(
        ["file", "size", "written"],
        [[d.path, human_bytes(d.size_bytes), human_bytes(d.written_bytes)] for d in report.disks],
        right=[1, 2],
    )


def _refuse_inside(target: ReplicaTarget, to: Address) -> None:
    """A replica's directory holds the replica and nothing else."""
    own = target.share.child(target.vm_dir)
    if type(own) is type(to) and folded(f"{to}/".replace("\\", "/")).startswith(folded(f"{own}/".replace("\\", "/"))):
        raise ConfigError(
            "restore to", str(to), "it is the replica itself, or lies inside it", "Name another directory."
        )


@contextmanager
def _directory(to: Address) -> Iterator[None]:
    """A local directory, made if it is not there, and taken away again if nothing came of it."""
    if not isinstance(to, LocalAddress):
        yield
        return
    made: list[Path] = []
    try:
        for path in reversed([Path(to.path), *Path(to.path).parents]):
            if not path.is_dir():
                path.mkdir(mode=0o700)
                made.append(path)
    except OSError as error:
        _take_away(made)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Make room there, or restore to another place; nothing was written."
            raise OutOfSpaceError("make the directory", to.path, "no space is left there", hint) from None
        in_its_way = isinstance(error, FileExistsError | NotADirectoryError)
        answer = "a file is in its way" if in_its_way else (error.strerror or type(error).__name__).lower()
        hint = "Name a directory that is there, or one that can be made."
        raise PermanentError("make the directory", to.path, answer, hint) from None
    try:
        yield
    except BaseException:
        _take_away(made)
        raise


def _take_away(made: list[Path]) -> None:
    for path in reversed(made):
        with suppress(OSError):  # something is in it, which is then worth keeping
            path.rmdir()


async def _restore(
    target: ReplicaTarget, number: int | None, to: Address, credentials: OneOffCredentials | None, observe: Observer
) -> RestoreReport:
    from replicad.workflows.restore import restore

    async with open_target(target, credentials, observe) as opened:
        written_to = await opened.shares.open(to, vm=target.vm)
        return await restore(opened.share, target.vm_dir, number, written_to, opened.context)
