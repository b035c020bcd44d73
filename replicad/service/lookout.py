"""Telling the service manager and the hooks how the machines stand."""

from __future__ import annotations

from replicad.model.clock import Clock
from replicad.model.health import Health

from .announcing import Announcer
from .control import Control, MachineView
from .sd_notify import Notifier

_LOOK_EVERY_S = 10.0


class Lookout:
    """Looks at all machines every ten seconds, and tells the service manager and the hooks how they stand; and the
    manager, as often as it wants, that the event loop is alive."""

    def __init__(self, control: Control, notifier: Notifier, announcer: Announcer, clock: Clock) -> None:
        self._control, self._notifier, self._announcer, self._clock = control, notifier, announcer, clock

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
