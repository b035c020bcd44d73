"""Hints from this host's kernel that something changes in a directory."""

from __future__ import annotations

import asyncio
import errno
import os

from replicad.model.errors import NotFoundError, ReplicadError, TransientError, UnsupportedError
from replicad.model.names import join
from replicad.storage.local.threads import Threads

from .inotify import WRITES, Inotify

_MOST_DIRECTORIES = 1_000
_MOST_DEPTH = 8


class LocalChanges:
    """A `ChangeHints` of a local directory, by inotify: it tells nothing of what other hosts write on a network file
    system. Directories that are hidden, links, or deeper than 8 levels are left out, as they are by the source."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._threads = Threads(1)
        self._inotify: Inotify | None = None
        self._directories: dict[int, str] = {}
        """Those that are watched, relative to the path, by their number."""
        self._was_lost = False
        self._paths: set[str] = set()
        """What has changed and was not told yet; with `_anything`, more than that has."""
        self._anything = False

    async def wait(self, within_s: float) -> frozenset[str] | None:
        """As `ChangeHints.wait`."""
        if self._inotify is None:
            await self._begin()
            if self._was_lost:
                self._was_lost = False
                return frozenset()
        try:
            async with asyncio.timeout(within_s):
                return await self._changed()
        except TimeoutError:
            return None
        except ReplicadError:
            self._end()
            self._was_lost = True
            raise

    async def close(self) -> None:
        """As `ChangeHints.close`."""
        self._end()
        self._threads.close()

    async def _changed(self) -> frozenset[str]:
        while True:
            if (found := await self._look()) is not None:
                return found
            await self._readable()

    async def _look(self) -> frozenset[str] | None:
        if self._inotify is None:
            return None
        events = self._inotify.events()
        for event in events:
            self._anything = self._anything or event.overflowed
            if event.watch in self._directories:
                self._paths.add(join(self._directories[event.watch], event.name))
        if any(event.is_dir for event in events):
            await self._threads.run("watch", self._path, self._add_all)
        if not self._anything and not self._paths:
            return None
        found = frozenset() if self._anything else frozenset(self._paths)
        self._anything, self._paths = False, set()
        return found

    async def _readable(self) -> None:
        """Until there are events. In between nobody listens, so that a disk that is written all the time wakes nobody
        more often than it is asked for."""
        if self._inotify is None:
            return
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        fd = self._inotify.fd
        loop.add_reader(fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(fd)

    async def _begin(self) -> None:
        try:
            self._inotify = Inotify()
        except OSError as error:
            raise _translated(error, self._path) from None
        try:
            await self._threads.run("watch", self._path, self._add_all)
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._directories = {}

    def _add_all(self) -> None:
        """Watch the directory and all below it; blocking."""
        inotify, found = self._inotify, 0
        if inotify is None:
            return
        directories = dict(self._directories)
        todo = [("", 0)]
        while todo and found < _MOST_DIRECTORIES:
            relative, depth = todo.pop()
            found += 1
            here = f"{self._path}/{relative}"
            try:
                directories[inotify.add(here, WRITES)] = relative
                with os.scandir(here) as entries:
                    below = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
            except OSError as error:
                if depth and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                    continue  # gone since it was seen, or not for us to read: then the cycle says so
                raise _translated(error, here) from None
            if depth < _MOST_DEPTH:
                todo += [(join(relative, name), depth + 1) for name in below]
        self._directories = directories


def _translated(error: OSError, path: str) -> ReplicadError:
    answer = error.strerror or type(error).__name__
    if error.errno == errno.ENOSYS:
        return UnsupportedError("watch", path, "this system has no inotify")
    if error.errno in (errno.EMFILE, errno.ENOSPC):
        hint = "Raise fs.inotify.max_user_instances and .max_user_watches."
        return TransientError("watch", path, f"the user's limit of inotify is reached ({answer})", hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError("watch", path, answer)
    return TransientError("watch", path, answer)
