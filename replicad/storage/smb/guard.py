"""What keeps a lock from being free while a write of its former holder can still land. Blocking.

The lock is held by the session of the holder's main link. When the holder is killed, the server learns of the end of
each of its connections by itself, and may free the lock while it still has writes to do that came over another one. So
each extra session holds a guard on the lock: a handle on the lock file with a shared lock on one byte of it, which go
when that session goes, after all that it has sent.

- The handle keeps the file from being deleted to the end: whoever wants the lock gets 'delete pending' until then.
- The byte keeps the lock taken even where the file was not to be deleted, because the process that served the main
  connection crashed: whoever takes the lock must first get that byte for itself alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from smbprotocol.exceptions import SMBResponseException

from . import calls, status
from .calls import Access, Handle, Locking
from .link import Tree

_GUARDED_BYTE = 1 << 62
"""Far behind the text, which everybody may read."""
_TAKEN = frozenset({status.LOCK_NOT_GRANTED, status.FILE_LOCK_CONFLICT})


def is_unguarded(tree: Tree, handle: Handle) -> bool:
    """Whether no session of a former holder is left; `handle` is one that keeps writers out."""
    if not _lock(tree, handle, Locking.EXCLUSIVE):
        return False
    try:
        calls.lock_byte(tree, handle, _GUARDED_BYTE, Locking.UNLOCK)
    except SMBResponseException as error:
        if error.status not in status.CANNOT_DO:
            raise
    return True


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard that one session holds."""

    tree: Tree
    handle: Handle

    def close(self) -> None:
        """Give it up."""
        calls.close(self.tree, self.handle)


def open_guard(tree: Tree, remote_path: str, file_id: int) -> Guard | None:
    """A guard of the session that `tree` belongs to; None if the lock file is not the one with that id any more."""
    guard = Guard(tree, calls.create(tree, remote_path, Access.READ_DATA))
    is_on_it = False
    try:
        is_on_it = calls.query_facts(tree, guard.handle).file_id == file_id
        is_on_it = is_on_it and _lock(tree, guard.handle, Locking.SHARED)
    finally:
        if not is_on_it:
            guard.close()
    return guard if is_on_it else None


def _lock(tree: Tree, handle: Handle, locking: Locking) -> bool:
    try:
        calls.lock_byte(tree, handle, _GUARDED_BYTE, locking | Locking.FAIL_IMMEDIATELY)
    except SMBResponseException as error:
        if error.status in _TAKEN:
            return False
        if error.status not in status.CANNOT_DO:  # then the handle alone has to do
            raise
    return True
