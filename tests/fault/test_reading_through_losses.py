"""Restoring and verifying while connections are lost: gone on with, under the lock, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    IntegrityError,
    LockedError,
    TimedOutError,
    UnreachableError,
)
from replicad.model.progress import PhaseStarted, ProgressEvent, Warned
from replicad.replica.layout import Layout
from replicad.storage.decorated import DecoratedShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import LockHolder, OpenMode, Share
from replicad.storage.retrying import RetryingShare
from replicad.workflows.repair import verify_and_repair
from replicad.workflows.restore import restore
from replicad.workflows.verify import verify
from tests.fault.test_cycle_crashes import bring_to
from tests.support.lossy import LossyShare, Lost, at_call
from tests.support.world import CHUNK, VM, World, digests, memory_world, read_tree

OTHER = LockHolder("other-host", "m", "b", 7, "1", "2026-01-01T00:00:00Z")
DISK = "가 disk.vhd"


@asynccontextmanager
async def _world() -> AsyncIterator[tuple[World, LossyShare]]:
    """Four points, whose connection can be lost."""
    async with memory_world(3) as world:
        await bring_to(world, "reshaped")
        await world.sync()
        world.replica = share = LossyShare(world.replica)
        yield world, share


def _losses(world: World) -> list[str]:
    texts = [event.text for event in world.events if isinstance(event, Warned)]
    return [text for text in texts if text.endswith("; trying again")]


async def _restore(world: World, number: int = 4) -> None:
    target = MemoryShare()
    await restore(world.replica, VM, number, target, world.context())
    assert digests(await read_tree(target)) == digests(world.history[number])


async def _restore_an_older_one(world: World) -> None:
    await _restore(world, 2)


async def _verify(world: World) -> None:
    found = await verify(world.replica, VM, None, world.context())
    assert (found.damages, found.points) == ([], [1, 2, 3, 4])


async def _verify_one(world: World) -> None:
    assert (await verify(world.replica, VM, 2, world.context())).damages == []


Work = Callable[[World], Awaitable[None]]


@pytest.mark.parametrize("work", [_restore, _restore_an_older_one, _verify, _verify_one])
async def test_connection_lost_at_any_call_is_gone_on_from(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_after = 0

    def note(inner: Share, *arguments: Any) -> RetryingShare:
        nonlocal opened_after
        assert isinstance(inner, LossyShare)
        opened_after = len(inner.log)
        return RetryingShare(inner, *arguments)

    async with _world() as (world, share):
        with monkeypatch.context() as patched:
            patched.setattr("replicad.workflows.opening.RetryingShare", note)
            await work(world)
        calls = len(share.log)
    assert 0 < opened_after < calls / 3
    ways = list(Lost)
    for number in range(1, calls + 1):
        async with _world() as (world, share):
            how = ways[number % len(ways)]
            share.judge = at_call(number, how)
            if number <= opened_after:
                # Nothing was read yet that would be worth going on with.
                with pytest.raises((UnreachableError, TimedOutError)):
                    await work(world)
            else:
                await work(world)
            assert len(_losses(world)) == (number > opened_after)
            assert share.files == []
            assert await share.inner.lock_holder(Layout(VM).lock) is None


@pytest.mark.parametrize("work", [_restore, _verify])
async def test_connection_that_does_not_come_back_is_given_up_after_two_minutes(work: Work) -> None:
    async with _world() as (world, share):

        async def vanish() -> None:
            share.down = True

        await _lose_while_reading(world, share, vanish)
        began_s = world.time.seconds
        with pytest.raises(UnreachableError):
            await work(world)
        assert 120 <= world.time.seconds - began_s < 130
        assert len(_losses(world)) == 1


async def _lose_while_reading(world: World, share: LossyShare, then: Callable[[], Awaitable[None]]) -> None:
    """Lose the connection at the first read of a disk, and do something before it comes back."""
    lost = False

    def judge(number: int, what: str) -> Lost | None:
        nonlocal lost
        if lost or not what.startswith(f"read {Layout(VM).disks_dir}"):
            return None
        lost = True
        return Lost.BEFORE

    done = False
    original = world.time.sleep

    async def sleep(seconds: float) -> None:
        nonlocal done
        if not done:
            done = True
            await then()
        await original(seconds)

    share.judge = judge
    world.time.sleep = sleep  # type: ignore[method-assign]  # the clock of this world


async def test_the_lock_is_held_again_before_anything_more_is_read() -> None:
    async with _world() as (world, share):
        outside = share.inner

        async def nobody_holds_it() -> None:
            assert await outside.lock_holder(Layout(VM).lock) is None

        await _lose_while_reading(world, share, nobody_holds_it)
        target = _Watching(MemoryShare(), outside)
        await restore(share, VM, 4, target, world.context())
        assert target.locked == {True}
        assert digests(await read_tree(target.inner)) == digests(world.history[4])
        assert await outside.lock_holder(Layout(VM).lock) is None


class _Watching(DecoratedShare):
    """A target that looks at the replica's lock each time that a file gets its name."""

    def __init__(self, inner: Share, replica: Share) -> None:
        super().__init__(inner)
        self.replica = replica
        self.locked: set[bool] = set()

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        self.locked.add(await self.replica.lock_holder(Layout(VM).lock) is not None)
        await self.inner.rename(source, target, replace=replace)


async def test_a_writer_that_took_the_lock_meanwhile_is_named() -> None:
    async with _world() as (world, share):

        async def take() -> None:
            await share.inner.lock(Layout(VM).lock, OTHER)

        await _lose_while_reading(world, share, take)
        with pytest.raises(LockedError, match="other-host"):
            await _verify(world)


@pytest.mark.parametrize("work", [_restore, _verify])
async def test_a_replica_that_was_written_meanwhile_is_not_read_on(work: Work) -> None:
    async with _world() as (world, share):

        async def sync() -> None:
            await world.put(DISK, bytes(CHUNK))
            world.replica = share.inner
            await world.sync()

        await _lose_while_reading(world, share, sync)
        world.replica = share
        with pytest.raises(BusyError, match="another writer was there"):
            await work(world)


async def test_our_own_lock_that_the_server_still_keeps_is_waited_for() -> None:
    async with _world() as (world, share):
        await _lose_while_reading(world, share, _nothing)
        share.locks_kept = 3
        await _verify(world)
        assert share.locks_kept == 0
        assert len(_losses(world)) == 1


async def _nothing() -> None:
    pass


async def _damage(share: Share) -> None:
    async with await share.open(f"{Layout(VM).disks_dir}/{DISK}", OpenMode.WRITE) as file:
        await file.write(b"damage", 5)


async def _lose_unnoticed(share: LossyShare, then: Callable[[], Awaitable[None]]) -> None:
    """Lose the connection between two calls, so that none fails, and do something before the next one."""
    original, lost = share.open, False

    async def open_(path: str, mode: OpenMode) -> object:
        nonlocal lost
        if not lost and path.startswith(Layout(VM).disks_dir):
            lost = True
            await share.lose()
            await then()
        return await original(path, mode)

    share.open = open_  # type: ignore[method-assign,assignment]  # this share is disturbed


async def test_what_looks_like_damage_is_none_if_another_writer_was_there_unnoticed() -> None:
    for work in (_restore, _verify, _verify_one):
        async with _world() as (world, share):
            await _lose_unnoticed(share, partial(_another_cycle, share))
            with pytest.raises(BusyError, match="another writer was there"):
                await work(world)


async def _another_cycle(share: LossyShare) -> None:
    """What it leaves, as far as it can be told."""
    await _damage(share.inner)
    await share.inner.make_dir(Layout(VM).pending_dir(5))


async def test_damage_is_damage_though_the_lock_was_lost_unnoticed() -> None:
    async with _world() as (world, share):
        await _lose_unnoticed(share, lambda: _damage(share.inner))
        with pytest.raises(IntegrityError, match="damaged"):
            await _restore(world)
    async with _world() as (world, share):
        await _lose_unnoticed(share, lambda: _damage(share.inner))
        found = await verify(share, VM, None, world.context())
        assert [DISK in damage.file for damage in found.damages] == [True]


async def test_nothing_is_repaired_under_a_lock_that_somebody_else_has_now() -> None:
    async with _world() as (world, share):
        await _damage(share.inner)

        def observe(event: ProgressEvent) -> None:
            # All is read, and the first damage is about to be mended.
            if event == PhaseStarted("repairing"):
                share.judge = lambda number, what: Lost.BEFORE

        async def take(seconds: float) -> None:
            share.judge = lambda number, what: None
            await share.inner.lock(Layout(VM).lock, OTHER)

        world.time.sleep = take  # type: ignore[method-assign]  # the clock of this world
        world.events = _Heard(observe)
        before = digests(await read_tree(share.inner, Layout(VM).disks_dir))
        with pytest.raises(LockedError, match="other-host"):
            await verify_and_repair(share, VM, world.change_source(), world.context())
        assert digests(await read_tree(share.inner, Layout(VM).disks_dir)) == before


class _Heard(list[ProgressEvent]):
    """Events, told on as they come."""

    def __init__(self, observe: Callable[[ProgressEvent], None]) -> None:
        super().__init__()
        self._observe = observe

    def append(self, event: ProgressEvent) -> None:
        self._observe(event)
        super().append(event)


async def test_repairing_goes_on_with_a_lock_that_was_lost_and_regained() -> None:
    async with _world() as (world, share):
        await _damage(share.inner)
        await _lose_while_reading(world, share, _nothing)
        found = await verify_and_repair(share, VM, world.change_source(), world.context())
        assert [damage.repaired for damage in found.damages] == [True]
        assert len(_losses(world)) == 1
        await world.check_all_points()


async def test_replica_that_can_only_be_read_is_gone_on_with_as_well() -> None:
    async with _world() as (world, share):

        async def refuse(path: str, holder: LockHolder) -> None:
            raise AccessDeniedError("lock", "nas", "the share is read-only")

        share.lock = refuse  # type: ignore[method-assign,assignment]  # a share that is read-only
        await _lose_while_reading(world, share, _nothing)
        await _verify(world)
        assert len(_losses(world)) == 1
