"""A directory on an SMB share."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from smbprotocol.exceptions import SMBResponseException

from replicad.model.address import SmbAddress
from replicad.model.errors import (
    AlreadyExistsError,
    InvalidNameError,
    NotFoundError,
    UnreachableError,
    UnsupportedError,
)
from replicad.model.names import check_path, folded, last_part, printable
from replicad.storage.port import Capabilities, LockHolder, OpenMode, Stat

from . import calls, status, trial
from .bundle import Bundle
from .calls import Access, Disposition, Facts, Handle, Options, Sharing
from .file import SmbFile
from .job import Job
from .lanes import Lane, Lanes, Opening
from .link import Tree
from .lock import SmbLock, acquire, holder_of

if TYPE_CHECKING:
    from .pool import SmbPool

T = TypeVar("T")

_READ = Access.READ_DATA
_WRITE = Access.READ_DATA | Access.WRITE_DATA | Access.WRITE_ATTRIBUTES
_OPENINGS: dict[OpenMode, tuple[Access, Sharing, Disposition]] = {
    OpenMode.READ: (_READ, Sharing.ALL, Disposition.OPEN),
    OpenMode.HOLD: (_READ, Sharing.READ, Disposition.OPEN),
    OpenMode.WRITE: (_WRITE, Sharing.ALL, Disposition.OPEN),
    OpenMode.CREATE: (_WRITE, Sharing.ALL, Disposition.CREATE),
}


MAX_ENTRIES = 100_000
"""The most that is taken of one directory: a server may go on listing for ever."""
_DELETION_PATIENCE_S = 1.0
_DELETION_PAUSE_S = 0.02


class SmbShare:
    """A `Share`. Made by `SmbPool.share`; it outlives lost connections, its open files and locks do not.

    Who lost a lock with its connection may not know it yet, and somebody else may have it by now: until that lock is
    released, every call raises UnreachableError, and none connects anew.

    A reparse point below the root (a Windows link or mount point) is refused, never followed. A symbolic link made
    on the server itself is followed by Samba before we could see it, as long as its target lies within the share:
    set `follow symlinks = no` there to have it refused.
    """

    def __init__(self, pool: SmbPool, address: SmbAddress) -> None:
        self._pool = pool
        self._address = address
        self._open = True
        self._capabilities: Capabilities | None = None
        self._locks: builtins.list[SmbLock] = []
        """Those that may not have been released yet."""

    @property
    def name(self) -> str:
        return str(self._address)

    @property
    def address(self) -> SmbAddress:
        """Where it is."""
        return self._address

    @property
    def pool(self) -> SmbPool:
        """Whose connections it uses."""
        return self._pool

    async def tree(self) -> Tree:
        """The share on the present main link, which is made anew if it was lost."""
        return await (await self.bundle()).main.tree(self._address.share)

    async def bundle(self) -> Bundle:
        """The present connections to the server, which are made anew if they were lost."""
        if not self._open:
            raise ValueError(f"{self.name} is closed")
        self._refuse_without_lock()  # no need to connect for that
        bundle = await self._pool.bundle(self._address)
        self._refuse_without_lock()
        return bundle

    def _refuse_without_lock(self) -> None:
        self._locks = [lock for lock in self._locks if lock.is_unreleased]
        for lock in self._locks:
            if why := lock.condemned:
                raise UnreachableError(
                    "go on using", self.name, f"its lock was lost with the connection: {why}",
                    "The next attempt takes the lock anew.",
                )  # fmt: skip

    def subject(self, path: str) -> str:
        """How errors name a path."""
        return printable(str(self._address.child(path)))

    def remote_path(self, path: str) -> str:
        """A path relative to the SMB share, as the protocol wants it."""
        return self._address.child(path).path.replace("/", "\\")

    async def open(self, path: str, mode: OpenMode) -> SmbFile:
        op = {OpenMode.CREATE: "create", OpenMode.HOLD: "hold"}.get(mode, "open")
        self._check(op, path, below_root=True)
        access, sharing, disposition = _OPENINGS[mode]
        bundle, subject = await self.bundle(), self.subject(path)
        tree = await bundle.main.tree(self._address.share)
        opening = Opening(self.remote_path(path), access, sharing)

        def work(job: Job) -> SmbFile:
            try:
                handle = _create_patiently(
                    job, tree, opening.remote_path, access, sharing, disposition, Options.NON_DIRECTORY
                )
            except SMBResponseException as error:
                if mode is OpenMode.CREATE and error.status == status.FILE_IS_A_DIRECTORY:
                    raise AlreadyExistsError(op, subject, "a directory of that name is there") from None
                raise
            file = SmbFile(Lanes(bundle, Lane(tree, handle), opening, subject), path, subject, mode)
            try:
                if handle.facts.is_link:
                    raise UnsupportedError(op, subject, "it is a link", "Name the file that it leads to.")
                if mode is OpenMode.CREATE:
                    file.make_sparse(job)
            except BaseException:
                calls.close(tree, handle)
                raise
            return file

        return await tree.link.run(op, subject, work, undo=lambda file: calls.close(tree, file.handle))

    async def stat(self, path: str) -> Stat:
        self._check("look at", path)
        facts = await self._with_handle("look at", path, Access.READ_ATTRIBUTES, lambda tree, handle: handle.facts)
        return _stat(last_part(path), facts)

    async def list(self, path: str) -> builtins.list[Stat]:
        self._check("list", path)
        found = await self._with_handle(
            "list", path, Access.READ_DATA,
            lambda tree, handle: builtins.list(islice(calls.list_directory(tree, handle), MAX_ENTRIES + 1)),
            Options.DIRECTORY,
        )  # fmt: skip
        if len(found) > MAX_ENTRIES:
            raise UnsupportedError(
                "list", self.subject(path), f"it holds more than {MAX_ENTRIES} files and directories",
                "Give disks and replicas directories of their own.",
            )  # fmt: skip
        return sorted((_stat(facts.name, facts) for facts in found), key=lambda entry: entry.name)

    async def make_dir(self, path: str) -> None:
        self._check("make directory", path)
        tree, subject = await self.tree(), self.subject(path)

        def make(remote: str) -> None:
            handle = calls.create(
                tree, remote, Access.READ_ATTRIBUTES, Sharing.ALL, Disposition.OPEN_IF, Options.DIRECTORY
            )
            calls.close(tree, handle)
            if handle.facts.is_link:
                raise UnsupportedError("make directory", subject, "a link of that name is there")

        def work(job: Job) -> None:
            parts = [part for part in self.remote_path(path).split("\\") if part]
            # Mostly all but the last are there, or all are; so begin at the end.
            missing = 0
            while missing < len(parts):
                try:
                    make("\\".join(parts[: len(parts) - missing]))
                    break
                except SMBResponseException as error:
                    if error.status in (status.NOT_A_DIRECTORY, status.OBJECT_NAME_COLLISION):
                        answer = "a file of that name is there"
                        raise AlreadyExistsError("make directory", subject, answer) from None
                    if error.status != status.OBJECT_PATH_NOT_FOUND or missing == len(parts) - 1:
                        raise
                    missing += 1
            for count in range(len(parts) - missing + 1, len(parts) + 1):
                make("\\".join(parts[:count]))

        await tree.link.run("make directory", subject, work)

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        self._check("rename", source, below_root=True)
        self._check("rename to", target, below_root=True)

        def work(tree: Tree, handle: Handle) -> None:
            is_dir = handle.facts.is_dir and not handle.facts.is_link
            if is_dir and folded(target).startswith(folded(source) + "/"):
                raise InvalidNameError("rename", self.subject(source), f"{printable(target)!r} lies inside it")
            try:
                calls.rename(tree, handle, self.remote_path(target), replace=replace and not is_dir)
            except SMBResponseException as error:
                if error.status == status.OBJECT_NAME_COLLISION or self._is_directory(tree, target):
                    raise AlreadyExistsError("rename to", self.subject(target), "it is there already") from None
                if error.status in (status.OBJECT_PATH_NOT_FOUND, status.NOT_A_DIRECTORY):
                    raise NotFoundError("rename to", self.subject(target), "there is no such directory") from None
                raise

        await self._with_handle("rename", source, Access.DELETE, work)

    def _is_directory(self, tree: Tree, path: str) -> bool:
        """Blocking: whether a directory is in the way of a rename; servers answer that in several ways."""
        try:
            handle = calls.create(tree, self.remote_path(path), Access.READ_ATTRIBUTES)
        except SMBResponseException:
            return False
        calls.close(tree, handle)
        return handle.facts.is_dir

    async def remove(self, path: str) -> None:
        self._check("remove", path, below_root=True)
        await self._with_handle("remove", path, Access.DELETE, calls.mark_for_deletion)

    async def flush_directory(self, path: str) -> None:
        self._check("flush", path)
        tree = await self.tree()
        if not tree.can_flush_directories:
            return

        def work(tree: Tree, handle: Handle) -> None:
            try:
                calls.flush(tree, handle)
            except SMBResponseException as error:
                if error.status not in status.CANNOT_DO and error.status != status.INVALID_PARAMETER:
                    raise
                tree.can_flush_directories = False

        # MS-SMB2 §3.3.5.11: a flush needs a handle that could have changed something.
        await self._with_handle("flush", path, Access.READ_DATA | Access.ADD_FILE, work, Options.DIRECTORY)

    async def free_bytes(self) -> int:
        return await self._with_handle("ask for the free space of", "", Access.READ_ATTRIBUTES, calls.query_free_bytes)

    async def lock(self, path: str, holder: LockHolder) -> SmbLock:
        self._check("lock", path, below_root=True)
        lock = await acquire(self, path, holder)
        self._locks.append(lock)
        return lock

    async def lock_holder(self, path: str) -> LockHolder | None:
        self._check("ask for the lock", path, below_root=True)
        return await holder_of(self, path)

    async def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            self._capabilities = await trial.try_out(self)
        return self._capabilities

    async def file_system(self) -> tuple[int, str]:
        """The attribute bits (MS-FSCC §2.5.1) and the name of the file system, as the server tells them."""
        return await self._with_handle("look at", "", Access.READ_ATTRIBUTES, calls.query_file_system)

    async def close(self) -> None:
        if self._open:
            self._open = False
            await self._pool.release(self._address)

    async def _with_handle(
        self,
        op: str,
        path: str,
        access: Access,
        work: Callable[[Tree, Handle], T],
        options: Options = calls.NO_OPTIONS,
    ) -> T:
        """Open, work, close, all on one thread. `path` itself may be a link; a directory that is one is refused."""
        tree, subject = await self.tree(), self.subject(path)

        def whole(job: Job) -> T:
            handle = _create_patiently(job, tree, self.remote_path(path), access, options=options)
            try:
                if options & Options.DIRECTORY and handle.facts.is_link and path:
                    raise UnsupportedError(op, subject, "it is a link", "Name the directory that it leads to.")
                return work(tree, handle)
            finally:
                calls.close(tree, handle)

        return await tree.link.run(op, subject, whole)

    def _check(self, op: str, path: str, *, below_root: bool = False) -> None:
        check_path(path)
        if below_root and not path:
            raise InvalidNameError(op, self.name, "it is the root of the share")


def _create_patiently(
    job: Job,
    tree: Tree,
    remote: str,
    access: Access,
    sharing: Sharing = Sharing.ALL,
    disposition: Disposition = Disposition.OPEN,
    options: Options = calls.NO_OPTIONS,
) -> Handle:
    """As `calls.create`, but a file that is being deleted is given a moment to be gone: it stays in the way until
    everybody who has it open has closed it, which may be no more than a virus scanner."""
    deadline_s = time.monotonic() + _DELETION_PATIENCE_S
    while True:
        try:
            return calls.create(tree, remote, access, sharing, disposition, options)
        except SMBResponseException as error:
            if error.status != status.DELETE_PENDING or time.monotonic() > deadline_s or job.abandoned:
                raise
        time.sleep(_DELETION_PAUSE_S)


def _stat(name: str, facts: Facts) -> Stat:
    is_dir = facts.is_dir
    return Stat(
        name=name,
        is_dir=is_dir,
        size_bytes=0 if is_dir else facts.size_bytes,
        allocated_bytes=0 if is_dir else facts.allocated_bytes,
        write_time_ns=facts.write_time_ns,
        is_link=facts.is_link,
    )
