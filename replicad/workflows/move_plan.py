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
from replicad.model.sizes import human_bytes
from replicad.storage.port import OpenMode, Share

from .move_files import FoundFile, find_files, kind_of, parents_of, read_links, refuse_broken, refuse_other_machines
from .move_names import found

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
    AlreadyExistsError, ConflictError (also if all of a directory is to go somewhere inside of it, or to where other
    disks are), OutOfSpaceError, AccessDeniedError, InvalidNameError.
    """
    if takes is None:
        _refuse_inside(record)
    found_files = await find_files(source, takes)
    chain = await _chains(record, source, found_files.files, found_files.chosen)
    taken = [file for file in found_files.files if file.path in chain.taken]
    files = tuple(
        replace(file, parent=chain.parents.get(file.path), is_shared=file.path in chain.shared)
        for file in _placed(taken, elsewhere, source)
    )
    await _check_places(record, source, places, files)
    if takes is None:
        await refuse_other_machines(places[0])
    filled = await _filled(taken, files, places)
    await _check_room(record, files, places, filled.needed)
    copied_bytes = sum(_bytes_of(file) for file in taken)
    return MovePlan(replace(record, files=files), copied_bytes, (*found_files.warnings, *filled.warnings))


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
    # Whoever needs a parent needs all that it is based on as well.
    todo = list(shared)
    while todo:
        one = parents.get(todo.pop(), "")
        if one in taken and one not in shared:
            shared.add(one)
            todo.append(one)
    return _Chain(frozenset(taken), parents, frozenset(shared))


def _placed(found_files: Sequence[FoundFile], elsewhere: Sequence[Elsewhere], source: Share) -> list[MovedFile]:
    placed = []
    unused = {one.pattern for one in elsewhere}
    for number, file in enumerate(found_files):
        place = 0
        for one in elsewhere:
            if matches(file.path, one.pattern):
                place = one.place
                unused.discard(one.pattern)
        placed.append(MovedFile(number, file.path, kind_of(file.path), place, file.path, file.size_bytes))
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


@dataclass(frozen=True, slots=True)
class _Filled:
    """How many bytes each file takes at its place, by its path, and where that is more than it takes now."""

    needed: Mapping[str, int]
    warnings: tuple[str, ...]


def _bytes_of(file: FoundFile) -> int:
    return min(file.allocated_bytes, file.size_bytes)


async def _filled(found_files: Sequence[FoundFile], files: Sequence[MovedFile], places: Sequence[Share]) -> _Filled:
    needed = {file.path: _bytes_of(file) for file in found_files}
    warnings = []
    for number, place in enumerate(places):
        sparse = [file for file in files if file.place == number and needed[file.path] < file.size_bytes]
        if sparse and not (await place.capabilities()).sparse:
            more_bytes = sum(file.size_bytes - needed[file.path] for file in sparse)
            needed |= {file.path: file.size_bytes for file in sparse}
            warnings.append(f"{place.name} keeps no holes in files: they take {human_bytes(more_bytes)} more there")
    return _Filled(needed, tuple(warnings))


async def _check_room(
    record: MoveRecord, files: Sequence[MovedFile], places: Sequence[Share], needed_by: Mapping[str, int]
) -> None:
    """OutOfSpaceError where the places lack room for the files, also if the server could copy them without any."""
    needed: dict[str, int] = {}
    lies_on: dict[str, int] = {}
    for file in files:
        where = _file_system(parse_address(record.places[file.place]))
        lies_on.setdefault(where, file.place)
        needed[where] = needed.get(where, _ROOM_FOR_OURSELVES_BYTES) + needed_by[file.path]
    for where, needed_bytes in needed.items():
        place = places[lies_on[where]]
        free_bytes = await place.free_bytes()
        if needed_bytes > free_bytes:
            raise OutOfSpaceError(
                "move to", place.name,
                f"{human_bytes(needed_bytes)} are needed and {human_bytes(free_bytes)} are free",
                f"Make room for {human_bytes(needed_bytes - free_bytes)} more, or choose another destination; nothing "
                "was moved.", missing_bytes=needed_bytes - free_bytes,
            )  # fmt: skip


def _refuse_inside(record: MoveRecord) -> None:
    """ConflictError for a place inside of the source, all of which is to go there: what is there would go as well."""
    source = _parts(parse_address(record.source))
    for place in record.places:
        where = _parts(parse_address(place))
        if len(where) > len(source) and where[: len(source)] == source:
            raise ConflictError(
                "move", record.source, f"its destination {place} is inside of it",
                "Choose one beside it, or say which files are the machine's.",
            )  # fmt: skip


def _parts(address: Address) -> tuple[str, ...]:
    if isinstance(address, SmbAddress):
        return tuple(folded(part) for part in (address.server, address.share, *address.path.split("/")) if part)
    return tuple(part for part in address.path.split("/") if part)


def _file_system(address: Address) -> str:
    """What addresses with the same room have in common, as far as that shows from here: for local ones nothing does."""
    return f"{folded(address.server)}/{folded(address.share)}" if isinstance(address, SmbAddress) else str(address)
