"""`replicad move list`, `show` and `cancel`: moves that this host knows of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.cli.options import config_option, json_option, load_configuration
from replicad.cli.output import print_json, print_line
from replicad.model.progress import Observer

from .shown import print_move, print_moves

if TYPE_CHECKING:
    from replicad.settings import Settings

_SHOWN_ENDED = 10
_NOT_SEEN: dict[str, Any] = {"progress": None, "predicted_freeze_s": None, "retry_at": None}
"""Where no daemon works on moves."""


@click.command("list")
@click.option(
    "--all", "shows_all", is_flag=True, help=f"Those that ended longer ago than the latest {_SHOWN_ENDED}, too."
)
@config_option
@json_option
def list_moves(shows_all: bool, config: Path | None, as_json: bool) -> None:
    """List moves: those that have not ended, and the latest of those that have."""
    from replicad.cli.daemon_client import running_daemon
    from replicad.cli.progress import say_warning
    from replicad.cli.run_async import run_async

    settings, daemon = load_configuration(config), running_daemon(config)
    if daemon is not None:
        moves = [_seen(view) for view in daemon.get("/moves")["moves"]]
    else:
        moves = run_async(_known(settings, say_warning))
    ended = [move for move in moves if move["ended"] is not None]
    if not shows_all:
        left_out = {move["id"] for move in ended[:-_SHOWN_ENDED]}
        moves = [move for move in moves if move["id"] not in left_out]
    if as_json:
        print_json({"moves": moves})
    elif moves:
        print_moves(list(moves))
    else:
        print_line("there are no moves")


@click.command("show")
@click.argument("move_id", metavar="ID")
@config_option
@json_option
def show(move_id: str, config: Path | None, as_json: bool) -> None:
    """Show one move with its files. Any first digits of ID do, if no other move has them.

    While the daemon works on it, also how far it is, and how long its machine would stand still if
    it were switched now.
    """
    from replicad.cli.daemon_client import running_daemon
    from replicad.cli.progress import say_warning
    from replicad.cli.run_async import run_async

    from .followed import path_of_move

    settings, daemon = load_configuration(config), running_daemon(config)
    if daemon is not None:
        move = _seen(daemon.get(path_of_move(move_id)))
    else:
        move = run_async(_one(settings, move_id, say_warning))
    if as_json:
        print_json(move)
    else:
        print_move(move)


@click.command("cancel")
@click.argument("move_id", metavar="ID")
@config_option
@json_option
def cancel(move_id: str, config: Path | None, as_json: bool) -> None:
    """Take a move back that has not come to its switch: what it brought to its destination is removed.

    The machine goes on at its source, where nothing was touched. One that another process works on is interrupted
    there, first.
    """
    from replicad.cli.daemon_client import running_daemon
    from replicad.cli.progress import showing_progress
    from replicad.cli.run_async import run_async

    from .followed import path_of_move

    daemon = running_daemon(config)
    settings = load_configuration(config)
    with showing_progress() as observe:
        if daemon is not None:
            move = daemon.post(path_of_move(move_id, "cancel"))["move"]
        else:
            move = run_async(_cancel(settings, move_id, observe))
    if as_json:
        print_json(move)
    else:
        print_line(f"{move['vm']}: the move is taken back; the machine goes on at {move['source']}")


def _seen(view: dict[str, Any]) -> dict[str, Any]:
    """A move, with what the daemon does with it now."""
    move: dict[str, Any] = view["move"]
    return move | {key: view[key] for key in _NOT_SEEN}


async def _known(settings: Settings, observe: Observer) -> list[dict[str, Any]]:
    from .here import facts_of, opened_catalog

    async with opened_catalog(settings, observe) as catalog:
        return [facts_of(move) | _NOT_SEEN for move in await catalog.moves()]


async def _one(settings: Settings, move_id: str, observe: Observer) -> dict[str, Any]:
    from .here import facts_of, opened_catalog

    async with opened_catalog(settings, observe) as catalog:
        return facts_of(await catalog.move(move_id)) | _NOT_SEEN


async def _cancel(settings: Settings, move_id: str, observe: Observer) -> dict[str, Any]:
    from .here import facts_of, moving, opened_catalog

    async with opened_catalog(settings, observe) as catalog:
        known = await catalog.move(move_id)
        async with moving(settings, catalog, observe) as here:
            return facts_of(await here.mover.cancel(known))
