"""Tying a move to its shares and to whoever uses the disks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from replicad.hypervisor.command.freezing import CommandFreezer
from replicad.hypervisor.command.switching import CommandUser
from replicad.hypervisor.held import HeldUser
from replicad.hypervisor.port import DiskUser
from replicad.hypervisor.qemu.bitmaps import BitmapTracker
from replicad.hypervisor.qemu.exports import Exports
from replicad.hypervisor.qemu.monitor import Monitor
from replicad.hypervisor.qemu.switching import QemuUser
from replicad.model.address import Address, LocalAddress, parse_address
from replicad.model.errors import NotFoundError
from replicad.model.moves import MovedFile, MoveRecord, NoConvergence
from replicad.model.names import path_on
from replicad.model.points import FileKind
from replicad.service.compose import Shares
from replicad.service.freezing import freeze_journal
from replicad.settings import Consistency, Settings
from replicad.storage.port import Share
from replicad.tracking.cloned_rounds import ClonedRounds
from replicad.tracking.extents import ExtentTracker
from replicad.tracking.marks import MarkStore
from replicad.tracking.plain import PlainView
from replicad.tracking.port import ChangeSource, SelectedFile, Tracker, View
from replicad.tracking.tracked import TrackedSource
from replicad.workflows.context import Context
from replicad.workflows.move_journal import MoveJournal, Remember
from replicad.workflows.move_parts import MoveParts

_COMMAND_TIMEOUT_S = 30.0
_MARGIN_S = 10.0
"""How much longer than it may a machine stands still before it is let go whatever is under way."""


@dataclass(frozen=True, slots=True)
class MovedShares:
    """Both sides of a move, open. `made` are the numbers of the places that were missing."""

    source: Share
    places: tuple[Share, ...]
    made: tuple[int, ...] = ()


async def open_shares(record: MoveRecord, shares: Shares) -> MovedShares:
    """Open both sides. Before anything is planned, places that are missing in a directory that is there are made;
    later they are lost, or not mounted. Raises what connecting raises."""
    source = await shares.open(parse_address(record.source), vm=record.vm)
    places, made = [], []
    for number, place in enumerate(record.places):
        address = parse_address(place)
        share = await shares.open(address, vm=record.vm)
        places.append(share)
        if record.files:
            continue
        try:
            await share.stat("")
        except NotFoundError:
            await _make_place(address, record.vm, shares)
            made.append(number)
    return MovedShares(source, tuple(places), tuple(made))


async def unmake_places(record: MoveRecord, numbers: Iterable[int], shares: Shares) -> None:
    """Remove these places of the move, as they were missing before it, where nobody has put anything into them."""
    for number in numbers:
        above, name = _split(parse_address(record.places[number]))
        if above is None:
            continue  # nobody can make a share from here
        share = await shares.open(above, vm=record.vm)
        with suppress(NotFoundError):
            if not await share.list(name):
                await share.remove(name)
                await share.flush_directory("")


async def _make_place(address: Address, vm: str, shares: Shares) -> None:
    above, name = _split(address)
    if above is None:
        raise NotFoundError(
            "move to", str(address), "it is not there", "Mount what should be there, or correct the destination."
        )
    share = await shares.open(above, vm=vm)
    try:
        await share.stat("")
    except NotFoundError:
        raise NotFoundError(
            "move to", str(address), "neither it nor the directory above it is there",
            "Make it, mount what should be there, or correct the destination.",
        ) from None  # fmt: skip
    await share.make_dir(name)
    await share.flush_directory("")


def _split(address: Address) -> tuple[Address | None, str]:
    """The directory above, if there is one, and the last part."""
    if isinstance(address, LocalAddress):
        above, _, name = address.path.rpartition("/")
        return (LocalAddress(above or "/") if name else None), name
    above, _, name = address.path.rpartition("/")
    return (type(address)(address.server, address.share, above) if name else None), name


def move_parts(
    record: MoveRecord, consistency: Consistency, opened: MovedShares, settings: Settings, ctx: Context,
    remember: Remember, takes: Callable[[str], bool] | None = None,
) -> MoveParts:  # fmt: skip
    """What a move works with. `consistency` says who uses the machine's disks, and `takes` which files of the source
    are its own (None: all). Nobody is connected to yet."""
    held = HeldUser(opened.source, opened.places, consistency.wait_s, ctx.clock, settings.seen_at)
    user: DiskUser = held
    tracker: Tracker | None = None
    if consistency.monitor is not None:
        monitor = Monitor(Path(consistency.monitor), _COMMAND_TIMEOUT_S)
        waits = record.options.on_no_convergence is NoConvergence.FREEZE
        longest_s = None if waits else record.options.max_freeze_s + _MARGIN_S
        journal = freeze_journal(ctx)
        user = QemuUser(monitor, journal, record.vm, settings.seen_at, held, ctx.observe, longest_s)
        directory = settings.seen_at(parse_address(record.source))
        if directory is not None:
            tracker = BitmapTracker(monitor, Exports(monitor), directory)
    elif consistency.commands.switch is not None:
        user = _command_user(record, consistency, opened, ctx)
        if consistency.method == "reflink":
            tracker = ExtentTracker(opened.source, consistency.keep_free.of, ctx.new_id, ctx.hashing, ctx.observe)
    marks = None if ctx.cache is None else MarkStore(ctx.cache)

    def changes(files: Sequence[MovedFile]) -> ChangeSource:
        selected = tuple(SelectedFile(file.path, file.kind, True) for file in files)
        view: View = PlainView(opened.source, selected, ctx.clock.now)
        if isinstance(tracker, ExtentTracker):
            max_stall_s = consistency.max_stall_ms / 1000
            view = ClonedRounds(opened.source, selected, max_stall_s, ctx.clock, consistency.keep_free.of)
        return TrackedSource(view, tracker, marks, ctx.clock, ctx.observe)

    return MoveParts(opened.source, opened.places, user, changes, MoveJournal(opened.places[0], remember), takes)


def _command_user(record: MoveRecord, consistency: Consistency, opened: MovedShares, ctx: Context) -> CommandUser:
    """Who uses the disks of a machine that is switched by commands of its user's. The record is planned."""
    commands = consistency.commands
    if commands.freeze is None or commands.thaw is None or commands.switch is None:
        raise ValueError(f"{record.vm} has a switch, but no freeze and thaw")
    disks = tuple(file.path for file in record.files if file.kind is FileKind.DISK)

    async def named() -> Sequence[str]:
        return [path_on(opened.source.name, path) for path in disks]

    freezer = CommandFreezer(
        record.vm, commands.freeze, commands.thaw, consistency.timeout_s, freeze_journal(ctx), named, ctx.observe
    )
    return CommandUser(freezer, commands.switch, opened.source, opened.places, disks.__contains__)
