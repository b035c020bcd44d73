"""A move that is cut short at every single call, in each way, while the machine writes."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from replicad.model.errors import (
    ConflictError,
    LockedError,
    PermanentError,
    ReplicadError,
    UnreachableError,
    UnsupportedError,
)
from replicad.model.moves import MovePhase, Proof, Side
from replicad.model.names import parent
from replicad.model.progress import Alarmed
from replicad.storage.documents import remove_tree
from replicad.storage.port import LockHolder, OpenMode
from replicad.workflows.move_journal import directory_of, lock_at_source
from replicad.workflows.retries import move_with_retries
from tests.support.faulty import CRASHES, Fault, When, crashes
from tests.support.moved_machine import refusal
from tests.support.moving import CONFIG, DESTINATION, DISKS, Moving, target_of


@pytest.mark.parametrize("server_copy", [True, False])
async def test_a_machine_that_writes_all_the_time_is_moved_whole(server_copy: bool) -> None:
    moving = Moving(server_copy=server_copy)
    await moving.begin()
    record = await moving.move()
    assert record.phase is MovePhase.DONE
    await moving.check_used_at(Side.DESTINATION)
    assert moving.machine.switches == 1


async def _calls(seed: int, proof: Proof = Proof.ALL) -> list[str]:
    moving = Moving(seed, proof=proof)
    await moving.begin()
    await moving.move()
    return moving.log


@pytest.mark.parametrize("fault", CRASHES, ids=lambda fault: fault.when.value)
async def test_after_the_death_of_its_process_at_any_call_a_move_is_gone_on_with(fault: Fault) -> None:
    calls = await _calls(7)
    for number, name in enumerate(calls, 1):
        moving = Moving(7)
        await moving.begin()
        assert await crashes(moving.move({number: fault})), name
        moving.machine.watchdog()
        for _ in range(3):
            await moving.machine.live()
        record = await moving.move()
        assert record.phase is MovePhase.DONE, name
        await moving.check_used_at(Side.DESTINATION)


@pytest.mark.parametrize("proof", list(Proof))
@pytest.mark.parametrize("fault", CRASHES, ids=lambda fault: fault.when.value)
async def test_after_the_death_of_machine_and_process_at_any_call_a_move_is_gone_on_with(
    fault: Fault, proof: Proof
) -> None:
    calls = await _calls(8, proof)
    for number, name in enumerate(calls, 1):
        moving = Moving(8, proof=proof)
        await moving.begin()
        assert await crashes(moving.move({number: fault})), name
        moving.machine.die()
        try:
            record = await moving.move()
        except ConflictError:
            # It had run at the destination, and nobody knows what the bytes were before.
            assert proof is Proof.SAMPLE, name
            await moving.check_untouched(Side.DESTINATION)
        else:
            assert record.phase is MovePhase.DONE, name
            await moving.check_used_at(Side.DESTINATION)


@pytest.mark.parametrize("proof", list(Proof))
async def test_a_machine_that_is_started_at_its_source_after_both_died_keeps_what_it_writes_there(
    proof: Proof,
) -> None:
    calls, refused = await _calls(9, proof), 0
    for number, name in enumerate(calls, 1):
        moving = Moving(9, proof=proof)
        await moving.begin()
        assert await crashes(moving.move({number: Fault(When.AFTER)})), name
        ran_on_at = set(moving.machine.where().values())
        for _ in range(5):
            await moving.machine.live()
        moving.machine.die()
        if not set(DISKS) <= await moving.names():
            continue  # the source is out of the way: nobody can start it there
        await moving.start_at_source()
        try:
            record = await moving.move()
        except ConflictError:
            # It had run at the destination before: there are two that were written, and both are left alone.
            assert proof is Proof.SAMPLE or ran_on_at == {Side.DESTINATION}, name
            await moving.check_untouched()
            refused += 1
        else:
            assert record.phase is MovePhase.DONE, name
            await moving.check_used_at(Side.DESTINATION)
    assert refused


@pytest.mark.parametrize(
    "error", [UnreachableError("write", "그", "끊김"), PermanentError("write", "그", "거부")], ids=repr
)
async def test_after_an_error_of_any_call_the_machine_runs_on_and_the_move_is_gone_on_with(
    error: ReplicadError,
) -> None:
    calls = await _calls(10)
    for when in When:
        for number, name in enumerate(calls, 1):
            moving = Moving(10)
            await moving.begin()
            with contextlib.suppress(ReplicadError):
                await moving.move({number: Fault(when, error)})
            assert moving.machine.is_running, name
            assert not moving.machine.is_stopped, name
            await moving.machine.live()
            record = await moving.move()
            assert record.phase is MovePhase.DONE, name
            await moving.check_used_at(Side.DESTINATION)


async def test_a_machine_that_refuses_to_be_switched_goes_on_at_its_source_and_can_be_switched_later() -> None:
    moving = Moving(11)
    await moving.begin()
    moving.machine.refuses = refusal()
    with pytest.raises(UnsupportedError):
        await moving.move()
    assert set(moving.machine.where().values()) == {Side.SOURCE}
    assert {*DISKS, CONFIG} == {name for name in await moving.names() if not name.startswith(".replicad-move")}
    await moving.machine.live()
    await moving.move()
    await moving.check_used_at(Side.DESTINATION)


async def test_what_another_host_moves_is_not_moved_at_the_same_time() -> None:
    moving = Moving(17)
    await moving.begin()
    other = LockHolder("다른-host", "machine 2", "boot 2", 2, "2", "2026-01-01T00:00:00Z")
    async with await moving.memory.view().lock(lock_at_source(moving.remembered), other):
        with pytest.raises(LockedError, match="다른-host"):
            await moving.move()
        assert (await moving.cancel()).phase is MovePhase.CANCELLED
    await moving.check_used_at(Side.SOURCE)


async def test_a_file_that_somebody_made_at_the_destination_meanwhile_stays_and_the_move_can_be_taken_back() -> None:
    moving, theirs = Moving(15), target_of(DISKS[1])
    await moving.begin()
    await _make(moving, theirs)
    with pytest.raises(ConflictError, match="somebody has made a file of that name"):
        await moving.move()
    assert set(moving.machine.where().values()) == {Side.SOURCE}
    await moving.machine.live()
    assert (await moving.cancel()).phase is MovePhase.CANCELLED
    assert await moving.names() == {*DISKS, CONFIG, theirs}
    assert await moving.read(theirs) == b"theirs"


async def test_a_switch_that_was_cut_short_beside_a_file_of_somebody_else_s_is_gone_on_with() -> None:
    theirs = target_of(DISKS[1])
    for number, name in enumerate(await _calls(16), 1):
        moving = Moving(16)
        await moving.begin()
        await _make(moving, theirs)
        try:
            assert await crashes(moving.move({number: Fault(When.AFTER)}))
        except ConflictError:  # its death would come later than its end
            break
        moving.machine.watchdog()
        with pytest.raises(ConflictError, match="somebody has made a file of that name"):
            await moving.move()
        assert await moving.read(theirs) == b"theirs", name
        await moving.memory.remove(theirs)
        assert (await moving.move()).phase is MovePhase.DONE, name
        await moving.check_used_at(Side.DESTINATION)


async def _make(moving: Moving, path: str) -> None:
    await moving.memory.make_dir(parent(path))
    async with await moving.memory.open(path, OpenMode.CREATE) as file:
        await file.write(b"theirs", 0)


async def test_a_move_that_is_cancelled_at_any_call_before_the_switch_leaves_the_source_and_nothing_else() -> None:
    calls, too_late = await _calls(12), 0
    for number, name in enumerate(calls, 1):
        moving = Moving(12)
        await moving.begin()
        assert await crashes(moving.move({number: Fault(When.AFTER)})), name
        moving.machine.watchdog()
        before = moving.remembered.phase
        try:
            record = await moving.cancel()
        except ConflictError:
            too_late += 1
            assert (await moving.move()).phase is MovePhase.DONE
            await moving.check_used_at(Side.DESTINATION)
        else:
            assert record.phase is MovePhase.CANCELLED, (name, before)
            await moving.check_used_at(Side.SOURCE)
            assert await moving.memory.list(DESTINATION) == []
    assert 0 < too_late < len(calls) // 2


async def test_cancelling_can_be_cut_short_at_any_call() -> None:
    moving = Moving(13)
    await moving.begin()
    calls = await _calls(13)
    half = {len(calls) // 2: Fault(When.AFTER)}
    await crashes(moving.move(half))
    await moving.cancel()
    for number in range(1, len(moving.log) + 1):
        other = Moving(13)
        await other.begin()
        await crashes(other.move(half))
        other.machine.watchdog()
        assert await crashes(other.cancel({number: Fault(When.AFTER)}))
        assert (await other.cancel()).phase is MovePhase.CANCELLED
        await other.check_used_at(Side.SOURCE)


@pytest.mark.parametrize("then", ["go on", "cancel"])
async def test_where_what_was_written_down_is_lost_nothing_that_may_be_used_is_touched(then: str) -> None:
    calls, refused = await _calls(15), 0
    for number, name in enumerate(calls, 1):
        moving = Moving(15)
        await moving.begin()
        assert await crashes(moving.move({number: Fault(When.AFTER)})), name
        moving.machine.watchdog()
        await moving.machine.live()
        await remove_tree(moving.memory, directory_of(moving.remembered.id))
        side, names = set(moving.machine.where().values()), await moving.names()
        try:
            record = await (moving.move() if then == "go on" else moving.cancel())
        except ConflictError:
            refused += 1
            assert moving.remembered.phase is not MovePhase.WAITING, name
            assert await moving.names() == names, name
        else:
            if record.phase is MovePhase.DONE:
                await moving.check_used_at(Side.DESTINATION)
            else:
                # What had got its name already may be anybody's, and stays.
                assert side == {Side.SOURCE}, name
                assert {path: await moving.read(path) for path in moving.machine.disks} == moving.machine.disks, name
    assert refused


async def test_a_move_that_was_cancelled_while_it_waits_for_its_server_does_not_go_on() -> None:
    calls = await _calls(14)
    for number in range(len(calls) // 4, len(calls) // 2):
        moving, told = Moving(14), list[MovePhase]()
        await moving.begin()
        _, parts, ctx = moving.life({number: Fault(When.BEFORE, UnreachableError("write", "그", "끊김"))})

        async def pause(seconds: float, moving: Moving = moving, told: list[MovePhase] = told) -> None:
            moving.time.seconds += seconds
            told.append((await moving.cancel()).phase)

        waiting = replace(ctx, clock=replace(ctx.clock, sleep=pause))
        if calls[number - 1].startswith("release"):
            continue  # that raises nothing when a connection is lost
        with pytest.raises(ConflictError, match="or was taken back elsewhere"):
            await move_with_retries(moving.remembered, parts, waiting)
        assert told == [MovePhase.CANCELLED]
        await moving.check_used_at(Side.SOURCE)


async def test_a_source_is_kept_whose_machine_ends_right_after_its_switch() -> None:
    moving = Moving(16)
    await moving.begin()
    moving.machine.dies_when_it_goes_on = True
    assert (await moving.move()).phase is MovePhase.DONE
    assert any(isinstance(event, Alarmed) and "has ended right after" in event.text for event in moving.events)
    names = {name.partition(".moved-")[0] for name in await moving.names()}
    assert names == {*DISKS, CONFIG} | {target_of(path) for path in (*DISKS, CONFIG)}


async def test_a_connection_that_is_lost_at_any_call_ends_only_an_attempt() -> None:
    calls = await _calls(14)
    for number, name in enumerate(calls, 1):
        if name.startswith("release"):
            continue  # that raises nothing when a connection is lost
        moving = Moving(14)
        await moving.begin()
        record = await moving.move({number: Fault(When.BEFORE, UnreachableError("write", "그", "끊김"))}, retries=True)
        assert record.phase is MovePhase.DONE, name
        await moving.check_used_at(Side.DESTINATION)
