"""A cycle whose connections are lost, at every call in turn: it ends well in one go, or in time with its error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from replicad.model.errors import BusyError, LockedError, SignInError, UnreachableError
from replicad.model.patience import Patience
from replicad.model.progress import Advanced, PhaseStarted, Warned
from replicad.replica.layout import Layout
from replicad.storage.port import LockHolder, OpenMode, ShareFile
from replicad.workflows.retries import PATIENCE, dry_run_with_retries
from tests.fault.test_cycle_crashes import STAGES, bring_to
from tests.support.lossy import LossyShare, Lost, at_call
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

SIDES = ("replica", "source")


@asynccontextmanager
async def _world_at(stage: str, *, server_copy: bool = True) -> AsyncIterator[World]:
    """A world at the moment before the cycle, with connections that can be lost."""
    async with memory_world(3, server_copy=server_copy) as world:
        await bring_to(world, stage)
        world.replica, world.source = LossyShare(world.replica), LossyShare(world.source)
        yield world


def _side(world: World, side: str) -> LossyShare:
    share = getattr(world, side)
    assert isinstance(share, LossyShare)
    return share


def _losses(world: World) -> list[str]:
    """The warnings of lost connections."""
    texts = [event.text for event in world.events if isinstance(event, Warned)]
    return [text for text in texts if text.endswith("; trying again, to go on where it was")]


async def _calls(stage: str, side: str) -> list[str]:
    async with _world_at(stage) as world:
        await world.sync()
        return _side(world, side).log


async def _check(world: World, *, all_points: bool) -> None:
    """What the disks hold under their own names; and every point, through the undo logs."""
    directory = Layout(VM).disks_dir
    found = await read_tree(world.replica, directory)
    assert digests({path.removeprefix(f"{directory}/"): data for path, data in found.items()}) == digests(world.disks)
    if all_points:
        await world.check_all_points()


async def _lose_once(stage: str, side: str, number: int, how: Lost, *, all_points: bool = True) -> None:
    async with _world_at(stage, server_copy=number % 2 == 0) as world:
        share = _side(world, side)
        share.judge = at_call(number, how)
        expected = max(world.history, default=0) + 1
        report = await world.sync_with_retries()
        lost = share.connections > 1
        # A point that was committed when its last answer was lost is not made twice.
        assert report.point.number == expected
        assert (report.attempts, report.resumed <= lost) == (1 + lost, True)
        assert len(_losses(world)) == lost
        others = [e.text for e in world.events if isinstance(e, Warned) and e.text not in _losses(world)]
        assert others == list(report.point.warnings)
        assert share.files == []
        await _check(world, all_points=all_points)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", SIDES)
async def test_connection_lost_at_any_call_does_not_end_the_sync(stage: str, side: str) -> None:
    ways = list(Lost)
    for number in range(1, len(await _calls(stage, side)) + 1):
        await _lose_once(stage, side, number, ways[number % len(ways)], all_points=number % 7 == 0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", SIDES)
async def test_connection_lost_in_any_way_at_any_call_does_not_end_the_sync(stage: str, side: str) -> None:
    for number in range(1, len(await _calls(stage, side)) + 1):
        for how in Lost:
            await _lose_once(stage, side, number, how)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", SIDES)
async def test_connection_that_does_not_come_back_ends_the_sync_in_time_and_spoils_nothing(
    stage: str, side: str
) -> None:
    calls = len(await _calls(stage, side))
    for number in sorted(Random(stage + side).sample(range(1, calls + 1), min(calls, 25))):
        async with _world_at(stage) as world:
            share = _side(world, side)

            def judge(seen: int, what: str, share: LossyShare = share, number: int = number) -> Lost | None:
                share.down = share.down or seen == number
                return Lost.BEFORE if share.down else None

            share.judge = judge
            began_s = world.time.seconds
            with pytest.raises(UnreachableError, match="the server reset the connection"):
                await world.sync_with_retries()
            assert PATIENCE.seconds <= world.time.seconds - began_s < 2 * PATIENCE.seconds
            assert len(share.log) < number + 15
            assert len(_losses(world)) <= 1
            share.down, share.judge = False, lambda seen, what: None
            await world.sync_with_retries()
            await _check(world, all_points=number % 5 == 0)


async def test_many_losses_in_one_cycle_are_outlived_as_long_as_each_attempt_gets_further() -> None:
    async with _world_at("delta") as world:
        await world.put("가 disk.vhd", Random(5).randbytes(16 * 64 * CHUNK))  # written in pieces of 8 MiB
        share = _side(world, "replica")
        left = allowed = 2

        def judge(number: int, what: str) -> Lost | None:
            nonlocal left, allowed
            if not what.startswith("write") or ".updating" not in what:
                return None
            left -= 1
            if left > 0:
                return None
            # The next attempt sends again what is in doubt, and some pieces more.
            left = allowed = allowed + 2
            return Lost.AFTER

        share.judge = judge
        report = await world.sync_with_retries(patience=Patience(1, 30, failures=1, seconds=0.5))
        assert report.attempts >= 4
        assert world.time.seconds < 60
        assert len(_losses(world)) == report.attempts - 1
        assert report.statistics.sent_bytes > report.point.statistics.sent_bytes
        assert report.statistics.duration_ms > report.point.statistics.duration_ms
        await _check(world, all_points=True)


async def test_sending_the_same_again_and_again_gets_nothing_on_and_is_given_up() -> None:
    async with _world_at("delta") as world:
        share = _side(world, "replica")
        # All is sent and the point's record can't be written: what was sent is in doubt, and is sent each time.
        share.judge = lambda number, what: Lost.BEFORE if what.startswith("open") and "point.json.tmp" in what else None
        with pytest.raises(UnreachableError, match=r"point\.json\.tmp"):
            await world.sync_with_retries(patience=Patience(1, 1, failures=5, seconds=0))
        assert share.connections == 1 + 5
        assert sum(what.startswith("write") and ".updating" in what for what in share.log) >= 5


async def test_statistics_of_a_sync_without_losses_are_those_of_its_point() -> None:
    async with _world_at("reshaped") as world:
        report = await world.sync_with_retries()
        sent, ours = report.point.statistics, report.statistics
        assert (ours.sent_bytes, ours.scanned_bytes, ours.changed_bytes) == (
            sent.sent_bytes, sent.scanned_bytes, sent.changed_bytes,
        )  # fmt: skip
        assert (report.attempts, report.resumed) == (1, False)


async def test_progress_of_each_attempt_adds_up_to_its_own_phase() -> None:
    async with _world_at("initial") as world:
        share = _side(world, "replica")
        share.judge = at_call(60, Lost.AFTER)
        await world.sync_with_retries()
        phases = [event for event in world.events if isinstance(event, PhaseStarted) and event.total_bytes]
        assert [phase.name for phase in phases] == ["initial", "initial"]
        last = len(world.events) - world.events[::-1].index(phases[-1])
        done = sum(event.done_bytes for event in world.events[last:] if isinstance(event, Advanced))
        assert done == phases[-1].total_bytes


async def test_our_own_lock_that_the_server_still_keeps_is_waited_for() -> None:
    async with _world_at("delta") as world:
        share = _side(world, "replica")
        share.locks_kept = 3
        share.judge = at_call(50, Lost.BEFORE)
        report = await world.sync_with_retries()
        assert (report.attempts, len(_losses(world))) == (5, 1)
        await _check(world, all_points=True)


async def test_somebody_elses_lock_is_not_waited_for() -> None:
    async with _world_at("delta") as world:
        other = LockHolder("other-host", "m", "b", 7, "1", "2026-01-01T00:00:00Z")
        async with await world.replica.lock(Layout(VM).lock, other):
            with pytest.raises(LockedError, match="other-host"):
                await world.sync_with_retries()
        taken = []
        original = world.time.sleep

        async def meanwhile(seconds: float) -> None:
            taken.append(await world.replica.lock(Layout(VM).lock, other))
            await original(seconds)

        world.time.sleep = meanwhile  # type: ignore[method-assign]  # the clock of this world
        _side(world, "replica").judge = lambda number, what: Lost.BEFORE if what.startswith("copy to") else None
        with pytest.raises(LockedError, match="other-host"):
            await world.sync_with_retries()
        assert len(taken) == 1


async def test_a_source_that_somebody_began_to_write_while_the_connection_was_lost_ends_the_sync() -> None:
    async with _world_at("delta") as world:
        writers: list[ShareFile] = []
        original = world.time.sleep

        async def meanwhile(seconds: float) -> None:
            if not writers:
                writers.append(await world.source.open("가 disk.vhd", OpenMode.WRITE))
            await original(seconds)

        world.time.sleep = meanwhile  # type: ignore[method-assign]  # the clock of this world
        share = _side(world, "source")
        share.judge = at_call(15, Lost.BEFORE)
        with pytest.raises(BusyError, match="Shut the virtual machine down"):
            await world.sync_with_retries()
        await writers[0].close()
        await world.sync_with_retries()
        await _check(world, all_points=True)


@pytest.mark.parametrize("error", [SignInError("sign in to", "nas", "no"), BusyError("use", "nas", "busy")])
async def test_what_waiting_can_not_mend_ends_the_sync_at_once(error: SignInError | BusyError) -> None:
    async with _world_at("delta") as world:
        asked = 0

        def judge(number: int, what: str) -> Lost | None:
            nonlocal asked
            if number == 40:
                return Lost.BEFORE
            if number > 40:
                asked += 1
                raise error
            return None

        _side(world, "replica").judge = judge
        with pytest.raises(type(error)):
            await world.sync_with_retries()
        assert asked == 1


async def test_a_dry_run_outlives_a_loss_as_well() -> None:
    async with _world_at("delta") as world:
        job_report = await world.sync()
        await world.put("가 disk.vhd", Random(9).randbytes(3 * CHUNK))
        for side in SIDES:
            share = _side(world, side)
            at = len(share.log) + 8
            share.judge = at_call(at, Lost.BEFORE)
            found = await dry_run_with_retries(world.job(), world.change_source(), world.replica, world.context())
            assert (found.point, share.connections) == (job_report.point.number + 1, 2)
