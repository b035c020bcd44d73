"""`replicad move start` and `resume`: moves are carried out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.cli.options import complete_vm, config_option, json_option, load_configuration, standalone_option
from replicad.cli.output import print_json, print_line, print_table
from replicad.cli.working_here import say_no_daemon
from replicad.model.errors import ConflictError, PermanentError, ReplicadError, TransientError
from replicad.model.known_moves import KnownMove, shown_id
from replicad.model.moves import (
    MAX_FREEZE_S,
    MAX_ROUNDS,
    MoveOptions,
    MovePhase,
    NoConvergence,
    Proof,
    SourceAfter,
)
from replicad.model.names import printable
from replicad.model.progress import Observer, PhaseStarted, ProgressEvent, Warned
from replicad.model.sizes import human_bytes

from .asked import Asked
from .followed import follow_moves, order_of, path_of_move
from .shown import print_done
from .values import BANDWIDTH, DISK, DURATION, FREEZE, MOMENT

if TYPE_CHECKING:
    from replicad.catalog import Catalog
    from replicad.cli.daemon_client import Daemon
    from replicad.settings import Settings

_PARTLY_DONE = 3
_MOST_ROUNDS = 1_000

Facts = dict[str, Any]


@click.command("start")
@click.argument("source", shell_complete=complete_vm)
@click.argument("destination")
@click.option(
    "--disk", "disks", multiple=True, type=DISK, metavar="PATTERN=DIR", help="Disks that fit go to DIR. Repeatable."
)
@click.option(
    "--max-freeze", type=FREEZE, metavar="TIME", default=f"{MAX_FREEZE_S:g}s", show_default=True,
    help="How long the machine may stand still: 200ms, 5s.",
)  # fmt: skip
@click.option(
    "--max-rounds", type=click.IntRange(1, _MOST_ROUNDS), default=MAX_ROUNDS, show_default=True, metavar="N",
    help="How often what was written meanwhile is sent before it is said that the machine writes too much.",
)  # fmt: skip
@click.option(
    "--on-no-convergence", type=click.Choice([word.value for word in NoConvergence]), default=NoConvergence.ABORT.value,
    show_default=True, help="If it writes faster than that can be sent: give up, or let it stand still for longer.",
)  # fmt: skip
@click.option(
    "--proof", type=click.Choice([word.value for word in Proof]), default=Proof.ALL.value, show_default=True,
    help="What is read back before the switch of what a server copied by itself: all of it, or a sample.",
)  # fmt: skip
@click.option("--keep-source", is_flag=True, help="Rename the source's files, and never delete them.")
@click.option("--grace", type=DURATION, metavar="TIME", help="Rename them, and delete them after this time: 24h.")
@click.option(
    "--monitor", metavar="PATH", help="The QMP socket of the machine, where the configuration does not say it."
)
@click.option(
    "--bandwidth", type=BANDWIDTH, metavar="RATE",
    help="The most to read or send, beside the configuration's limits: 50M, or a timetable as in the configuration.",
)  # fmt: skip
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    metavar="N",
    help="Of several that wait the highest goes first.",
)
@click.option("--at", type=MOMENT, metavar="TIME", help="Have the daemon begin then: 22:00, 2026-11-30T01:00.")
@click.option("--wait/--no-wait", default=True, help="Follow the daemon's moves to their ends, or only ask for them.")
@click.option("--dry-run", is_flag=True, help="Look at everything, and tell what would be moved where; move nothing.")
@config_option
@json_option
@standalone_option
def start(
    source: str,
    destination: str,
    disks: tuple[tuple[str, str], ...],
    max_freeze: float,
    max_rounds: int,
    on_no_convergence: str,
    proof: str,
    keep_source: bool,
    grace: int | None,
    monitor: str | None,
    bandwidth: str | None,
    priority: int,
    at: datetime | None,
    wait: bool,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
    standalone: bool,
) -> int:
    r"""Move a virtual machine from SOURCE to DESTINATION while it runs.

    SOURCE is the name of a machine of the configuration, or the directory with its disks. All files in it are taken
    along. DESTINATION is the machine's new directory: its files will lie in it, not in one below. It is made if it is
    missing; nothing in it is ever overwritten.

    A pattern, for names or as the last part of a directory ('web*', '\\nas1\vms\*'), moves every machine that fits, one
    after the other, each into a directory of its own below DESTINATION, which has to be there then; so do the
    directories of --disk. Exit code 3 if some can't be moved.

    A daemon that runs does it, and goes on with it also when this command is interrupted. A move that was interrupted,
    or failed, is gone on with when it is started again, with the options that are given then.
    """
    if keep_source and grace is not None:
        raise click.UsageError("a source that is kept has no time to be deleted at: give --keep-source or --grace")
    options = MoveOptions(
        max_freeze_s=max_freeze,
        max_rounds=max_rounds,
        on_no_convergence=NoConvergence(on_no_convergence),
        source_after=SourceAfter.KEEP if keep_source else SourceAfter.DELETE,
        grace_s=grace or 0,
        proof=Proof(proof),
        bandwidth=bandwidth,
        priority=priority,
    )
    asked = Asked(source, destination, disks, options, monitor)
    if dry_run:
        return _tell_plans(load_configuration(config), asked, as_json)
    if standalone and (at is not None or not wait):
        raise click.UsageError("--at and --no-wait are for the daemon: give them without --standalone")
    if not standalone:
        from replicad.cli.daemon_client import needed_daemon, running_daemon

        daemon = (
            running_daemon(config) if wait and at is None else needed_daemon(config, "ask for", f"a move of {source}")
        )
        if daemon is not None:
            return _by_daemon(daemon, "/moves", order_of(asked, None if at is None else at.isoformat()), wait, as_json)
        say_no_daemon()
    settings = load_configuration(config)
    return _carry_out(lambda observe, tell: _start(settings, asked, observe, tell), as_json)


@click.command("resume")
@click.argument("move_id", metavar="ID")
@config_option
@json_option
@standalone_option
def resume(move_id: str, config: Path | None, as_json: bool, standalone: bool) -> int:
    """Go on with a move that was interrupted, or failed, wherever it was.

    Of one that is done but for its source's files, the files are deleted if their time has come.
    """
    if not standalone:
        from replicad.cli.daemon_client import running_daemon

        daemon = running_daemon(config)
        if daemon is not None:
            return _by_daemon(daemon, path_of_move(move_id, "resume"), {}, True, as_json)
    settings = load_configuration(config)
    return _carry_out(lambda observe, tell: _resume(settings, move_id, observe, tell), as_json)


class _Came:
    """What came of several moves: those that were carried out, and of the others their machines, their ids where they
    can be gone on with, and their errors."""

    def __init__(self) -> None:
        self.moves: list[Facts] = []
        self.failed: list[tuple[str, str | None, ReplicadError]] = []


async def _start(settings: Settings, asked: Asked, observe: Observer, tell: Callable[[str], None]) -> _Came:
    from replicad.service.moving.orders import moves_of

    from .here import moving, opened_catalog

    came = _Came()
    async with opened_catalog(settings, observe) as catalog:
        async with moving(settings, catalog, observe) as here:
            moves = await moves_of(
                asked.source, asked.wanted, await catalog.moves(), settings, here.shares, here.ctx.new_id,
                here.ctx.clock.now(),
            )  # fmt: skip
        for known in moves:
            if known.record.files:
                tell(_going_on(known.vm, known.id))
            watch = observe if len(moves) == 1 else _named(known.vm, observe)
            try:
                came.moves.append(await _carried_out(settings, catalog, known, watch, tell))
            except ReplicadError as error:
                came.failed.append((known.vm, await _left_id(catalog, known), error))
    return came


async def _left_id(catalog: Catalog, known: KnownMove) -> str | None:
    """That of the move, if anything of it is remembered."""
    return next((one.id for one in await catalog.moves() if one.id == known.id), None)


async def _resume(settings: Settings, move_id: str, observe: Observer, tell: Callable[[str], None]) -> _Came:
    from .here import opened_catalog

    came = _Came()
    async with opened_catalog(settings, observe) as catalog:
        known = await catalog.move(move_id)
        if known.phase.has_ended:
            raise ConflictError("go on with", f"move {shown_id(known.id)} of {known.vm}", f"it is {known.phase}")
        try:
            came.moves.append(await _carried_out(settings, catalog, known, observe, tell))
        except ReplicadError as error:
            came.failed.append((known.vm, known.id, error))
    return came


async def _carried_out(
    settings: Settings, catalog: Catalog, known: KnownMove, observe: Observer, tell: Callable[[str], None]
) -> Facts:
    from .here import facts_of, moving

    try:
        async with moving(settings, catalog, observe, known.record.options.bandwidth) as here:
            return facts_of(await here.mover.carry_out(known))
    finally:
        left = next((one for one in await catalog.moves() if one.id == known.id), None)
        if left is not None and left.ended is None and left.phase is not MovePhase.RETIRED:
            short = shown_id(left.id)
            back = f", or taken back by 'replicad move cancel {short}'" if left.record.can_be_cancelled else ""
            tell(f"{left.vm}: what is left of the move is gone on with by 'replicad move resume {short}'{back}")


def _named(vm: str, observe: Observer) -> Observer:
    """One that says which machine a phase or a warning is of."""

    def hear(event: ProgressEvent) -> None:
        if isinstance(event, PhaseStarted):
            event = replace(event, name=f"{vm}: {event.name}")
        elif isinstance(event, Warned):
            event = replace(event, text=f"{vm}: {event.text}")
        observe(event)

    return hear


def _carry_out(work: Callable[[Observer, Callable[[str], None]], Coroutine[Any, Any, _Came]], as_json: bool) -> int:
    from replicad.cli.progress import showing_progress
    from replicad.cli.run_async import run_async

    said: list[str] = []
    try:
        with showing_progress() as observe:
            came = run_async(work(observe, said.append))
    finally:
        for text in said:
            _say(text)
    return _print(came, as_json)


def _by_daemon(daemon: Daemon, path: str, order: Facts, wait: bool, as_json: bool) -> int:
    from replicad.cli.daemon_client import ToldError
    from replicad.cli.progress import showing_progress

    answer = daemon.post(path, order)
    views = answer.get("moves", [answer])
    ids = [view["move"]["id"] for view in views]
    for view in views if path == "/moves" else ():
        if view["move"]["files"]:
            _say(_going_on(view["move"]["vm"], view["move"]["id"]))
    if not wait or order.get("at") is not None:
        if as_json:
            print_json({"moves": [view["move"] for view in views], "failed": []})
        for view in views if not as_json else ():
            move = view["move"]
            print_line(f"{move['vm']}: 'replicad move show {shown_id(move['id'])}' tells how the move stands")
        return 0
    try:
        with showing_progress() as observe:
            views = follow_moves(daemon, ids, observe)
    except KeyboardInterrupt:
        click.echo("replicad: the moves go on in the daemon; 'replicad move list' tells how they stand", err=True)
        raise
    came = _Came()
    for view in views:
        move = view["move"]
        if move["error"] is None:
            came.moves.append(move)
        else:
            code = TransientError.exit_code if view["retry_at"] is not None else PermanentError.exit_code
            came.failed.append((move["vm"], move["id"], ToldError("", move["error"], code)))
    return _print(came, as_json)


def _going_on(vm: str, move_id: str) -> str:
    return f"{vm}: going on with move {shown_id(move_id)}, which was begun before"


def _say(text: str) -> None:
    click.echo(f"replicad: {printable(text)}", err=True)


def _print(came: _Came, as_json: bool) -> int:
    if as_json:
        failed = [{"vm": vm, "id": move_id, "error": str(error)} for vm, move_id, error in came.failed]
        print_json({"moves": came.moves, "failed": failed})
    else:
        for move in came.moves:
            print_done(move)
    if len(came.moves) + len(came.failed) == 1:
        if came.failed:
            raise came.failed[0][2]
        return 0
    if not as_json:
        print_line(f"{len(came.moves)} of {len(came.moves) + len(came.failed)} machines moved")
    if not came.moves:
        raise ExceptionGroup("no machine was moved", [error for *_, error in came.failed])
    for vm, _, error in came.failed:
        click.echo(f"replicad: {printable(vm)}: {printable(str(error))}", err=True)
    return _PARTLY_DONE if came.failed else 0


def _tell_plans(settings: Settings, asked: Asked, as_json: bool) -> int:
    from replicad.cli.progress import showing_progress
    from replicad.cli.run_async import run_async

    with showing_progress() as observe:
        plans = run_async(_plans(settings, asked, observe))
    if as_json:
        print_json({"dry_run": True, "moves": plans})
        return 0
    for plan in plans:
        runs = "it runs, and would be moved while it does" if plan["runs"] else "nobody uses its disks"
        print_line(f"{plan['vm']}: {human_bytes(plan['copied_bytes'])} would be copied; {runs}; nothing was moved")
        rows = [[f["path"], human_bytes(f["size_bytes"]), f["to"]] for f in plan["files"]]
        print_table(["file", "size", "to"], rows, right=[1])
        for warning in plan["warnings"]:
            print_line(f"warning: {warning}")
    return 0


async def _plans(settings: Settings, asked: Asked, observe: Observer) -> list[Facts]:
    from replicad.hypervisor.port import Usage
    from replicad.service.moving.orders import moves_of

    from .here import facts_of, moving, opened_catalog

    plans = []
    async with (
        opened_catalog(settings, observe) as catalog,
        moving(settings, catalog, observe, asked.wanted.options.bandwidth) as here,
    ):
        new_id, now = here.ctx.new_id, here.ctx.clock.now()
        for known in await moves_of(asked.source, asked.wanted, (), settings, here.shares, new_id, now):
            plan = await here.mover.plan(known)
            facts = facts_of(plan.move)
            plans.append(
                {
                    **{key: facts[key] for key in ("vm", "source", "places", "files")},
                    "copied_bytes": plan.copied_bytes,
                    "runs": plan.usage is Usage.RUNNING,
                    "warnings": list(plan.warnings),
                }
            )
    return plans
