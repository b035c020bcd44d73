"""What somebody who orders a move means by its source and its destination."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from replicad.model.address import Address, LocalAddress, parse_address
from replicad.model.errors import ConfigError, ConflictError, NotFoundError, TransientError
from replicad.model.known_moves import KnownMove, MoveOrder, shown_id
from replicad.model.moves import MoveOptions, MovePhase, MoveRecord
from replicad.model.names import check_name, folded, is_literal, last_part, matches, printable
from replicad.service.compose import Shares
from replicad.settings import Settings
from replicad.storage.port import Share
from replicad.workflows.move_files import is_put_away

from .left import left_move


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is to be moved. `is_configured`: it has that name in the configuration."""

    vm: str
    source: Address
    is_configured: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The machines that an order is about. `by_pattern`: there may be any number, each has a directory of its own."""

    machines: tuple[Machine, ...]
    by_pattern: bool


def is_address(source: str) -> bool:
    """Whether somebody gave a place and not a name: names have no separators."""
    return "/" in source or "\\" in source


async def find_machines(source: str, settings: Settings, shares: Shares) -> Found:
    r"""The machines that `source` means: the name of a configured one, or the address of its directory; a pattern for
    such names, or one as the last part of an address (`\\nas1\vms\*`), means each that fits.

    NotFoundError where nothing fits, ConfigError for what is no address; raises what listing a share does.
    """
    by_pattern = not is_literal(last_part(source.replace("\\", "/")))
    if not is_address(source):
        return Found(_by_name(source, settings) if by_pattern else (_configured(source, settings),), by_pattern)
    if not by_pattern:
        return Found((_at(parse_address(source), settings),), by_pattern=False)
    cut = max(source.rfind("/"), source.rfind("\\"))
    above, pattern = parse_address(source[:cut] or source[: cut + 1]), source[cut + 1 :]
    if not is_literal(str(above)):
        raise ConfigError("read", f"source '{printable(source)}'", "only its last part can be a pattern")
    share = await shares.open(above)
    names = [e.name for e in await share.list("") if e.is_dir and not e.is_link and not e.name.startswith(".")]
    fitting = [name for name in names if matches(name, pattern) and await _has_files(share, name)]
    if not fitting:
        raise NotFoundError(
            "find", f"'{pattern}' in {above}", "no directory with files fits that", "Correct the pattern."
        )
    return Found(tuple(_at(above.child(name), settings) for name in fitting), by_pattern=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where machines are to go, and how. `disks` are patterns with the directories for what fits them; `monitor` is
    the path of a QMP socket, where the configuration does not say it."""

    destination: Address
    disks: tuple[tuple[str, Address], ...]
    options: MoveOptions
    monitor: str | None = None

    def each_below(self, vm: str) -> Wanted:
        """The same for one machine of several, which has its own directory in each of these."""
        disks = tuple((pattern, place.child(vm)) for pattern, place in self.disks)
        return replace(self, destination=self.destination.child(vm), disks=disks)


async def moves_of(
    source: str, wanted: Wanted, known: Sequence[KnownMove], settings: Settings, shares: Shares,
    new_id: Callable[[], str], now: datetime,
) -> list[KnownMove]:  # fmt: skip
    """The moves that an order is about, one for each machine that `source` means: as `move_of`, and if there is none
    yet, that which is left at the destination (`left_move`).

    Raises as `find_machines`, `move_of` and `left_move`; ConfigError for one monitor and several machines;
    NotFoundError where each of several machines is to have its directory in one that is not there.
    """
    found = await find_machines(source, settings, shares)
    if wanted.monitor is not None and len(found.machines) > 1:
        raise ConfigError("take", "a monitor for a move", "it is the socket of one machine, and several fit")
    if found.by_pattern:
        for place in {wanted.destination, *(place for _, place in wanted.disks)}:
            await _refuse_missing(place, shares)
    moves = []
    for machine in found.machines:
        own = wanted.each_below(machine.vm) if found.by_pattern else wanted
        move = move_of(machine, own, known, new_id, now)
        if move.id not in {one.id for one in known}:
            with suppress(TransientError):  # a server may be away until the move's turn comes
                at_source = await shares.open(machine.source, vm=machine.vm)
                at_destination = await shares.open(own.destination, vm=machine.vm)
                move = await left_move(move, known, at_source, at_destination)
        moves.append(move)
    return moves


async def _refuse_missing(place: Address, shares: Shares) -> None:
    try:
        with suppress(TransientError):
            await (await shares.open(place)).stat("")
    except NotFoundError:
        raise NotFoundError(
            "move to", str(place), "it is not there", "Make it: each machine gets a directory of its own in it."
        ) from None


def move_of(
    machine: Machine, wanted: Wanted, known: Sequence[KnownMove], new_id: Callable[[], str], now: datetime
) -> KnownMove:
    """The move of this machine that was begun before and has not come to its switch's end, if there is one, with the
    options that are wanted now; else a new one. ConflictError if that one goes elsewhere."""
    move = _new_move(machine, wanted, new_id, now)
    for before in known:
        if before.ended is None and before.phase is not MovePhase.RETIRED and _is_of(before, machine):
            if not _goes_to(before, move):
                back = f", or take it back by 'replicad move cancel {shown_id(before.id)}'"
                raise ConflictError(
                    "move", machine.vm, f"its move to {before.record.places[0]} has not ended",
                    f"Go on with it by 'replicad move resume {shown_id(before.id)}'"
                    f"{back if before.record.can_be_cancelled else ''}.",
                )  # fmt: skip
            monitor = move.order.monitor or before.order.monitor
            order = replace(before.order, monitor=monitor)
            return replace(before, record=replace(before.record, options=wanted.options), order=order)
    return move


def _goes_to(before: KnownMove, move: KnownMove) -> bool:
    """Whether the files of two moves go to the same places."""
    return (before.record.places, before.order.elsewhere) == (move.record.places, move.order.elsewhere)


def _new_move(machine: Machine, wanted: Wanted, new_id: Callable[[], str], now: datetime) -> KnownMove:
    places = [wanted.destination]
    elsewhere = []
    for pattern, place in wanted.disks:
        number = next((n for n, other in enumerate(places) if _is_same(other, place)), len(places))
        if number == len(places):
            places.append(place)
        elsewhere.append((pattern, number))
    addresses = tuple(str(place) for place in places)
    record = MoveRecord(new_id(), machine.vm, str(machine.source), addresses, now, wanted.options)
    return KnownMove(record, MoveOrder(tuple(elsewhere), wanted.monitor, machine.is_configured))


def _is_of(move: KnownMove, machine: Machine) -> bool:
    return _is_same(parse_address(move.record.source), machine.source)


async def _has_files(share: Share, directory: str) -> bool:
    """Not so where a machine has been moved away."""
    return any(not is_put_away(entry.name) for entry in await share.list(directory))


def _by_name(pattern: str, settings: Settings) -> tuple[Machine, ...]:
    names = [name for name in settings.virtual_machines if matches(name, pattern)]
    if not names:
        raise NotFoundError(
            "find", f"virtual machines '{printable(pattern)}' in {settings.file}", "no name fits that",
            f"The configured ones are: {', '.join(sorted(settings.virtual_machines)) or 'none'}.",
        )  # fmt: skip
    return tuple(_configured(name, settings) for name in names)


def _configured(name: str, settings: Settings) -> Machine:
    return Machine(name, settings.machine(name).source, is_configured=True)


def _at(address: Address, settings: Settings) -> Machine:
    """The configured machine that has its disks there, also if it is reached by another way as it is configured; or
    else one with the name of its directory."""
    for machine in settings.virtual_machines.values():
        if _is_same(machine.source, address) or _is_seen_as(machine.source, address, settings):
            return Machine(machine.name, machine.source, is_configured=True)
    name = last_part(address.path) if isinstance(address, LocalAddress) else last_part(address.path) or address.share
    return Machine(check_name(name, "machine"), address, is_configured=False)


def _is_seen_as(one: Address, other: Address, settings: Settings) -> bool:
    """Whether one is a share, and the other where this host has it mounted."""
    return settings.seen_at(one) is not None and settings.seen_at(one) == settings.seen_at(other)


def _is_same(one: Address, other: Address) -> bool:
    if isinstance(one, LocalAddress) or isinstance(other, LocalAddress):
        return one == other
    return folded(str(one)) == folded(str(other))
