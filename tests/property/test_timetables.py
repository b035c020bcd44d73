"""Whatever a timetable holds, its rate is that of the change which one meets first on the way back in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from replicad.model.timetable import RateChange, Timetable, rate_at

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
WEEK_MINUTES = 7 * 24 * 60
# Few minutes, so that changes meet.
changes = st.builds(
    RateChange,
    st.none() | st.integers(0, 6),
    st.sampled_from([0, 1, 480, 1439]) | st.integers(0, 1439),
    st.none() | st.integers(1, 1 << 50),
)


@given(st.lists(changes, min_size=1, max_size=8), st.integers(0, 3 * WEEK_MINUTES), st.integers(0, 59))
def test_rate_is_that_of_the_change_met_first_on_the_way_back(
    listed: list[RateChange], minute: int, second: int
) -> None:
    wanted: RateChange | None = None
    back = 0
    while wanted is None:
        weekday, minute_of_day = divmod((minute - back) % WEEK_MINUTES, 24 * 60)
        for change in listed:
            if change.weekday in (None, weekday) and change.minute_of_day == minute_of_day:
                wanted = change
        back += 1
    assert back <= WEEK_MINUTES
    now = MONDAY + timedelta(minutes=minute, seconds=second)
    assert rate_at(Timetable(tuple(listed)), now) == wanted.rate_bytes_per_s
