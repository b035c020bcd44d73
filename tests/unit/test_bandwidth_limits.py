"""What the configuration's bandwidth limits are for whose shares, and how they are changed while something travels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from replicad.model.address import LocalAddress
from replicad.model.progress import nobody
from replicad.service.bandwidth import BandwidthLimits, wall_clock
from replicad.service.compose import Shares
from replicad.service.machines import open_machine
from replicad.service.surroundings import surroundings
from replicad.settings import Settings, VirtualMachine
from replicad.settings.timetable import parse_timetable
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode
from replicad.storage.throttled import ThrottledShare
from replicad.tracking.held import HeldView
from replicad.tracking.tracked import TrackedSource
from tests.support import virtual_time
from tests.support.virtual_time import passed_s, run

M = 1 << 20
SOURCE, REPLICA = LocalAddress("/srv/vms/웹"), LocalAddress("/srv/replica")


def _settings(common: str | None, machines: Mapping[str, str | None]) -> Settings:
    def read(text: str | None) -> dict[str, object]:
        return {"bandwidth": parse_timetable(text) if text else None}

    configured = {vm: VirtualMachine(vm, SOURCE, REPLICA, **read(text)) for vm, text in machines.items()}  # type: ignore[arg-type]  # one field, by name
    return Settings(
        Path("/etc/replicad.yaml"), Path("/var/lib/replicad"), virtual_machines=MappingProxyType(configured),
        **read(common),  # type: ignore[arg-type]  # as above
    )  # fmt: skip


async def _write(limits: BandwidthLimits, vm: str | None, count_bytes: int) -> float:
    """Write so much for a machine, in one call; when that was done."""
    share = ThrottledShare(MemoryShare(), limits.throttles(vm))
    async with await share.open("웹.vhdx", OpenMode.CREATE) as file:
        await file.write(bytes(count_bytes), 0)
    return passed_s()


async def _at_once(limits: BandwidthLimits, work: Mapping[str | None, int]) -> dict[str | None, float]:
    async with asyncio.TaskGroup() as group:
        tasks = {vm: group.create_task(_write(limits, vm, count)) for vm, count in work.items()}
    return {vm: task.result() for vm, task in tasks.items()}


def test_machines_share_the_common_limit_and_each_keeps_its_own() -> None:
    limits = BandwidthLimits(_settings("8M", {"web": None, "db": "1M"}), virtual_time.wall_clock)
    done = run(_at_once(limits, {"web": 14 * M, "db": 2 * M, None: 14 * M}))
    assert done["db"] == pytest.approx(1.75, abs=0.3)
    # 30 MiB in all, less the last piece of 2 MiB at most, which nobody waits for.
    assert 28 / 8 <= max(done.values()) <= 30 / 8


def test_without_any_limit_nothing_waits() -> None:
    limits = BandwidthLimits(_settings(None, {"web": None, "db": "off"}), virtual_time.wall_clock)
    assert set(run(_at_once(limits, {"web": 100 * M, "db": 100 * M})).values()) == {0.0}


def test_two_shares_of_one_machine_have_one_limit_together() -> None:
    limits = BandwidthLimits(_settings(None, {"web": "1M"}), virtual_time.wall_clock)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(_write(limits, "web", 2 * M))

    run(story())
    done_s = run(_at_once(BandwidthLimits(_settings(None, {"web": "1M"}), virtual_time.wall_clock), {"web": 4 * M}))
    assert done_s["web"] == pytest.approx(3.75, abs=1e-3)


def test_another_configuration_holds_at_once_for_what_is_on_its_way() -> None:
    limits = BandwidthLimits(_settings("1M", {"web": None, "db": "512K"}), virtual_time.wall_clock)

    async def story() -> dict[str | None, float]:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_at_once(limits, {"web": 100 * M, "db": 100 * M}))
            await asyncio.sleep(10)
            # The one gets a limit of its own, the other loses it.
            limits.apply(_settings("off", {"web": "10M", "db": None}))
        return work.result()

    done = run(story())
    assert done["db"] == pytest.approx(10, abs=0.01)
    assert done["web"] == pytest.approx(10 + 95 / 10, abs=0.3)


def test_a_machine_that_is_left_out_obeys_the_common_limit_only_and_one_that_is_new_its_own() -> None:
    limits = BandwidthLimits(_settings("4M", {"web": "1M"}), virtual_time.wall_clock)

    async def story() -> None:
        before = limits.throttles("web"), limits.throttles("new")
        limits.apply(_settings("4M", {"new": "2M"}))
        assert [one.sending.piece_bytes() for one in before] == [M, M // 2]
        assert [one.receiving.piece_bytes() for one in before] == [M, M // 2]
        assert limits.throttles("new").sending.piece_bytes() == M // 2

    run(story())


def test_the_wall_clock_is_that_of_this_host() -> None:
    shown = wall_clock()
    assert abs((shown - datetime.now(UTC)).total_seconds()) < 60
    assert shown.utcoffset() == datetime.now(UTC).astimezone().utcoffset()


async def test_a_local_replica_is_limited_and_a_local_source_is_not(tmp_path: Path) -> None:
    machine = VirtualMachine("web", LocalAddress(str(tmp_path)), LocalAddress(str(tmp_path)))
    async with Shares(_settings("1M", {"web": None})) as shares, surroundings(None, nobody) as ctx:
        opened = await open_machine(machine, shares, ctx)
        assert isinstance(opened.replica, ThrottledShare)
        assert isinstance(opened.source, TrackedSource)
        assert isinstance(opened.source.view, HeldView)
        assert not isinstance(opened.source.view.share, ThrottledShare)
        assert not isinstance(await shares.open(LocalAddress(str(tmp_path)), vm="web"), ThrottledShare)


async def test_without_a_configuration_there_is_no_limit(tmp_path: Path) -> None:
    async with Shares(None) as shares:
        assert not isinstance(await shares.open(LocalAddress(str(tmp_path)), replica=True), ThrottledShare)


async def test_several_shares_can_have_their_limits_in_common(tmp_path: Path) -> None:
    settings = _settings("1M", {})
    limits = BandwidthLimits(settings)
    address = LocalAddress(str(tmp_path))
    async with Shares(settings, limits=limits) as one, Shares(settings, limits=limits) as other:
        for shares in (one, other):
            share = await shares.open(address, replica=True)
            async with await share.open(f"{id(shares)}", OpenMode.CREATE) as file:
                assert limits.throttles(None).sending.piece_bytes() == M // 4
                await file.write(bytes(64 << 10), 0)
        limits.apply(_settings(None, {}))
        assert limits.throttles(None).sending.piece_bytes() is None
