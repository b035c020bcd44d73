"""The names of a move's files: given and taken back at the destination, and put away at the source.

Each of these can be called again after any crash, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b

from replicad.model.errors import AlreadyExistsError, ConflictError, IntegrityError, NotFoundError
from replicad.model.moves import MovedFile, MoveRecord
from replicad.model.names import MAX_NAME_BYTES, join, last_part, parent, path_on
from replicad.replica.directory import make_durable_dir
from replicad.storage.documents import remove_tree
from replicad.storage.port import Share, Stat
from replicad.storage.together import together

from .move_journal import directory_of, incoming
from .move_parts import MoveParts

_AT_ONCE = 8
_ID_DIGITS = 8


async def found(share: Share, path: str) -> Stat | None:
    """What there is of that name."""
    try:
        return await share.stat(path)
    except NotFoundError:
        return None


async def give_names(record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts) -> None:
    """Rename what has come to the names that it is to have there; durable after `flush_names`.

    ConflictError if somebody has made a file of such a name meanwhile; IntegrityError if one of ours is gone.
    """

    async def give(file: MovedFile) -> None:
        place, lies_at = parts.place_of(file), incoming(record, file.number)
        try:
            await place.rename(lies_at, file.target)
        except NotFoundError:
            if await found(place, file.target) is None:
                answer = "neither the file that was copied nor one of its final name is there"
                raise IntegrityError("move to", path_on(place.name, file.target), answer) from None
        except AlreadyExistsError as error:
            raise ConflictError(
                "move to", path_on(place.name, file.target), "somebody has made a file of that name meanwhile",
                "Move it away; the machine is still used at the source.",
            ) from error  # fmt: skip

    await together(give, files, _AT_ONCE)


async def take_names_back(record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts) -> None:
    """The opposite of `give_names`, durable on return; fine where none was given."""

    async def take(file: MovedFile) -> None:
        place, lies_at = parts.place_of(file), incoming(record, file.number)
        if await found(place, lies_at) is None and await found(place, file.target) is not None:
            await place.rename(file.target, lies_at)

    await together(take, files, _AT_ONCE)
    await flush_names(record, files, parts)


async def missing_directories(record: MoveRecord, parts: MoveParts) -> tuple[tuple[int, str], ...]:
    """The directories that files will be in and that are not there yet, the inner ones first."""
    missing = []
    for number, directory in sorted({(file.place, parent(file.target)) for file in record.files}):
        while directory and await found(parts.places[number], directory) is None:
            missing.append((number, directory))
            directory = parent(directory)
    return tuple(sorted(set(missing), key=lambda one: (one[0], -one[1].count("/"), one[1])))


async def make_directories(record: MoveRecord, parts: MoveParts) -> None:
    """Those that the files will be in, durably, so that giving names takes one call for each of them."""
    wanted = {(file.place, parent(file.target)) for file in record.files}
    for number, directory in sorted(wanted | {(n, directory_of(record.id)) for n in range(len(parts.places))}):
        if directory:
            await make_durable_dir(parts.places[number], directory)


async def remove_directories(record: MoveRecord, parts: MoveParts) -> None:
    """The move's own directories, with all that is in them."""
    for place in parts.places:
        with suppress(NotFoundError):  # the whole place is gone
            await remove_tree(place, directory_of(record.id))
            await place.flush_directory("")


async def remove_made(record: MoveRecord, parts: MoveParts) -> None:
    """Those of the directories that the move has made and that nobody has put anything into."""
    for number, directory in record.made:
        place = parts.places[number]
        try:
            if not await place.list(directory):
                await place.remove(directory)
        except NotFoundError:
            continue


async def flush_names(record: MoveRecord, files: Sequence[MovedFile], parts: MoveParts) -> None:
    """The names that these files have at the destination are durable on return."""
    directories = {
        (file.place, directory) for file in files for directory in (parent(file.target), directory_of(record.id))
    }

    async def flush(which: tuple[int, str]) -> None:
        await parts.places[which[0]].flush_directory(which[1])

    await together(flush, sorted(directories), _AT_ONCE)


def retired_name(record: MoveRecord, path: str) -> str:
    """What a file of the source is called when the machine does not use it any more."""
    ending = f".moved-{record.id[:_ID_DIGITS]}"
    name = last_part(path)
    if len((name + ending).encode()) > MAX_NAME_BYTES:
        # What is cut off may be all that two names differ in.
        ending = "~" + blake2b(name.encode(), digest_size=4).hexdigest() + ending
    while len((name + ending).encode()) > MAX_NAME_BYTES:
        name = name[:-1]
    return join(parent(path), name + ending)
