"""The daemon: all rooms tied together, for as long as it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from replicad.catalog import Catalog, open_catalog
from replicad.model.errors import ConfigError, ReplicadError
from replicad.model.health import Health
from replicad.model.progress import ProgressEvent, Warned
from replicad.settings import Settings
from replicad.settings.load import load

from .alone import the_only_one
from .control import Control
from .cycles import ConfiguredCycles
from .hub import Hub
from .plans import changed_machines, schedules_of
from .sd_notify import Notifier
from .supervisor import Supervisor
from .surroundings import surroundings
from .triggers import TriggerDirectory

_CATALOG = "catalog.sqlite"
_STATUS_EVERY_S = 10.0

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("daemon")

Serve = Callable[[Control], Awaitable[None]]
"""Lets others ask, until cancelled."""


async def run_daemon(path: Path, environ: Mapping[str, str], serve: Serve | None = None) -> None:
    """Keep the machines of the configuration at `path` until cancelled.

    SIGHUP has it read the file again. When it is cancelled, cycles under way are stopped and written down as
    interrupted. SettingsError if the file is wrong, LockedError if another daemon works in the same state directory,
    and what opening the catalog raises.
    """
    settings = load(path, environ)
    notifier = Notifier.from_environment(environ)
    async with AsyncExitStack() as stack:
        stack.callback(notifier.close)
        stack.callback(notifier.stopping)
        stack.enter_context(the_only_one(settings.state_dir))
        catalog = await stack.enter_async_context(open_catalog(settings.state_dir / _CATALOG, _warner()))
        ctx = await stack.enter_async_context(surroundings(settings.state_dir, _say))
        for run in await catalog.interrupted_runs(ctx.clock.now()):
            _log.warning("the daemon before died in a cycle, which is gone on with", vm=run.vm, run=run.number)
        cycles, hub = ConfiguredCycles(settings, ctx), Hub()
        supervisor = Supervisor(cycles, catalog, ctx.clock, settings.max_concurrent, hub.tell)
        await supervisor.keep(schedules_of(settings), await catalog.agendas(), settings.max_concurrent)
        configuration = _Configuration(path, environ, settings, cycles, supervisor, catalog, notifier)
        control = Control(lambda: configuration.settings, supervisor, catalog, ctx.clock, configuration.reload, hub)
        await _live(supervisor, configuration, control, notifier, serve)


class _Configuration:
    """What the daemon works by, and how it comes to work by something else."""

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        settings: Settings,
        cycles: ConfiguredCycles,
        supervisor: Supervisor,
        catalog: Catalog,
        notifier: Notifier,
    ) -> None:
        self.settings = settings
        self.triggers: TriggerDirectory | None = None
        self._path, self._environ = path, environ
        self._cycles, self._supervisor, self._catalog, self._notifier = cycles, supervisor, catalog, notifier
        self._reloading = asyncio.Lock()

    async def reload(self) -> None:
        """Take the file as it is now, or, if anything is wrong in it, nothing of it. SettingsError, ConfigError."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                await self._take(await asyncio.to_thread(load, self._path, self._environ))
            finally:
                self._notifier.ready()

    async def _take(self, after: Settings) -> None:
        before = self.settings
        if after.state_dir != before.state_dir:
            raise ConfigError(
                "take", f"another state_dir from {self._path}", f"this daemon works in {before.state_dir}",
                "Restart it instead.",
            )  # fmt: skip
        self.settings = after
        self._cycles.apply(after)
        remembered = await self._catalog.agendas()
        changed = changed_machines(before, after)
        await self._supervisor.keep(schedules_of(after), remembered, after.max_concurrent, changed)
        if self.triggers is not None:
            self.triggers.look_again()
        _log.info("configuration taken", file=str(self._path), machines=len(after.virtual_machines))


async def _live(
    supervisor: Supervisor, configuration: _Configuration, control: Control, notifier: Notifier, serve: Serve | None
) -> None:
    async def give(vm: str) -> None:
        try:
            await control.request(vm)
        except ReplicadError as error:
            _log.warning(str(error), vm=vm)

    hang_up, loop, settings = asyncio.Event(), asyncio.get_running_loop(), configuration.settings
    triggers = TriggerDirectory(
        settings.state_dir, lambda vm: vm in configuration.settings.virtual_machines, give
    )
    configuration.triggers = triggers
    loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run(), name="supervisor")
            group.create_task(triggers.watch(), name="triggers")
            group.create_task(_reload_at(hang_up, control), name="reload")
            group.create_task(_tell_the_manager(notifier, control), name="service manager")
            if serve is not None:
                group.create_task(_served(serve, control), name="api")
            _log.info("ready", machines=len(control.names()), state_dir=str(settings.state_dir))
            notifier.ready()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _served(serve: Serve, control: Control) -> None:
    await serve(control)


async def _reload_at(hang_up: asyncio.Event, control: Control) -> None:
    while True:
        await hang_up.wait()
        hang_up.clear()
        try:
            await control.reload()
        except ReplicadError as error:
            _log.error(f"the configuration stays as it was: {error}")


async def _tell_the_manager(notifier: Notifier, control: Control) -> None:
    """That the event loop is alive, and how things stand."""
    interval_s, status_due_s, loop = notifier.watchdog_interval_s(), 0.0, asyncio.get_running_loop()
    while True:
        notifier.watchdog()
        if loop.time() >= status_due_s:
            status_due_s = loop.time() + _STATUS_EVERY_S
            notifier.status(await _summary(control))
        await asyncio.sleep(min(interval_s or _STATUS_EVERY_S, _STATUS_EVERY_S))


async def _summary(control: Control) -> str:
    views = await control.machines()
    bad = [view for view in views if view.standing.health is not Health.NORMAL]
    running = sum(view.run is not None for view in views)
    text = f"{len(views)} machines, {running} cycles under way"
    if not bad:
        return f"{text}, all well"
    worst = max(bad, key=lambda view: list(Health).index(view.standing.health))
    return f"{text}, {len(bad)} not well: {worst.vm}: {'; '.join(worst.standing.reasons)}"


def _warner() -> Callable[[str], None]:
    """Takes warnings from any thread."""
    loop = asyncio.get_running_loop()
    return lambda text: loop.call_soon_threadsafe(_log.warning, text) and None


def _say(event: ProgressEvent) -> None:
    if isinstance(event, Warned):
        _log.warning(event.text)
