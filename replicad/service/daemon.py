"""The daemon: all rooms tied together, for as long as it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from replicad.catalog import CATALOG_FILE, Catalog, open_catalog
from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.errors import ReplicadError
from replicad.model.progress import ProgressEvent, Said, Warned
from replicad.settings import LogSettings, Settings
from replicad.settings.load import load
from replicad.workflows.context import Context

from .alone import the_only_one
from .announcing import Announcer
from .api.doors import Door, open_doors
from .api.server import serve
from .clone_room import CloneRoom
from .compose import Shares
from .configuration import Configuration
from .control import Control
from .cycles import ConfiguredCycles, log_what_was_said
from .cycles_first import CyclesFirst
from .freezing import freeze_journal
from .hooks import HookRunner
from .hub import Hub
from .kept_clones import KeptClones
from .lookout import Lookout
from .metrics import Figures
from .moving.configured import ConfiguredMoves, Moves
from .moving.following import followed, what_to_change
from .moving.queue import MoveQueue
from .plans import changed_machines, schedules_of, verification_schedules_of
from .point_lists import PointLists
from .sd_notify import Notifier
from .supervisor import Supervisor
from .surroundings import surroundings, system_clock
from .triggers import TriggerDirectory
from .verifying import Verifier
from .watch import Watch
from .watching import Watches

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
        catalog = await stack.enter_async_context(open_catalog(settings.state_dir / CATALOG_FILE, _warner()))
        ctx = await stack.enter_async_context(surroundings(settings.state_dir, _say))
        for run in await catalog.interrupted_runs(ctx.clock.now()):
            _log.warning("the daemon before died in a cycle, which is gone on with", vm=run.vm, run=run.number)
        await freeze_journal(ctx).undo_all_left()

        async def follow(written: Settings) -> Settings:
            after = followed(written, await catalog.moved_sources())
            for sentence in what_to_change(after).values():
                _log.warning(sentence)
            return after

        configuration = Configuration(path, environ, settings, notifier, follow)
        await configuration.follow_moves()
        parts = await _parts(configuration, catalog, ctx, shares, log_lines_dropped)
        parts.configuration.listen(lambda before, after: _prepared(parts, apply_log, before, after))
        await _live(parts, doors)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What runs as long as the daemon does."""

    configuration: Configuration
    catalog: Catalog
    cycles: ConfiguredCycles
    supervisor: Supervisor
    verifier: Verifier
    control: Control
    hooks: HookRunner
    triggers: TriggerDirectory
    watches: Watches
    clone_room: CloneRoom
    kept_clones: KeptClones
    journal: FreezeJournal
    lookout: Lookout
    figures: Figures
    queue: MoveQueue


async def _parts(
    configuration: Configuration,
    catalog: Catalog,
    ctx: Context,
    shares: type[Shares],
    log_lines_dropped: Callable[[], int],
) -> _Parts:
    """All of them, tied together; the machines are kept already."""

    async def give(vm: str) -> None:
        try:
            await control.request(vm)
        except ReplicadError as error:
            _log.warning(str(error), vm=vm)

    settings = configuration.settings
    hooks, figures = HookRunner(settings.hooks), Figures(log_lines_dropped)
    announcer = Announcer(hooks.tell, ctx.clock.now)
    cycles, hub = ConfiguredCycles(settings, ctx, shares), Hub(announcer.hear, figures.hear)
    verifier = Verifier(cycles, catalog, ctx.clock, lambda vm: supervisor.look(vm).agenda, hub.tell)
    supervisor = Supervisor(CyclesFirst(cycles, verifier), catalog, ctx.clock, settings.max_concurrent, hub.tell)
    await verifier.keep(verification_schedules_of(settings), await catalog.verifications())
    await supervisor.keep(schedules_of(settings), await catalog.agendas(), settings.max_concurrent)
    kept_clones = KeptClones(settings, system_clock())
    moving = ConfiguredMoves(lambda: configuration.settings, cycles.limits, catalog, ctx, configuration.follow_moves)

    @asynccontextmanager
    async def hold(vm: str, watch: Watch) -> AsyncIterator[None]:
        async with supervisor.held_back(vm), verifier.cycle(vm, watch):
            yield

    queue = MoveQueue(moving, catalog, ctx.clock, settings.max_moves, hold, hub.tell)
    await queue.keep()
    control = Control(
        lambda: configuration.settings, supervisor, catalog, ctx.clock, configuration.reload, hub, verifier,
        PointLists(cycles.points, ctx.clock), kept_clones.of, Moves(queue, moving, catalog),
    )  # fmt: skip
    return _Parts(
        configuration, catalog, cycles, supervisor, verifier, control, hooks,
        TriggerDirectory(settings.state_dir, lambda vm: vm in configuration.settings.virtual_machines, give),
        Watches(settings, control.request_for_change, control.latest_of, system_clock()),
        CloneRoom(settings, system_clock(), hub.tell), kept_clones, freeze_journal(ctx),
        Lookout(control, configuration.notifier, announcer, ctx.clock), figures, queue,
    )  # fmt: skip


async def _prepared(
    parts: _Parts, apply_log: Callable[[LogSettings], None], before: Settings, after: Settings
) -> Callable[[], Awaitable[None]]:
    """What has all of them work by another configuration. Raises what keeps it from being read who was paused."""
    remembered, verified = await parts.catalog.agendas(), await parts.catalog.verifications()
    changed = changed_machines(before, after)

    async def take() -> None:
        apply_log(after.log)
        parts.cycles.apply(after)
        parts.hooks.apply(after.hooks)
        await parts.verifier.keep(verification_schedules_of(after), verified, changed)
        await parts.supervisor.keep(schedules_of(after), remembered, after.max_concurrent, changed)
        parts.triggers.look_again()
        parts.watches.apply(after)
        parts.clone_room.apply(after)
        parts.kept_clones.apply(after)
        parts.queue.apply(after.max_moves)

    return take


async def _live(parts: _Parts, doors: Sequence[Door]) -> None:
    hang_up, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(parts.supervisor.run(), name="supervisor")
            group.create_task(parts.verifier.run(), name="verifier")
            group.create_task(parts.queue.run(), name="moves")
            group.create_task(parts.triggers.watch(), name="triggers")
            group.create_task(parts.watches.run(), name="watches")
            group.create_task(parts.clone_room.run(), name="clone room")
            group.create_task(parts.kept_clones.run(), name="kept clones")
            group.create_task(parts.journal.keep_undoing(), name="thawing")
            group.create_task(_reload_at(hang_up, parts.control), name="reload")
            group.create_task(parts.hooks.run(), name="hooks")
            group.create_task(parts.lookout.run(), name="lookout")
            group.create_task(serve(parts.control, parts.figures, doors), name="api")
            state_dir = parts.configuration.settings.state_dir
            _log.info("ready", machines=len(parts.control.names()), state_dir=str(state_dir))
            parts.configuration.notifier.ready()
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


def _warner() -> Callable[[str], None]:
    """Takes warnings from any thread."""
    loop = asyncio.get_running_loop()

    def warn(text: str) -> None:
        loop.call_soon_threadsafe(_log.warning, text)

    return warn


def _say(event: ProgressEvent) -> None:
    if isinstance(event, Warned):
        _log.warning(event.text)
    elif isinstance(event, Said):
        log_what_was_said(event)
