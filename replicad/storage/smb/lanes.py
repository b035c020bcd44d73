"""The handles of one open file, one on each link that carries data for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from replicad.model.errors import ReplicadError, TransientError
from replicad.storage.together import together

from . import calls
from .bundle import Bundle
from .calls import Access, Disposition, Handle, Options, Sharing
from .link import Link, Tree

LARGE_BYTES = 256 * 1024
"""Calls that move less stay on the main link: there is nothing to win."""
_NO_FILE_IDS = frozenset({0, 0xFFFF_FFFF_FFFF_FFFF})
"""What servers answer that can't tell (MS-FSCC §2.1.9)."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a file was opened, so that it can be opened the same way once more."""

    remote_path: str
    access: Access
    sharing: Sharing


class Lane:
    """A handle of the file on one link."""

    __slots__ = ("handle", "tree", "unflushed")

    def __init__(self, tree: Tree, handle: Handle) -> None:
        self.tree = tree
        self.handle = handle
        self.unflushed = False
        """Whether anything may have been written through it since its last flush."""


class Lanes:
    """Chooses the link for each call that moves data: the one with the fewest bytes under way.

    The file is opened on an extra link when a large call first finds all others busier; the extra links themselves are
    made when that happens for the first time. So whoever makes one call at a time pays for neither. A file that can't
    be opened there, or is not the same one any more under its name, stays on the links where it is open.
    """

    def __init__(self, bundle: Bundle, main: Lane, opening: Opening, subject: str) -> None:
        self.main = main
        self._bundle = bundle
        self._opening = opening
        self._subject = subject
        self._lanes: dict[Link, Lane] = {main.tree.link: main}
        self._tried: set[Link] = set()
        """Links on which the file is being opened, or could not be."""
        self._file_id: int | None = None
        self._closed = False

    @asynccontextmanager
    async def lane(self, length_bytes: int) -> AsyncIterator[Lane]:
        """Where to move so many bytes."""
        lane = self.main
        if length_bytes >= LARGE_BYTES and self._bundle.main.carried_bytes > 0:
            lane = await self._least_busy(length_bytes)
        with lane.tree.link.carrying(length_bytes):
            yield lane

    async def _least_busy(self, length_bytes: int) -> Lane:
        if self._bundle.may_grow:
            await self._bundle.settle()
        candidates = (one for one in self._bundle.links if one in self._lanes or one not in self._tried)
        link = min(candidates, key=_carried_bytes)
        if link not in self._lanes:
            with link.carrying(length_bytes):
                await self._open_on(link)
            if link not in self._lanes:
                link = min(self._lanes, key=_carried_bytes)
        return self._lanes[link]

    async def _open_on(self, link: Link) -> None:
        """Open the file on one more link, if that can be done."""
        self._tried.add(link)
        try:
            tree = await link.tree(self.main.tree.share)
            if self._file_id is None:
                facts = await self._bundle.main.run(
                    "look at", self._subject, lambda job: calls.query_facts(self.main.tree, self.main.handle)
                )
                self._file_id = facts.file_id
            lane = await link.run("open", self._subject, lambda job: self._open_again(tree), undo=_close)
        except ReplicadError:
            return  # what went wrong with the server shows at the call on the main link as well, if it matters there
        except asyncio.CancelledError:
            self._tried.discard(link)
            raise
        if lane is not None and self._closed:
            await self._close_one(lane)
        elif lane is not None:
            self._lanes[link] = lane

    def _open_again(self, tree: Tree) -> Lane | None:
        """Blocking: the file on another link; None if its name leads to another file by now."""
        opening = self._opening
        handle = calls.create(
            tree, opening.remote_path, opening.access, opening.sharing, Disposition.OPEN, Options.NON_DIRECTORY
        )
        try:
            file_id = calls.query_facts(tree, handle).file_id
        except BaseException:
            calls.close(tree, handle)
            raise
        if file_id == self._file_id and file_id not in _NO_FILE_IDS:
            return Lane(tree, handle)
        calls.close(tree, handle)
        return None

    async def flush(self) -> None:
        """On return everything that was written through any handle, and the size, is durable.

        A flush is meant to be one of the whole file (MS-FSA §2.1.5.7; Samba: fsync), but is asked for of one handle and
        for what that one has cached (MS-SMB2 §3.3.5.11). So each handle that has written since its last one gets one.
        """
        lanes = [lane for lane in self._lanes.values() if lane is self.main or lane.unflushed]
        for lane in lanes:
            lane.unflushed = False
        try:
            await together(self._flush_one, lanes, len(lanes))
        except BaseException:
            for lane in lanes:
                lane.unflushed = True
            raise

    async def _flush_one(self, lane: Lane) -> None:
        await lane.tree.link.run("flush", self._subject, lambda job: calls.flush(lane.tree, lane.handle))

    async def close(self) -> None:
        """Close every handle, the main one last. Never raises because of a lost connection."""
        self._closed = True
        async with AsyncExitStack() as stack:
            for lane in self._lanes.values():
                stack.push_async_callback(self._close_one, lane)

    async def _close_one(self, lane: Lane) -> None:
        with contextlib.suppress(TransientError):  # the connection is lost, and the file is closed with it
            await lane.tree.link.run("close", self._subject, lambda job: _close(lane), gives_back=True)


def _carried_bytes(link: Link) -> int:
    return link.carried_bytes


def _close(lane: Lane | None) -> None:
    if lane is not None:
        calls.close(lane.tree, lane.handle)
