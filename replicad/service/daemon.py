"""The daemon: all rooms tied together, for as long as it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from replicad.catalog import Catalog, open_catalog
from replicad.model.clock import Clock
from replicad.model.errors import ConfigError, ReplicadError
from replicad.model.health import Health
from replicad.model.progress import ProgressEvent, Warned
from replicad.settings import LogSettings, Settings
from replicad.settings.load import load

from .alone import the_only_one
from .announcing import Announcer
from .api.doors import Door, open_doors
from .api.server import serve
from .compose import Shares
from .control import Control, MachineView
from .cycles import ConfiguredCycles
from .hooks import HookRunner
from .hub import Hub
from .metrics import Figures
from .plans import changed_machines, schedules_of, verification_schedules_of
from .point_lists import PointLists
from .sd_notify import Notifier
from .supervisor import Supervisor
from .surroundings import surroundings, system_clock
from .triggers import TriggerDirectory
from .verifying import CyclesFirst, Verifier
from .watching import Watches

_CATALOG = "catalog.sqlite"
_LOOK_EVERY_S = 10.0

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("daemon")


def _none_dropped() -> int:
    return 0


def _no_log(_: LogSettings) -> None:
    pass


async def run_daemon(
    path: Path,
    environ: Mapping[str, str],
    log_lines_dropped: Callable[[], int] = _none_dropped,
    apply_log: Callable[[LogSettings], None] = _no_log,
    shares: type[Shares] = Shares,
) -> None:
    """Keep the machines of the configuration at `path`, and answer at its API, until cancelled.

    SIGHUP has it read the file again. When it is cancelled, cycles under way are stopped and written down as
    interrupted. SettingsError if the file is wrong, LockedError if another daemon works in the same state directory,
    and what opening the catalog and the API's sockets raises. `log_lines_dropped` is for its figures; `apply_log` is
    told what the configuration says of the log, at first and whenever it is taken; `shares` is what opens the shares of
    its cycles.
    """
    settings = load(path, environ)
    apply_log(settings.log)
    notifier = Notifier.from_environment(environ)
    async with AsyncExitStack() as stack:
        stack.callback(notifier.close)
        stack.callback(notifier.stopping)
        stack.enter_context(the_only_one(settings.state_dir))
        doors = stack.enter_context(open_doors(settings, _log.warning))
        catalog = await stack.enter_async_context(open_catalog(settings.state_dir / _CATALOG, _warner()))
        ctx = await stack.enter_async_context(surroundings(settings.state_dir, _say))
        for run in await catalog.interrupted_runs(ctx.clock.now()):
            _log.warning("the daemon before died in a cycle, which is gone on with", vm=run.vm, run=run.number)
        hooks = HookRunner(settings.hooks)
        announcer = Announcer(hooks.tell)
        figures = Figures(log_lines_dropped)
        cycles, hub = ConfiguredCycles(settings, ctx, shares), Hub(announcer.hear, figures.hear)
        verifier = Verifier(cycles, catalog, ctx.clock, lambda vm: supervisor.look(vm).agenda, hub.tell)
        supervisor = Supervisor(CyclesFirst(cycles, verifier), catalog, ctx.clock, settings.max_concurrent, hub.tell)
        await verifier.keep(verification_schedules_of(settings), await catalog.verifications())
        await supervisor.keep(schedules_of(settings), await catalog.agendas(), settings.max_concurrent)
        configuration = _Configuration(
            path, environ, settings, cycles, hooks, supervisor, verifier, catalog, notifier, apply_log
        )
        points = PointLists(cycles.points, ctx.clock)
        control = Control(
            lambda: configuration.settings, supervisor, catalog, ctx.clock, configuration.reload, hub, verifier, points
        )
        watcher = _Watcher(control, notifier, announcer, ctx.clock)
        await _live(supervisor, verifier, configuration, control, hooks, watcher, figures, doors)


class _Configuration:
    """What the daemon works by, and how it comes to work by something else."""

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        settings: Settings,
        cycles: ConfiguredCycles,
        hooks: HookRunner,
        supervisor: Supervisor,
        verifier: Verifier,
        catalog: Catalog,
        notifier: Notifier,
        apply_log: Callable[[LogSettings], None],
    ) -> None:
        self.settings = settings
        self.triggers: TriggerDirectory | None = None
        self.watches: Watches | None = None
        self._path, self._environ = path, environ
        self._cycles, self._hooks, self._supervisor = cycles, hooks, supervisor
        self._verifier, self._catalog = verifier, catalog
        self._notifier, self._apply_log = notifier, apply_log
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
        if after.api != before.api:
            raise ConfigError(
                "take", f"another api from {self._path}", "this daemon goes on listening where it does",
                "Restart it instead.",
            )  # fmt: skip
        self.settings = after
        self._apply_log(after.log)
        self._cycles.apply(after)
        self._hooks.apply(after.hooks)
        remembered, verified = await self._catalog.agendas(), await self._catalog.verifications()
        changed = changed_machines(before, after)
        await self._verifier.keep(verification_schedules_of(after), verified, changed)
        await self._supervisor.keep(schedules_of(after), remembered, after.max_concurrent, changed)
        if self.triggers is not None:
            self.triggers.look_again()
        if self.watches is not None:
            self.watches.apply(after)
        _log.info("configuration taken", file=str(self._path), machines=len(after.virtual_machines))


async def _live(
    supervisor: Supervisor,
    verifier: Verifier,
    configuration: _Configuration,
    control: Control,
    hooks: HookRunner,
    watcher: _Watcher,
    figures: Figures,
    doors: Sequence[Door],
) -> None:
    async def give(vm: str) -> None:
        try:
            await control.request(vm)
        except ReplicadError as error:
            _log.warning(str(error), vm=vm)

    hang_up, loop, settings = asyncio.Event(), asyncio.get_running_loop(), configuration.settings
    triggers = TriggerDirectory(settings.state_dir, lambda vm: vm in configuration.settings.virtual_machines, give)
    configuration.triggers = triggers
    configuration.watches = watches = Watches(settings, control.request_for_change, system_clock())
    loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run(), name="supervisor")
            group.create_task(verifier.run(), name="verifier")
            group.create_task(triggers.watch(), name="triggers")
            group.create_task(watches.run(), name="watches")
            group.create_task(_reload_at(hang_up, control), name="reload")
            group.create_task(hooks.run(), name="hooks")
            group.create_task(watcher.run(), name="watcher")
            group.create_task(serve(control, figures, doors), name="api")
            _log.info("ready", machines=len(control.names()), state_dir=str(settings.state_dir))
            watcher.ready()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _reload_at(hang_up: asyncio.Event, control: Control) -> None:
    while True:
        await hang_up.wait()
        hang_up.clear()
        try:
            await control.reload()
        except ReplicadError as error:
            _log.error(f"the configuration stays as it was: {error}")


class _Watcher:
    """Looks at all machines every ten seconds, and tells the service manager and the hooks how they stand; and the
    manager, as often as it wants, that the event loop is alive."""

    def __init__(self, control: Control, notifier: Notifier, announcer: Announcer, clock: Clock) -> None:
        self._control, self._notifier, self._announcer, self._clock = control, notifier, announcer, clock

    def ready(self) -> None:
        """All is set up."""
        self._notifier.ready()

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = min(self._notifier.watchdog_interval_s() or _LOOK_EVERY_S, _LOOK_EVERY_S)
        look_at_s = 0.0
        while True:
            self._notifier.watchdog()
            if self._clock.monotonic_s() >= look_at_s:
                look_at_s = self._clock.monotonic_s() + _LOOK_EVERY_S
                views = await self._control.machines()
                self._announcer.look(views, self._clock.now())
                self._notifier.status(_summary(views))
            await self._clock.sleep(pause_s)


def _summary(views: list[MachineView]) -> str:
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

    def warn(text: str) -> None:
        loop.call_soon_threadsafe(_log.warning, text)

    return warn


def _say(event: ProgressEvent) -> None:
    if isinstance(event, Warned):
        _log.warning(event.text)
