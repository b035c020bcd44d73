"""The consistency method `command` with a snapshot: the moment is shown elsewhere, and the machine goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from replicad.model.address import Address, LocalAddress, SmbAddress
from replicad.model.errors import BusyError, NotFoundError, PermanentError, UnsupportedError
from replicad.model.names import folded, last_part, parent, path_on
from replicad.model.points import Consistency, FileKind
from replicad.storage.port import OpenMode, Share

from .port import Instant, Request, Seen, SelectedFile, SnapshotFile, Snapshotter
from .reading import confirmation, link_warnings, open_file
from .selection import Selection, select, select_files

OpenShare = Callable[[Address], Awaitable[Share]]
_PLACES_HINT = "Have 'snapshot' print the directory to read, or one file for each line of REPLICAD_DISKS in that order."
_LIVE_HINT = "Have 'snapshot' print where the snapshot is, or have the machine write elsewhere while its disk is read."
_CHANGED_HINT = "Have 'snapshot' make a view that nobody writes, and 'release' alone remove it."


@dataclass(frozen=True, slots=True)
class _Shown:
    """A file of the snapshot, and where it lies."""

    file: SnapshotFile
    share: Share
    path: str


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A `View` of what a snapshotter makes: one directory, or a file for each disk.

    In the latter case only the disks are of the moment: other files are read from the source, and the point says so.
    If it names the very disks they are held while they are read: some hypervisors leave them as they are and write
    elsewhere. Where somebody writes them they are refused, or, with `allow_fuzzy`, read for a point that promises
    nothing.
    """

    share: Share
    selection: Selection
    check_path: Callable[[str], str]
    snapshotter: Snapshotter
    open_share: OpenShare
    allow_fuzzy: bool

    async def select(self) -> tuple[SelectedFile, ...]:
        return await select_files(self.share, self.selection, self.check_path)

    @asynccontextmanager
    async def open(self, request: Request, instant: Instant) -> AsyncIterator[Seen]:
        selected = await select(self.share, self.selection, self.check_path)
        await instant.before(selected.files)
        disks = [one for one in selected.files if one.kind is FileKind.DISK]
        paths = [path_on(self.share.name, one.path) for one in disks]
        async with AsyncExitStack() as stack:
            taken = await stack.enter_async_context(self.snapshotter.taken(paths, application=request.application))
            await instant.after()
            directory = await self._directory(taken.places, disks)
            if directory is not None:
                shown, beside = await self._below(stack, directory, selected.files), []
            else:
                shown = await self._one_by_one(stack, taken.places, disks)
                beside = [one for one in selected.files if one.kind is not FileKind.DISK]
            shown, live = await self._held_or_live(stack, shown)
            # Live disks change while they are read: that is what fuzzy means.
            still = [one.file for one in shown if one.file.path not in live]
            confirm = await confirmation(still, "while the snapshot was read", _CHANGED_HINT)
            files = [*(one.file for one in shown), *[await open_file(stack, self.share, b.path, b) for b in beside]]
            warnings = (
                *(f"{path}: the disk itself was read, so the point promises nothing" for path in live),
                *(f"'{one.path}' is no part of the snapshot: it was read from the source after it" for one in beside),
                *link_warnings(selected.links),
            )
            consistency = Consistency.FUZZY if live else taken.consistency
            in_order = tuple(sorted(files, key=lambda file: file.path))
            yield Seen(in_order, consistency, taken.moment, warnings, confirm)

    async def _directory(self, places: Sequence[Address], disks: Sequence[SelectedFile]) -> Share | None:
        """The share of the one directory that holds all; None if there is a file for each disk."""
        if len(places) > 1:
            return None
        share = await self.open_share(places[0])
        if len(disks) > 1:
            with _told(places[0]):
                await share.list("")
            return share
        try:
            return share if (await share.stat("")).is_dir else None
        except NotFoundError:
            return None

    async def _below(self, stack: AsyncExitStack, directory: Share, selected: Sequence[SelectedFile]) -> list[_Shown]:
        there = {one.path for one in (await select(directory, self.selection, self.check_path)).files}
        wanted = {one.path for one in selected}
        if there != wanted:
            missing, more = sorted(wanted - there), sorted(there - wanted)
            answer = f"'{missing[0]}' is not in it" if missing else f"it holds '{more[0]}', which the source does not"
            hint = (
                "Try again if files came or went just now, else have 'snapshot' print what shows the source directory."
            )
            raise BusyError("use the snapshot", directory.name, answer, hint)
        return [
            _Shown(await open_file(stack, directory, one.path, one), directory, one.path) for one in selected
        ]  # fmt: skip

    async def _one_by_one(
        self, stack: AsyncExitStack, places: Sequence[Address], disks: Sequence[SelectedFile]
    ) -> list[_Shown]:
        shares: dict[Address, Share] = {}
        shown: list[_Shown] = []
        for disk, place in zip(disks, places, strict=True):
            above, name = _split(place)
            if above not in shares:
                shares[above] = await self.open_share(above)
            with _told(place):
                file = await open_file(stack, shares[above], name, disk)
            shown.append(_Shown(file, shares[above], name))
        if len({folded(str(place)) for place in places}) < len(places):
            raise PermanentError("use the snapshot", str(places[0]), "two disks can't have one file", _PLACES_HINT)
        return shown

    async def _held_or_live(self, stack: AsyncExitStack, shown: Sequence[_Shown]) -> tuple[list[_Shown], list[str]]:
        """The same, with the disks themselves held, and the paths of those that can't be: somebody writes them. Raises
        unless that is allowed."""
        found: list[_Shown] = []
        live: list[str] = []
        for one in shown:
            selected = SelectedFile(one.file.path, one.file.kind, one.file.named)
            try:
                if await self._is_the_disk(one):
                    held = await open_file(stack, one.share, one.path, selected, OpenMode.HOLD)
                    found.append(_Shown(held, one.share, one.path))
                    continue
            except (BusyError, UnsupportedError) as error:
                if not self.allow_fuzzy:
                    answer = f"it is the disk itself, and no snapshot of it: {error.answer}"
                    subject = path_on(self.share.name, one.file.path)
                    raise PermanentError("use the snapshot", subject, answer, _LIVE_HINT) from None
                live.append(one.file.path)
            found.append(one)
        return found, live

    async def _is_the_disk(self, one: _Shown) -> bool:
        if _is_remote(one.share) or _is_remote(self.share):
            # What servers call a file may be the same in a snapshot.
            return folded(path_on(one.share.name, one.path)) == folded(path_on(self.share.name, one.file.path))
        async with await self.share.open(one.file.path, OpenMode.READ) as disk:
            return (await disk.identity()).file_id == (await one.file.file.identity()).file_id


def _is_remote(share: Share) -> bool:
    return share.name.startswith("\\\\")


def _split(place: Address) -> tuple[Address, str]:
    """The directory that a file lies in, and its name."""
    above: Address
    if isinstance(place, SmbAddress):
        above = SmbAddress(place.server, place.share, parent(place.path))
    else:
        above = LocalAddress(parent(place.path) or "/")
    name = last_part(place.path)
    if not name:
        raise PermanentError("use the snapshot", str(place), "it is no file", _PLACES_HINT)
    return above, name


@contextmanager
def _told(place: Address) -> Iterator[None]:
    """What is missing was named by the snapshotter."""
    try:
        yield
    except NotFoundError as error:
        raise NotFoundError("use the snapshot", str(place), error.answer, _PLACES_HINT) from None
