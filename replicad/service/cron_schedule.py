"""The due times of a cron expression, by the arithmetic of APScheduler's trigger; its scheduler is not used.

Ranges and steps are spelled out for it: it leaves out a step among names (`mon-fri/2`) without a word, and refuses one
that is longer than its range (`1-5/9`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

from replicad.model.schedule import MOST_COUNTED
from replicad.settings.cron import Cron, spelled_out

_TICK = timedelta(microseconds=1)


class CronSchedule:
    """A `replicad.model.schedule.Schedule`: the minutes in UTC that match all five fields."""

    def __init__(self, cron: Cron) -> None:
        single = spelled_out(cron)
        self._trigger = CronTrigger(
            minute=single.minute, hour=single.hour, day=single.day, month=single.month, day_of_week=single.weekday,
            second=0, timezone=UTC,
        )  # fmt: skip

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after `moment`, in UTC; None if the calendar ends before it comes."""
        found: datetime | None = self._trigger.get_next_fire_time(None, moment.astimezone(UTC) + _TICK)
        return found

    def count_between(self, since: datetime, until: datetime) -> int:
        """How many due times lie after `since` and not after `until`, `MOST_COUNTED` at most: they are found one by
        one."""
        count, found = 0, self.next_after(since)
        while found is not None and found <= until and count < MOST_COUNTED:
            count, found = count + 1, self.next_after(found)
        return count
