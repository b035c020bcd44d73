"""The configuration that a daemon works by, and how it comes to work by another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from replicad.model.errors import ConfigError
from replicad.settings import Settings
from replicad.settings.load import load

from .sd_notify import Notifier

Prepare = Callable[[Settings, Settings], Awaitable[Callable[[], Awaitable[None]]]]
"""Makes ready for other settings, given those before and those from now on, and changes nothing yet; what it returns
takes them, and does not fail."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("daemon")


class Configuration:
    """`settings` are always those that hold now: what `follow` makes of what the file says. The
    service manager is told when they are being taken anew."""

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        settings: Settings,
        notifier: Notifier,
        follow: Callable[[Settings], Awaitable[Settings]],
    ) -> None:
        self.settings = self._written = settings
        self._follow = follow
        self.notifier = notifier
        self._path, self._environ = path, environ
        self._prepare: Prepare | None = None
        self._reloading = asyncio.Lock()

    def listen(self, prepare: Prepare) -> None:
        """Have settings taken by what `prepare` returns; `reload` returns when that is done."""
        self._prepare = prepare

    async def reload(self) -> None:
        """Take the file as it is now, or, if anything is wrong in it, nothing of it.

        SettingsError, ConfigError, and what `prepare` raises.
        """
        async with self._reloading:
            self.notifier.reloading()
            try:
                after = await asyncio.to_thread(load, self._path, self._environ)
                self._refuse_what_needs_a_restart(after)
                await self._take(after)
                _log.info("configuration taken", file=str(self._path), machines=len(after.virtual_machines))
            finally:
                self.notifier.ready()

    async def follow_moves(self) -> None:
        """Work by what the file said when it was read last, with the sources of machines that were moved since. Raises
        what `prepare` does."""
        async with self._reloading:
            await self._take(self._written)

    async def _take(self, written: Settings) -> None:
        after = await self._follow(written)
        take = await self._prepare(self.settings, after) if self._prepare is not None else None
        self.settings, self._written = after, written
        if take is not None:
            await take()

    def _refuse_what_needs_a_restart(self, after: Settings) -> None:
        if after.state_dir != self.settings.state_dir:
            raise ConfigError(
                "take", f"another state_dir from {self._path}", f"this daemon works in {self.settings.state_dir}",
                "Restart it instead.",
            )  # fmt: skip
        if after.api != self.settings.api:
            raise ConfigError(
                "take", f"another api from {self._path}", "this daemon goes on listening where it does",
                "Restart it instead.",
            )  # fmt: skip
