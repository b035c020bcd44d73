"""Cycles on demand by touching a file: `state_dir/triggers/<VM>`.

The file is first moved to `state_dir/triggers.taken/`, then the trigger is given, and only when the receiver has it the
moved file is removed. So a touch during that is another trigger, and a crash at any moment gives one trigger too many,
never one too few: what was taken and not removed is given again at the next start.
"""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from replicad.model.errors import ReplicadError
from replicad.storage.local.threads import Threads

from .inotify import Inotify

POLL_S = 2.0
"""How often the directory is looked at where nobody tells of changes."""
RESCAN_S = 60.0
"""How often it is looked at where somebody does, all the same."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("triggers")


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look at the directories gave: VMs whose files were taken, now or before a crash; and names that stay."""

    taken: tuple[str, ...]
    left: dict[str, str]
    is_told_of_changes: bool


class TriggerDirectory:
    """Watches `state_dir/triggers/`, which is made, closed to others, if it is not there.

    `is_known` tells whether a VM of that name is configured, and is called on another thread; `give` takes a trigger,
    which stands when it returns. Names that are not known are left where they are, with one warning each. Where inotify
    is not to be had, the directory is looked at every `poll_s`.
    """

    def __init__(
        self,
        state_dir: Path,
        is_known: Callable[[str], bool],
        give: Callable[[str], Awaitable[None]],
        *,
        poll_s: float = POLL_S,
        rescan_s: float = RESCAN_S,
        open_inotify: Callable[[], Inotify] = Inotify,
    ) -> None:
        self.path = state_dir / "triggers"
        self._taken_path = state_dir / "triggers.taken"
        self._is_known = is_known
        self._give = give
        self._poll_s = poll_s
        self._rescan_s = rescan_s
        self._open_inotify = open_inotify
        self._inotify: Inotify | None = None
        self._woken = asyncio.Event()
        self._warned: set[str] = set()
        self._pause_s = poll_s
        self._trouble = ""
        self._complained = False

    def look_again(self) -> None:
        """Look at the directory now: other VMs may be known. To be called on the event loop."""
        self._woken.set()

    async def watch(self) -> None:
        """Give triggers until cancelled. What `give` raises ends it; the trigger is given again at the next start.

        A directory that can't be made, read or changed is a warning, and looked at again later.
        """
        loop = asyncio.get_running_loop()
        threads = Threads(1)
        try:
            self._inotify = self._opened()
            if self._inotify is not None:
                loop.add_reader(self._inotify.fd, self._hear)
            while True:
                self._woken.clear()
                await self._look(threads)
                try:
                    async with asyncio.timeout(self._pause_s):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        finally:
            threads.close()
            self._stop_hearing()

    async def _look(self, threads: Threads) -> None:
        try:
            found = await threads.run("watch", str(self.path), self._scan)
        except ReplicadError as error:
            self._pause_s = self._poll_s
            if str(error) != self._trouble:
                self._trouble = str(error)
                _log.warning("triggers can't be taken", why=self._trouble)
            return
        self._trouble = ""
        self._pause_s = self._rescan_s if found.is_told_of_changes else self._poll_s
        for name, why in found.left.items():
            if name not in self._warned:
                _log.warning("a trigger is left where it is", file=str(self.path / name), why=why)
        self._warned = set(found.left)
        for vm in found.taken:
            await self._give(vm)
            await threads.run("remove", str(self._taken_path / vm), partial(self._forget, vm))

    def _scan(self) -> _Found:
        """One look; blocking."""
        # Not by `parents`, which takes no mode for them.
        for directory in (*reversed(self.path.parents), self.path, self._taken_path):
            directory.mkdir(mode=0o700, exist_ok=True)
        is_told = self._listen()
        left: dict[str, str] = {}
        for entry in sorted(self.path.iterdir()):
            try:
                if not self._is_known(entry.name):
                    left[entry.name] = "no virtual machine of this name is configured"
                elif stat.S_ISDIR(entry.lstat().st_mode):
                    left[entry.name] = "it is a directory, and no file"
                else:
                    entry.replace(self._taken_path / entry.name)
            except FileNotFoundError:
                continue  # its owner has taken it back
        # Also those from before a crash; of VMs that are configured no more there is nobody to tell.
        names = sorted(entry.name for entry in self._taken_path.iterdir())
        for name in names:
            if not self._is_known(name):
                self._forget(name)
        return _Found(tuple(name for name in names if self._is_known(name)), left, is_told)

    def _forget(self, vm: str) -> None:
        (self._taken_path / vm).unlink(missing_ok=True)

    def _listen(self) -> bool:
        """Whether changes from now on will be heard of."""
        if self._inotify is None:
            return False
        try:
            self._inotify.add(str(self.path))  # each time: another directory may have taken its place
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _opened(self) -> Inotify | None:
        try:
            return self._open_inotify()
        except OSError as error:
            if error.errno != errno.ENOSYS:  # where there is none, nobody misses it
                self._complain(error)
            return None

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            _log.warning(
                "inotify can't be used: triggers are looked for at intervals",
                why=error.strerror, every_s=self._poll_s,
                hint="Raise fs.inotify.max_user_instances and .max_user_watches.",
            )  # fmt: skip

    def _hear(self) -> None:
        if self._inotify is not None:
            self._inotify.drain()
            self._woken.set()

    def _stop_hearing(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
