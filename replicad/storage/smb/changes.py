"""Hints from an SMB server that something changes in a directory (CHANGE_NOTIFY)."""

from __future__ import annotations

import time
from asyncio import sleep
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from smbprotocol.exceptions import SMBResponseException

from replicad.model.address import SmbAddress
from replicad.model.errors import ReplicadError
from replicad.model.names import join

from . import calls, status
from .calls import Access, Handle, Options
from .job import Job
from .link import Tree
from .pool import SmbPool

_LOOK_EVERY_S = 0.25
"""The answer may take days, for which no thread waits."""
_MOST_DIRECTORIES = 100
_MOST_DEPTH = 8


@dataclass(slots=True)
class _Ear:
    """A directory that is listened to; `path` is relative to the one that is asked for."""

    path: str
    handle: Handle
    request: Any = None

    @property
    def is_answered(self) -> bool:
        response = self.request.response if self.request is not None else None
        return response is not None and response["status"].get_value() != status.PENDING


class SmbChanges:
    """A `ChangeHints` of the directory at `address`, over the connections of a pool.

    Samba tells of writes only to who listens to that very directory, so the subdirectories that are there at the
    beginning (100 of them, 8 levels down) are listened to one by one; of others it tells what appears and goes.
    """

    def __init__(self, pool: SmbPool, address: SmbAddress) -> None:
        self._pool, self._address = pool, address
        self._tree: Tree | None = None
        self._ears: list[_Ear] = []
        self._was_lost = False

    async def wait(self, within_s: float) -> frozenset[str] | None:
        """As `ChangeHints.wait`."""
        until_s = time.monotonic() + within_s
        try:
            tree, missed = await self._listening()
            if missed:
                return frozenset()
            while True:
                if tree.link.condemned or any(ear.is_answered for ear in self._ears):
                    return await self._answers(tree)
                if (left_s := until_s - time.monotonic()) <= 0:
                    return None
                await sleep(min(_LOOK_EVERY_S, left_s))
        except ReplicadError:
            self._was_lost = True
            await self.close()
            raise

    async def close(self) -> None:
        """As `ChangeHints.close`."""
        tree, ears = self._tree, self._ears
        self._tree, self._ears = None, []
        if tree is not None and not tree.link.condemned:
            with suppress(ReplicadError):  # the connection is lost, and the handles with it
                await tree.link.run("close", str(self._address), lambda job: _close(tree, ears), gives_back=True)

    async def _listening(self) -> tuple[Tree, bool]:
        """Have the next changes told; whether some may have been missed until now."""
        link = (await self._pool.bundle(self._address)).main
        missed = False
        if self._tree is None or self._tree.link is not link:
            missed = self._was_lost or self._tree is not None
            await self.close()
            tree = await link.tree(self._address.share)
            self._ears = await link.run(
                "watch", str(self._address), lambda job: _open_all(tree, self._address, job),
                lambda ears: _close(tree, ears),
            )  # fmt: skip
            self._tree, self._was_lost = tree, False
        tree = self._tree
        if any(ear.request is None for ear in self._ears):
            await link.run("watch", str(self._address), lambda job: self._ask(tree))
        return tree, missed

    def _ask(self, tree: Tree) -> None:
        for ear in self._ears:
            if ear.request is None:
                ear.request = calls.ask_for_changes(tree, ear.handle, below=not ear.path)

    async def _answers(self, tree: Tree) -> frozenset[str]:
        answered = [ear for ear in self._ears if ear.is_answered]
        found = await tree.link.run("watch", str(self._address), lambda job: [_taken(tree, ear) for ear in answered])
        for ear in answered:
            ear.request = None
        if not all(found):
            return frozenset()
        return frozenset(join(ear.path, name) for ear, names in zip(answered, found, strict=True) for name in names)


def _open_all(tree: Tree, address: SmbAddress, job: Job) -> list[_Ear]:
    """Open the directory and those below it. Blocking."""
    ears: list[_Ear] = []
    todo = [("", 0)]
    try:
        while todo and len(ears) < _MOST_DIRECTORIES and not job.abandoned:
            path, depth = todo.pop()
            remote = (address.child(path) if path else address).path.replace("/", "\\")
            try:
                ears.append(_Ear(path, calls.create(tree, remote, Access.READ_DATA, options=Options.DIRECTORY)))
            except SMBResponseException:
                if not path:
                    raise
                continue  # gone since it was seen, or not for us to read: then the cycle says so
            if depth < _MOST_DEPTH:
                listed = calls.list_directory(tree, ears[-1].handle)
                below = [one.name for one in listed if one.is_dir and not one.is_link and not one.name.startswith(".")]
                todo += [(join(path, name), depth + 1) for name in below]
    except BaseException:
        _close(tree, ears)
        raise
    return ears


def _taken(tree: Tree, ear: _Ear) -> frozenset[str]:
    """The names in an answer; empty: any may have changed. Blocking."""
    try:
        return calls.changed_names(calls.answer(tree, ear.request))
    except SMBResponseException as error:
        if error.status == status.NOTIFY_ENUM_DIR:
            return frozenset()
        raise


def _close(tree: Tree, ears: list[_Ear]) -> None:
    for ear in ears:
        calls.close(tree, ear.handle)
