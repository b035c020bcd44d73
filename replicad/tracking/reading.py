"""Opening files for a view, and making sure in the end that they are what they were."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack

from replicad.model.errors import BusyError
from replicad.storage.port import Identity, OpenMode, Share

from .port import SelectedFile, SnapshotFile


async def open_file(
    files: AsyncExitStack, share: Share, path: str, selected: SelectedFile, mode: OpenMode = OpenMode.READ
) -> SnapshotFile:
    """The file at `path` of a share, to be read as the selected one until `files` end."""
    file = await files.enter_async_context(await share.open(path, mode))
    size_bytes = (await file.identity()).size_bytes
    allocated_bytes = (await share.stat(path)).allocated_bytes
    return SnapshotFile(selected.path, selected.kind, selected.named, file, size_bytes, allocated_bytes)


async def confirmation(files: Sequence[SnapshotFile], what: str, hint: str) -> Callable[[], Awaitable[None]]:
    """What raises BusyError if any of the files, as far as the share tells it, was written after this call."""
    before = [await file.file.identity() for file in files]

    async def confirm() -> None:
        for file, was in zip(files, before, strict=True):
            now = await file.file.identity()
            if now != was:
                raise BusyError("read", file.path, f"{_difference(was, now)} {what}", hint)

    return confirm


def _difference(was: Identity, now: Identity) -> str:
    if now.size_bytes != was.size_bytes:
        return f"its size changed from {was.size_bytes} to {now.size_bytes} bytes"
    return "it was written"


def link_warnings(links: Iterable[str]) -> tuple[str, ...]:
    """What to say of links that would have been read, were they files."""
    return tuple(f"'{link}' is a symbolic link, and links are not followed" for link in links)
