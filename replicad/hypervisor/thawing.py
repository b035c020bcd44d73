"""The freeze journal: what was made to stand still goes on again, also if this process dies in between.

Before anything is frozen, what undoes it is written down durably on this host, one small file a machine. Whoever opens
a machine's page has it alone on this host: what still stands there then is of a process that died, or of a thaw that
failed, and is undone first. The file may hold the user's commands, with secrets in them: it is its owner's only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import NoReturn

from pydantic import TypeAdapter, ValidationError

from replicad.model.clock import Clock
from replicad.model.errors import (
    BusyError,
    IntegrityError,
    LockedError,
    NotFoundError,
    PermanentError,
    ReplicadError,
    TransientError,
)
from replicad.model.names import join, path_on
from replicad.model.progress import Alarmed, Observer
from replicad.storage.documents import read_whole, replace_whole
from replicad.storage.port import LockHolder, Share
from replicad.storage.together import together
from replicad.storage.undisturbed import undisturbed

KIND = "kind"
"""The entry of a `how` that names who undoes it."""
Undo = Callable[[str, Mapping[str, str]], Awaitable[None]]
"""Undoes what a process that died has frozen: of which machine, and how. It must end in time, go well where there is
nothing to undo, and raise a ReplicadError where it could not be done."""

_DIRECTORY = "frozen"
_SUFFIX = ".json"
_MAX_BYTES = 1024 * 1024
_FORMAT = 1
_UNDONE_AT_ONCE = 16
_LOOK_AGAIN_S, _LOOK_AGAIN_MOST_S = 20.0, 300.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that may be frozen; `key` tells it from others of its machine."""

    key: str
    how: Mapping[str, str]
    since: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """All that may be frozen of one machine, the oldest first."""

    vm: str
    entries: tuple[Entry, ...] = ()
    format: int = _FORMAT


_ADAPTER: TypeAdapter[Page] = TypeAdapter(Page)


class OpenPage:
    """One machine's page, while this task has it alone."""

    def __init__(self, share: Share, page: Page, undo: Mapping[str, Undo], clock: Clock, observe: Observer) -> None:
        self._share = share
        self._page = page
        self._undo = undo
        self._clock = clock
        self._observe = observe

    async def freezing(self, key: str, how: Mapping[str, str], *, outlasts: bool = False) -> None:
        """Something is about to be frozen; `how` it is undone is durable on return. To be called before.

        What is frozen last is undone first, unless it `outlasts` what stands there already.
        BusyError or PermanentError if it can't be written down: then nothing must be frozen.
        """
        entry = Entry(key, dict(how), self._clock.now())
        try:
            await self._save((entry, *self._page.entries) if outlasts else (*self._page.entries, entry))
        except ReplicadError as error:
            kind = BusyError if isinstance(error, TransientError) else PermanentError
            raise kind(
                "freeze", self._page.vm, f"how to thaw it can't be written down (cannot {error.op} {error.subject}: "
                f"{error.answer})", "Nothing was frozen. Make 'state_dir' a directory that can be written.",
            ) from error  # fmt: skip

    async def thawed(self, key: str) -> None:
        """It goes on again. Where that can't be written down it is undone once more later, with a warning now."""
        try:
            await self._save(tuple(entry for entry in self._page.entries if entry.key != key))
        except ReplicadError as error:
            self._observe(
                Alarmed(f"{self._page.vm} goes on, but that can't be written down: it is thawed again later: {error}")
            )

    async def confirmed(self, key: str) -> None:
        """It must never be undone; raises if that can't be written down: then it may be undone all the same."""
        await self._save(tuple(entry for entry in self._page.entries if entry.key != key))

    @asynccontextmanager
    async def undone(
        self,
        key: str,
        how: Mapping[str, str],
        undo: Callable[[], Awaitable[None]] | None = None,
        *,
        is_fatal: bool = True,
        outlasts: bool = False,
    ) -> AsyncIterator[None]:
        """Inside, something may be frozen. However that ends it is undone once, also when cancelled: by `undo`, if it
        is given, else by who undoes it after a crash.

        If that fails it is warned of, and tried again when the page is opened next; the error is raised if it
        `is_fatal`. `outlasts`: as of `freezing`.
        """
        entry = Entry(key, dict(how), self._clock.now())
        try:
            await self.freezing(key, how, outlasts=outlasts)
        except BaseException:
            # It may have been written all the same, and nothing was frozen.
            await undisturbed(self.thawed(key))
            raise
        try:
            yield
        finally:
            try:
                await undisturbed(self._undone(entry, undo))
            except ReplicadError:
                if is_fatal:
                    raise

    async def undo_left(self) -> ReplicadError | None:
        """Undo all that stands there, the newest first; the first error, when the others were tried."""
        failed: ReplicadError | None = None
        for entry in reversed(self._page.entries):
            self._observe(
                Alarmed(
                    f"{self._page.vm}: the '{entry.key}' that was due after {entry.since:%Y-%m-%d %H:%M:%S} UTC was "
                    "not done (replicad died meanwhile, or it failed), and is done now"
                )
            )
            try:
                await undisturbed(self._undone(entry, None))
            except ReplicadError as error:
                failed = failed or error
        return failed

    async def _undone(self, entry: Entry, undo: Callable[[], Awaitable[None]] | None) -> None:
        try:
            if undo is not None:
                await undo()
            else:
                await self._registered(entry)(self._page.vm, entry.how)
        except Exception as error:
            # Here, because whoever is cancelled never sees what is raised.
            self._observe(Alarmed(f"{error} (it is tried again: by a daemon soon, else at the next cycle)"))
            raise
        await self.thawed(entry.key)

    def _registered(self, entry: Entry) -> Undo:
        kind = entry.how.get(KIND, "")
        if kind not in self._undo:
            raise PermanentError(
                "undo", f"'{entry.key}' of {self._page.vm}", f"this version does not know the kind {kind!r}",
                "Undo it by hand, or with the version that froze it.",
            )  # fmt: skip
        return self._undo[kind]

    async def _save(self, entries: tuple[Entry, ...]) -> None:
        page, path = replace(self._page, entries=entries), _path(self._page.vm)
        if entries:
            await replace_whole(self._share, path, _ADAPTER.dump_json(page, indent=1))
        else:
            try:
                await self._share.remove(path)
            except NotFoundError:
                pass
            else:
                await self._share.flush_directory(_DIRECTORY)
        self._page = page


class FreezeJournal:
    """The pages of all machines, in a share of this host; None: there is none, and nothing can be frozen.

    `undo` says who undoes what, by the `kind` in its `how`; `observe` hears what was left, and what fails.
    """

    def __init__(
        self,
        share: Share | None,
        holder: Callable[[], LockHolder],
        clock: Clock,
        undo: Mapping[str, Undo],
        observe: Observer,
    ) -> None:
        self._share = share
        self._holder = holder
        self._clock = clock
        self._undo = undo
        self._observe = observe

    @asynccontextmanager
    async def of(self, vm: str) -> AsyncIterator[OpenPage]:
        """The page of one machine, for this task alone on this host; what was left there is undone first.

        BusyError while another task or process has it; PermanentError if it can't be written; what undoing raises.
        """
        share = self._writable(vm)
        try:
            await share.make_dir(_DIRECTORY)
            await share.flush_directory("")
            lock = await share.lock(_lock_path(vm), self._holder())
        except LockedError as error:
            hint = "Wait until that is done; dry runs and repairs read a machine's disks, too."
            raise BusyError("freeze", vm, f"another reader of its disks is at it: {error.answer}", hint) from error
        except PermanentError as error:
            raise PermanentError(
                "freeze", vm, f"how to thaw it can't be written down (cannot {error.op} {error.subject}: "
                f"{error.answer})", "Make 'state_dir' a directory that can be written.",
            ) from error  # fmt: skip
        async with lock:
            page = await self._open(share, vm)
            if failed := await page.undo_left():
                raise failed
            yield page

    async def undo_left(self, vm: str) -> None:
        """Undo what was left of one machine; nothing if somebody has its page, who undoes it himself. Raises what
        undoing raises, and IntegrityError for a page that makes no sense. Where it can't be read that is warned of: who
        freezes the machine can't go on without it, and others can."""
        if failed := await self._undo_left(vm):
            raise failed

    async def _undo_left(self, vm: str) -> ReplicadError | None:
        if self._share is None:
            return None
        try:
            if await _read(self._share, _path(vm)) is None:
                return None
            lock = await self._share.lock(_lock_path(vm), self._holder())
        except LockedError:
            return None
        except (PermanentError, TransientError) as error:
            self._observe(Alarmed(f"whether {vm} was left frozen can't be told: {error}"))
            return None
        async with lock:
            page = await self._open(self._share, vm)
            return await page.undo_left()

    async def left(self) -> tuple[str, ...]:
        """The machines whose pages are there, sorted: something of them is frozen, or was left so. Pages that make no
        sense are warned of."""
        if self._share is None:
            return ()
        try:
            names = [entry.name for entry in await self._share.list(_DIRECTORY)]
        except NotFoundError:
            return ()
        found: list[str] = []
        for name in names:
            if name.endswith(_SUFFIX):
                try:
                    page = await _read(self._share, join(_DIRECTORY, name))
                except IntegrityError as error:
                    self._observe(Alarmed(str(error)))
                else:
                    found += [page.vm] if page else []
        return tuple(sorted(found))

    async def undo_all_left(self) -> None:
        """Undo what was left of all machines, for the start of a daemon. Errors are warned of, not raised."""
        try:
            await together(self._undo_or_warn, await self.left(), _UNDONE_AT_ONCE)
        except ReplicadError as error:
            self._observe(Alarmed(f"machines may still be frozen: {error}"))

    async def keep_undoing(self) -> NoReturn:
        """Undo, until cancelled, what is left of any machine: its next cycle may be far away, and its users are not.
        More and more rarely where it does not help."""
        pause_s = _LOOK_AGAIN_S
        while True:
            await self._clock.sleep(pause_s)
            await self.undo_all_left()
            pause_s = min(2 * pause_s, _LOOK_AGAIN_MOST_S) if await self._any_left() else _LOOK_AGAIN_S

    async def _any_left(self) -> bool:
        try:
            return bool(await self.left())
        except ReplicadError:  # which undoing has warned of
            return True

    async def _undo_or_warn(self, vm: str) -> None:
        try:
            await self._undo_left(vm)  # which has warned of what it returns
        except ReplicadError as error:
            self._observe(Alarmed(f"{vm} may still be frozen: {error}"))

    def _writable(self, vm: str) -> Share:
        if self._share is None:
            raise PermanentError(
                "freeze", vm, "there is no directory to write down how to thaw it",
                "Make 'state_dir' a directory that can be written.",
            )  # fmt: skip
        return self._share

    async def _open(self, share: Share, vm: str) -> OpenPage:
        page = await _read(share, _path(vm)) or Page(vm)
        return OpenPage(share, page, self._undo, self._clock, self._observe)


async def _read(share: Share, path: str) -> Page | None:
    subject = path_on(share.name, path)
    hint = "Look whether a machine is frozen, thaw it by hand, and remove the file."
    try:
        page = _ADAPTER.validate_json(await read_whole(share, path, _MAX_BYTES))
    except NotFoundError:
        return None
    except IntegrityError as error:
        raise IntegrityError("read", subject, error.answer, hint) from None
    except ValidationError:
        raise IntegrityError("read", subject, "it does not say how to thaw a machine", hint) from None
    if page.format != _FORMAT or _path(page.vm) != path:
        raise IntegrityError("read", subject, "another version wrote it, or it is not in its place", hint)
    return page


def _path(vm: str) -> str:
    return join(_DIRECTORY, _digest(vm) + _SUFFIX)


def _lock_path(vm: str) -> str:
    return join(_DIRECTORY, _digest(vm) + ".lock")


def _digest(vm: str) -> str:
    # A machine's name may be as long as a file's may be.
    return blake2b(vm.encode(), digest_size=16).hexdigest()
