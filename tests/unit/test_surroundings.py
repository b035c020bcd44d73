"""What workflows are given of this host."""

from __future__ import annotations

import sys
import time

import pytest

from replicad.replica.fence import Fence
from replicad.service.surroundings import system_clock


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long it slept")
async def test_an_answer_about_the_lock_is_old_after_the_host_has_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s, asked = 0.0, 0

    def clock_gettime(clock: int) -> float:
        # Linux stands its monotonic clock still while it sleeps.
        return 1000.0 + (slept_s if clock == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", clock_gettime)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)

    async def check() -> None:
        nonlocal asked
        asked += 1

    fence = Fence(check, system_clock().monotonic_s)
    await fence.recently_ours()
    await fence.recently_ours()
    assert asked == 1
    slept_s = 8 * 3600.0
    await fence.recently_ours()
    assert asked == 2
