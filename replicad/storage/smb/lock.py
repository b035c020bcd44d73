"""The lock of the one writer: a file that its holder keeps open, without letting anybody else write or delete it, and
that goes when the handle goes.

The server enforces it against every host. It ends with the holder's connection, so a holder whose process was killed
is gone within milliseconds. A host that vanished without a word keeps its lock until the server notices (hours, by
default); if it was this very host, all sessions of the holder are ended by name (MS-SMB2 §2.2.5 PreviousSessionId).

The lock is taken on the main link, and guarded on each extra one (`guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from smbprotocol.exceptions import SMBResponseException

from replicad.model.errors import AlreadyExistsError, LockedError, NotFoundError, OutOfSpaceError, TransientError
from replicad.storage.holder import MAX_HOLDER_BYTES, decode, describe, encode, is_dead
from replicad.storage.port import LockHolder
from replicad.storage.processes import start_of_process

from . import bulk, calls, status
from .bundle import Bundle
from .calls import Access, Disposition, Handle, Options, Sharing
from .endpoint import MAX_CONNECTIONS
from .guard import Guard, is_unguarded, open_guard
from .job import Job
from .link import Link, Tree

if TYPE_CHECKING:
    from .share import SmbShare

UNKNOWN_HOLDER = LockHolder(host="", machine_id="", boot_id="", pid=0, process_start="", since="")
"""Somebody holds the lock, and its file does not say who."""

EXTRA_SESSIONS = "smb_sessions"
"""The key in `LockHolder.extra` under which the sessions of the extra links stand, as decimal numbers."""
_SESSION = re.compile("[0-9]{1,20}")
_PATIENCE_S = 2.0
"""How long to wait for a lock that nobody holds any more: its file is being deleted, or its server is about to notice
that the session has ended."""
_PAUSE_S = 0.02
_IN_USE = frozenset({status.SHARING_VIOLATION, status.DELETE_PENDING})
_LOST = frozenset(
    {
        status.FILE_CLOSED, 0xC0000008, status.OBJECT_NAME_NOT_FOUND, status.NO_SUCH_FILE,
        status.OBJECT_PATH_NOT_FOUND, status.DELETE_PENDING,
    }
)  # fmt: skip
_KEPT = (
    "If its machine is gone, the server frees the lock when it notices: on Samba within 20 s with the socket options "
    "that docs/smb.md recommends."
)


class SmbLock:
    """A held lock. It is lost with its connections."""

    def __init__(self, tree: Tree, handle: Handle, remote_path: str, subject: str) -> None:
        self._tree = tree
        self._handle = handle
        self._remote_path = remote_path
        self._subject = subject
        self._held = True
        self._file_id = 0
        self._guards: list[Guard] = []

    @property
    def is_unreleased(self) -> bool:
        """Whether nobody has given it up yet, be it lost or not."""
        return self._held

    @property
    def condemned(self) -> str:
        """Why its connections, and the lock with them, are lost; empty while they are not, as far as is known here."""
        return self._tree.link.condemned

    async def check(self) -> None:
        """LockedError if it was lost; UnreachableError or TimedOutError if the connection that holds it was, which
        comes to the same: it can't be got back, only taken anew."""
        if not self._held:
            raise LockedError("keep the lock", self._subject, "it was given up", "Take it again.")
        if not await self._tree.link.run("keep the lock", self._subject, lambda job: self.is_ours()):
            raise LockedError("keep the lock", self._subject, "the server has taken it away", "Start again.")

    def is_ours(self) -> bool:
        """Blocking: whether the file of that name is still the one we hold.

        A handle alone proves little: Samba lets a file be opened in the moment in which its former holder's close
        deletes it, and lets another file be renamed over one that is open.
        """
        try:
            held = calls.query_facts(self._tree, self._handle)
            named_handle = calls.create(self._tree, self._remote_path, Access.READ_ATTRIBUTES)
            try:
                named = calls.query_facts(self._tree, named_handle)
            finally:
                calls.close(self._tree, named_handle)
        except SMBResponseException as error:
            if error.status in _LOST:
                return False
            raise
        self._file_id = held.file_id
        return named.file_id == held.file_id

    async def guard_on(self, links: Sequence[Link]) -> bool:
        """Have these links guard the lock; False if its file is another one by now."""
        for link in links:
            tree = await link.tree(self._tree.share)
            guard = await link.run("lock", self._subject, partial(self._open_guard, tree), undo=_give_back)
            if guard is None:
                return False
            self._guards.append(guard)
        return True

    def _open_guard(self, tree: Tree, job: Job) -> Guard | None:
        try:
            return open_guard(tree, self._remote_path, self._file_id)
        except SMBResponseException as error:
            if error.status in _LOST | _IN_USE:
                return None
            raise

    async def release(self) -> None:
        if self._held:
            self._held = False
            async with AsyncExitStack() as stack:  # the guards go first
                stack.push_async_callback(self._release_one, self._tree.link, self.close)
                for guard in self._guards:
                    stack.push_async_callback(self._release_one, guard.tree.link, guard.close)

    async def _release_one(self, link: Link, close: Callable[[], None]) -> None:
        with contextlib.suppress(TransientError):  # the connection is lost, and the lock with it
            await link.run("unlock", self._subject, lambda job: close(), gives_back=True)

    def close(self) -> None:
        """Blocking: close its handle, and so delete its file."""
        try:
            calls.close(self._tree, self._handle)
        except SMBResponseException as error:
            if error.status not in _LOST:  # closing deletes, which somebody may have done before
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


async def acquire(share: SmbShare, path: str, holder: LockHolder) -> SmbLock:
    """Take the lock file, or raise LockedError that says who holds it."""
    loop = asyncio.get_running_loop()
    await (await share.bundle()).settle()  # which may take a while, and nobody's patience
    deadline = loop.time() + _PATIENCE_S
    ended: LockHolder | None = None
    while True:
        if (taken := await _try(share, path, holder, last=loop.time() > deadline)) is not None:
            return taken
        who = await holder_of(share, path)
        if who is not None and who != ended:
            sessions = sessions_of(who)
            if not sessions or not is_dead(who, holder, start_of_process):
                raise _locked(share, path, who)
            await share.pool.end_sessions(share.address, sessions)
            ended, deadline = who, loop.time() + _PATIENCE_S
        elif loop.time() > deadline:
            raise _locked(share, path, who or UNKNOWN_HOLDER)
        else:
            await asyncio.sleep(_PAUSE_S)


def _locked(share: SmbShare, path: str, who: LockHolder) -> LockedError:
    return LockedError("lock", share.subject(path), f"it is held by {describe(who)}", f"Wait until it is done. {_KEPT}")


def naming_sessions(holder: LockHolder, bundle: Bundle) -> LockHolder:
    """The holder, and all sessions over which it may write."""
    *extra, main = bundle.session_ids
    named = replace(holder, session_id=main)
    return replace(named, extra={**holder.extra, EXTRA_SESSIONS: " ".join(map(str, extra))}) if extra else named


def sessions_of(holder: LockHolder) -> tuple[int, ...]:
    """All sessions of a holder, the one that has the lock at the end; none if it does not say so as we would."""
    words = holder.extra.get(EXTRA_SESSIONS, "").split()
    if holder.session_id == 0 or len(words) >= MAX_CONNECTIONS or not all(map(_SESSION.fullmatch, words)):
        return ()
    numbers = tuple(map(int, words))
    return (*numbers, holder.session_id) if all(0 < number < 1 << 64 for number in numbers) else ()


async def _try(share: SmbShare, path: str, holder: LockHolder, *, last: bool) -> SmbLock | None:
    """The lock, or None if somebody has the file open or it is being deleted."""
    bundle, subject = await share.bundle(), share.subject(path)
    await bundle.settle()  # from here on it has no sessions but those that the lock names
    tree = await bundle.main.tree(share.address.share)
    work = partial(_create, tree, share.remote_path(path), subject, naming_sessions(holder, bundle), last)
    lock = await tree.link.run("lock", subject, work, undo=_give_back)
    if lock is None:
        return None
    guarded = False
    try:
        guarded = await lock.guard_on(bundle.links[1:])
    finally:
        if not guarded:
            await lock.release()
    return lock if guarded else None


def _create(tree: Tree, remote_path: str, subject: str, holder: LockHolder, last: bool, job: Job) -> SmbLock | None:
    """Blocking: the lock without its guards."""
    try:
        handle = calls.create(
            tree, remote_path, Access.READ_DATA | Access.WRITE_DATA | Access.DELETE, Sharing.READ,
            Disposition.OPEN_IF, Options.NON_DIRECTORY | Options.DELETE_ON_CLOSE,
        )  # fmt: skip
    except SMBResponseException as error:
        # Samba looks for the file first and says "not there" if it is deleted before it is opened.
        if error.status in _IN_USE or (error.status == status.OBJECT_NAME_NOT_FOUND and not last):
            return None
        if error.status == status.FILE_IS_A_DIRECTORY:
            raise AlreadyExistsError("lock", subject, "a directory of that name is there") from None
        raise
    lock = SmbLock(tree, handle, remote_path, subject)
    ours = False
    try:
        ours = is_unguarded(tree, handle) and _write_content(job, tree, handle, encode(holder)) and lock.is_ours()
    except SMBResponseException as error:
        if error.status not in _LOST:
            raise
    finally:
        if not ours:
            lock.close()
    return lock if ours else None


def _give_back(taken: SmbLock | Guard | None) -> None:
    if taken is not None:
        taken.close()


def _write_content(job: Job, tree: Tree, handle: Handle, content: bytes) -> bool:
    """False if the file has been deleted meanwhile."""
    try:
        bulk.write(job, tree, handle, [(memoryview(content), 0)])
        calls.set_size(tree, handle, len(content))
    except SMBResponseException as error:
        # On a full share the lock has to work without its text: whoever makes room needs the lock first.
        if status.meaning_of(error.status).kind is not OutOfSpaceError:
            if error.status in _LOST:
                return False
            raise
    return True


async def holder_of(share: SmbShare, path: str) -> LockHolder | None:
    """Who holds the lock; `UNKNOWN_HOLDER` if its file does not say; None if nobody does."""
    tree = await share.tree()

    def work(job: Job) -> LockHolder | None:
        remote = share.remote_path(path)
        try:
            # While somebody holds it, no handle that keeps writers out can be had.
            calls.close(tree, calls.create(tree, remote, Access.READ_DATA, Sharing.READ))
        except SMBResponseException as error:
            if error.status != status.SHARING_VIOLATION:
                if error.status in (status.DELETE_PENDING, status.FILE_IS_A_DIRECTORY):
                    return None
                if status.meaning_of(error.status).kind is NotFoundError:
                    return None
                raise
        else:
            return None
        try:
            handle = calls.create(tree, remote, Access.READ_DATA)
        except SMBResponseException as error:
            if error.status == status.DELETE_PENDING or status.meaning_of(error.status).kind is NotFoundError:
                return None
            raise
        try:
            content = memoryview(bytearray(MAX_HOLDER_BYTES + 1))
            length = bulk.read_into(job, tree, handle, content, 0)
        finally:
            calls.close(tree, handle)
        return decode(bytes(content[:length])) or UNKNOWN_HOLDER

    return await tree.link.run("ask for the lock", share.subject(path), work)
