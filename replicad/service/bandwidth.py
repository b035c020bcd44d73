"""The bandwidth limits of this process: one for everything, one for each virtual machine, each in both directions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from replicad.model.timetable import Timetable
from replicad.settings import Settings
from replicad.storage.limiter import Limiter, Throttle
from replicad.storage.throttled import Throttles


def wall_clock() -> datetime:
    """This host's local time."""
    return datetime.now(UTC).astimezone()


class BandwidthLimits:
    """What the configuration says of bandwidth, for all shares of this process. To be used on one event loop.

    What is limited for all is shared evenly between the machines that want more than that.

    A machine that another configuration leaves out keeps no limit of its own; its shares still obey the common one.
    """

    def __init__(self, settings: Settings, local_now: Callable[[], datetime] = wall_clock) -> None:
        self._settings = settings
        self._common = _Limit(settings.bandwidth, local_now)
        self._machines: dict[str, _Limit] = {}
        self._local_now = local_now

    def apply(self, settings: Settings) -> None:
        """Take another configuration: it holds at once, also for what is on its way."""
        self._settings = settings
        self._common.set_timetable(settings.bandwidth)
        for vm, limit in self._machines.items():
            limit.set_timetable(self._timetable_of(vm))

    def throttles(self, vm: str | None) -> Throttles:
        """What the bytes of a virtual machine have to pass; None for those that belong to no configured one."""
        limits = [self._common]
        if vm is not None:
            if vm not in self._machines:
                self._machines[vm] = _Limit(self._timetable_of(vm), self._local_now)
            limits.insert(0, self._machines[vm])
        return Throttles(
            sending=Throttle(tuple(limit.sending for limit in limits), vm),
            receiving=Throttle(tuple(limit.receiving for limit in limits), vm),
        )

    def _timetable_of(self, vm: str) -> Timetable | None:
        machine = self._settings.virtual_machines.get(vm)
        return machine.bandwidth if machine is not None else None


def throttles_of(timetable: Timetable, local_now: Callable[[], datetime] = wall_clock) -> Throttles:
    """One limit in each direction for whatever is given these throttles, together."""
    limit = _Limit(timetable, local_now)
    return Throttles(sending=Throttle((limit.sending,)), receiving=Throttle((limit.receiving,)))


class _Limit:
    """One timetable, for each direction on its own."""

    def __init__(self, timetable: Timetable | None, local_now: Callable[[], datetime]) -> None:
        self.sending = Limiter(timetable, local_now)
        self.receiving = Limiter(timetable, local_now)

    def set_timetable(self, timetable: Timetable | None) -> None:
        """Another one, at once."""
        self.sending.set_timetable(timetable)
        self.receiving.set_timetable(timetable)
