"""PREPARE: what a move takes where, and everything that can be known to stand in its way before a byte moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from replicad.model.address import Address, SmbAddress, parse_address
from replicad.model.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    OutOfSpaceError,
    ReplicadError,
)
from replicad.model.moves import MovedFile, MoveRecord
from replicad.model.names import folded, is_literal, last_part, matches, parent, path_on
from replicad.model.points import FileKind
from replicad.storage.port import OpenMode, Share

from .move_files import FoundFile, find_files, parents_of, read_links, refuse_broken
from .move_names import found

_DISKS = ("*.vhdx", "*.avhdx", "*.vhd", "*.vhds", "*.iso", "*.raw", "*.img", "*.qcow2")
_ROOM_FOR_OURSELVES_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Files whose path or name fits `pattern` go to the place with this number."""

    pattern: str
    place: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    """The record with its files, how many bytes there are to copy, and what people should know before."""

    record: MoveRecord
    copied_bytes: int
    warnings: tuple[str, ...]


async def plan_move(
    record: MoveRecord,
    source: Share,
    places: Sequence[Share],
    *,
    takes: Callable[[str], bool] | None = None,
    elsewhere: Sequence[Elsewhere] = (),
) -> MovePlan:
    """What `record` is to move, once everything was looked at. Nothing is there afterwards that was not before.

    `takes` says which files belong to the machine; None: all in the directory. Raises, before a byte moves: what
    `find_files` does; NotFoundError for a place that is not there, or a pattern of `elsewhere` that fits nothing;
    AlreadyExistsError, ConflictError, OutOfSpaceError, AccessDeniedError, InvalidNameError.
    """
    everything = await find_files(source, None)
    chosen = everything.files if takes is None else (await find_files(source, takes)).files
    chain = await _chains(record, source, everything.files, {file.path for file in chosen})
    taken = [file for file in everything.files if file.path in chain.taken]
    files = tuple(
        replace(file, parent=chain.parents.get(file.path), is_shared=file.path in chain.shared)
        for file in _placed(taken, elsewhere, source)
    )
    await _check_places(record, source, places, files)
    copied_bytes = await _check_room(record, taken, files, places)
    return MovePlan(replace(record, files=files), copied_bytes, everything.warnings)


@dataclass(frozen=True, slots=True)
class _Chain:
    """The files to take, by their paths, the parents of those that have one, and which of them others use, too."""

    taken: frozenset[str]
    parents: Mapping[str, str]
    shared: frozenset[str]


async def _chains(record: MoveRecord, source: Share, files: Sequence[FoundFile], chosen: Collection[str]) -> _Chain:
    address = parse_address(record.source)
    path_of = {str(address.child(*file.path.split("/"))): file.path for file in files}
    place_of = {path: place for place, path in path_of.items()}
    chains = await read_links(source, files, place_of.__getitem__)
    parents = parents_of(chains, path_of)
    taken, shared = set(chosen), set()
    for child in sorted(chosen):
        one = child
        while (one := parents.get(one, "")) and one not in taken:
            taken.add(one)
            shared.add(one)  # it was not chosen, so somebody else may need it where it is
    refuse_broken(chains, path_of, taken, source)
    shared |= {one for child, one in parents.items() if child not in taken and one in taken}
    return _Chain(frozenset(taken), parents, frozenset(shared))


def _placed(found_files: Sequence[FoundFile], elsewhere: Sequence[Elsewhere], source: Share) -> list[MovedFile]:
    placed = []
    unused = {one.pattern for one in elsewhere}
    for number, file in enumerate(found_files):
        kind = FileKind.DISK if any(matches(file.path, pattern) for pattern in _DISKS) else FileKind.CONFIG
        place = 0
        for one in elsewhere:
            if matches(file.path, one.pattern):
                place = one.place
                unused.discard(one.pattern)
        placed.append(MovedFile(number, file.path, kind, place, file.path, file.size_bytes))
    for pattern in sorted(unused):
        what = "there is no such file" if is_literal(pattern) else "no file fits that"
        raise NotFoundError("move", f"'{pattern}' of {source.name}", what, "Correct --disk; nothing was moved.")
    return placed


async def _check_places(record: MoveRecord, source: Share, places: Sequence[Share], files: Sequence[MovedFile]) -> None:
    """Each place is there, can be written, and has nothing of our names; the source can be renamed."""
    probe = f".replicad-probe-{record.id[:16]}"
    await _try_out(source, probe, "at the source, which is put away in the end", places)
    for place in places:
        await _try_out(place, probe, "at the destination", ())
    names: dict[tuple[int, str], str] = {}
    for file in files:
        place = places[file.place]
        other = names.setdefault((file.place, folded(file.target)), file.path)
        if other != file.path:
            raise ConflictError(
                "move to", path_on(place.name, file.target), f"{other} and {file.path} would have the same name there",
                "Rename one of them.",
            )  # fmt: skip
        if await _in_the_way(place, file.target):
            raise AlreadyExistsError(
                "move to", path_on(place.name, file.target), "there is a file of that name already",
                "Choose another destination, or move it away; nothing was moved.",
            )  # fmt: skip


async def _in_the_way(place: Share, target: str) -> bool:
    """Whether anything has that name, in any case of letters, as shares differ in what they take for the same."""
    try:
        entries = await place.list(parent(target))
    except NotFoundError:
        return False
    return any(folded(entry.name) == folded(last_part(target)) for entry in entries)


async def _try_out(share: Share, probe: str, what: str, others: Sequence[Share]) -> None:
    """Make, rename and remove a file; ConflictError if it shows at one of the others as well: it is the same place."""
    renamed = probe + "-2"
    await _clean(share, probe, renamed)
    try:
        async with await share.open(probe, OpenMode.CREATE):
            pass
        await share.rename(probe, renamed)
        for other in others:
            if await found(other, renamed) is not None:
                raise ConflictError(
                    "move", share.name, f"its destination {other.name} is the same directory", "Choose another one."
                )
    except NotFoundError:
        raise NotFoundError(
            "move", share.name, f"there is no such directory {what}", "Make it, mount it, or correct the path."
        ) from None
    except AccessDeniedError as error:
        raise AccessDeniedError(
            "move", share.name, f"files can't be made and renamed {what}: {error.answer}",
            "Give the user that replicad signs in as the right to change files there.",
        ) from error  # fmt: skip
    finally:
        with suppress(ReplicadError):
            await _clean(share, probe, renamed)


async def _clean(share: Share, *names: str) -> None:
    for name in names:
        with suppress(NotFoundError):
            await share.remove(name)


async def _check_room(
    record: MoveRecord, found_files: Sequence[FoundFile], files: Sequence[MovedFile], places: Sequence[Share]
) -> int:
    """The bytes to be copied; OutOfSpaceError where the places lack room for them."""
    allocated = {file.path: min(file.allocated_bytes, file.size_bytes) for file in found_files}
    needed: dict[str, int] = {}
    lies_on: dict[str, int] = {}
    for file in files:
        where = _file_system(parse_address(record.places[file.place]))
        lies_on.setdefault(where, file.place)
        needed[where] = needed.get(where, _ROOM_FOR_OURSELVES_BYTES) + allocated[file.path]
    for where, needed_bytes in needed.items():
        place = places[lies_on[where]]
        free_bytes = await place.free_bytes()
        if needed_bytes > free_bytes:
            raise OutOfSpaceError(
                "move to", place.name, f"{needed_bytes} bytes are needed and {free_bytes} are free",
                f"Make room for {needed_bytes - free_bytes} bytes more, or choose another destination; nothing was "
                "moved.", missing_bytes=needed_bytes - free_bytes,
            )  # fmt: skip
    return sum(allocated.values())


def _file_system(address: Address) -> str:
    """What addresses with the same room have in common, as far as that shows from here: for local ones nothing does."""
    return f"{folded(address.server)}/{folded(address.share)}" if isinstance(address, SmbAddress) else str(address)
