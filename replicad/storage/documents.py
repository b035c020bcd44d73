"""Small files read and replaced whole, and directories removed whole, on any share."""

from __future__ import annotations

from replicad.model.errors import BusyError, IntegrityError, InvalidNameError, NotFoundError
from replicad.model.names import check_name, join, parent, path_on

from .port import OpenMode, Share

TEMPORARY_SUFFIX = ".tmp"


async def exists(share: Share, path: str) -> bool:
    """Whether there is a file, directory or link at `path`."""
    try:
        await share.stat(path)
    except NotFoundError:
        return False
    return True


async def read_whole(share: Share, path: str, limit_bytes: int) -> bytes:
    """The content of a file of at most `limit_bytes`; IntegrityError, without reading it, if it is larger.

    BusyError if it grew while it was read.
    """
    async with await share.open(path, OpenMode.READ) as file:
        size = (await file.identity()).size_bytes
        if size > limit_bytes:
            answer = f"it is {size} bytes long, and at most {limit_bytes} are expected"
            raise IntegrityError("read", path_on(share.name, path), answer)
        buffer = bytearray(size + 1)
        count = await file.read_into(buffer, 0)
        if count > size:
            raise BusyError("read", path_on(share.name, path), "it grew while it was read", "Try again.")
        return bytes(memoryview(buffer)[:count])


async def replace_whole(share: Share, path: str, data: bytes) -> None:
    """Make `data` the content of `path`: at every moment, whatever dies, it is the old or the new content, whole.

    Durable on return. The new content is written beside it as `<path>.tmp` first; one that was left behind there is
    replaced. Two writers at a time need a lock between them.
    """
    temporary = path + TEMPORARY_SUFFIX
    if await exists(share, temporary):
        await share.remove(temporary)
    async with await share.open(temporary, OpenMode.CREATE) as file:
        await file.write(data, 0)
        await file.flush()
    await share.rename(temporary, path, replace=True)
    await share.flush_directory(parent(path))


def _removable(share: Share, directory: str, name: str) -> str:
    try:
        check_name(name)
    except InvalidNameError as error:
        raise InvalidNameError(
            "remove", path_on(share.name, join(directory, name)), error.answer, "Remove it by other means."
        ) from None
    return join(directory, name)


async def remove_tree(share: Share, path: str) -> None:
    """Remove a file, or a directory with all that is in it; fine if nothing is there.

    Links in it are removed and never followed. InvalidNameError for the root. When it fails midway, calling it
    again goes on. Durable only after `flush_directory` of the parent.
    """
    if not path:
        raise InvalidNameError("remove", share.name, "the root of a share is never removed")
    try:
        top = await share.stat(path)
    except NotFoundError:
        return
    todo = [(path, top.is_dir and not top.is_link)]
    while todo:
        here, unread = todo.pop()
        if unread:
            todo.append((here, False))
            todo += [(_removable(share, here, e.name), e.is_dir and not e.is_link) for e in await share.list(here)]
        else:
            await share.remove(here)
