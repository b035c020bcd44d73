"""When replicas are verified, that cycles come first, and what is remembered; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from replicad.model.agenda import Agenda, LatestPoint
from replicad.model.errors import BusyError, IntegrityError, LockedError, NotFoundError, UnreachableError
from replicad.model.points import Consistency
from replicad.model.schedule import Every, OnRequest, Schedule
from replicad.model.verification import VerificationOutcome, VerificationPlan
from replicad.service.events import Event, Trouble, VerificationBegan, VerificationEnded
from replicad.service.verifying import SHORTEST_TURN_S, End, Verifier
from replicad.service.watch import STALLED_AFTER_S, Watch
from replicad.workflows.covered import Covered
from replicad.workflows.damage import Damage, Part, Verification
from tests.support.virtual_time import MONDAY, SettableClock, passed_s, run

VM, OTHER = "웹 서버 💾", "db"
POINT = LatestPoint(1, MONDAY, Consistency.COLD)
HOUR = Every(3600, 600)
DAMAGE = Damage(Part.DISK, "웹/disks/a.vhdx", "chunk 3 does not match the manifest", "a", (3, 9), (1, 2))


class Replicas:
    """Machines whose verification takes `steps` of a second each; cycles are what a test says."""

    def __init__(self, time: SettableClock, steps: int = 100) -> None:
        self.steps, self.damages = steps, list[Damage]()
        self.turns: list[tuple[str, int, int]] = []
        self.repairs: list[bool] = []
        self.error: Exception | None = None
        self.mends_for_s = 0.0
        self.events: list[Event] = []
        self.saved: dict[str, VerificationPlan] = {}
        self.agendas = {vm: Agenda(vm, latest=POINT) for vm in (VM, OTHER)}
        self.at_once = self.most_at_once = self.given_up = 0
        self.is_deaf = False
        self.clock = time.clock
        self.verifier = Verifier(self, self, time.clock, self.agendas.__getitem__, self.events.append)

    async def verify(self, vm: str, watch: Watch, covered: Covered, *, repair: bool) -> Verification:
        began = round(passed_s())
        self.repairs.append(repair)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        cover = covered.of("disk")
        try:
            if self.error is not None:
                raise self.error
            while cover.upto < self.steps:
                await asyncio.sleep(1)
                covered.took(cover, cover.upto, cover.upto + 1, [])
                watch.done_bytes += 1
                watch.meter.calls["read"] += 1
            covered.is_mending = True
            await asyncio.sleep(self.mends_for_s)
            covered.is_mending = False
        except asyncio.CancelledError:
            if self.is_deaf:
                await asyncio.sleep(1000)
            raise
        finally:
            self.at_once -= 1
            self.turns.append((vm, began, round(passed_s())))
        return Verification([1], 10 * self.steps, [replace(d, repaired=repair) for d in self.damages])

    def give_up(self) -> None:
        self.given_up += 1
        self.is_deaf = False

    async def save_verification(self, *changed: VerificationPlan) -> None:
        await asyncio.sleep(0)
        self.saved |= {plan.vm: plan for plan in changed}

    def results(self) -> list[tuple[str, VerificationOutcome]]:
        return [(e.vm, e.result.outcome) for e in self.events if isinstance(e, VerificationEnded)]

    def live(
        self,
        during: Callable[[], Awaitable[None]],
        schedules: dict[str, Schedule] | None = None,
        remembered: dict[str, VerificationPlan] | None = None,
    ) -> None:
        """Verify these while `during` runs."""

        async def live() -> None:
            async with asyncio.TaskGroup() as group:
                await self.verifier.keep(schedules or {VM: HOUR, OTHER: OnRequest()}, remembered or {})
                working = group.create_task(self.verifier.run())
                await during()
                working.cancel()

        run(live())


def _for(seconds: float) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await asyncio.sleep(seconds)

    return wait


def test_replicas_are_verified_on_their_grid_and_others_only_when_asked() -> None:
    replicas = Replicas(SettableClock())
    replicas.live(_for(3 * 3600))
    assert [(vm, began) for vm, began, _ in replicas.turns] == [(VM, 600), (VM, 4200), (VM, 7800)]
    plan = replicas.saved[VM]
    assert plan.last is not None
    assert (plan.last.outcome, plan.last.at, plan.last.duration_s) == (
        VerificationOutcome.CLEAN, MONDAY + timedelta(seconds=7900), 100,
    )  # fmt: skip
    assert (plan.damage, plan.sound_at, plan.due_at) == (None, plan.last.at, MONDAY + timedelta(seconds=3 * 3600 + 600))


def test_one_that_was_due_while_no_daemon_ran_is_done_at_once_and_once() -> None:
    replicas = Replicas(SettableClock())
    remembered = {VM: VerificationPlan(VM, due_at=MONDAY - timedelta(days=9))}
    replicas.live(_for(300), remembered=remembered)
    assert [began for _, began, _ in replicas.turns] == [0]


def test_machine_without_a_point_is_not_verified_before_it_has_one() -> None:
    replicas = Replicas(SettableClock())
    replicas.agendas[VM] = Agenda(VM)

    async def get_a_point() -> None:
        await asyncio.sleep(1000)
        assert replicas.turns == []
        replicas.agendas[VM] = Agenda(VM, latest=POINT)
        replicas.verifier.look_again()
        await asyncio.sleep(200)

    replicas.live(get_a_point)
    assert [began for _, began, _ in replicas.turns] == [1000]


def test_cycle_waits_a_few_seconds_at_most_and_the_verification_goes_on_after_it() -> None:
    replicas = Replicas(SettableClock())
    waited: list[float] = []

    async def cycles() -> None:
        await asyncio.sleep(601)
        for _ in range(20):
            before_s = passed_s()
            async with replicas.verifier.cycle(VM, Watch(0)):
                assert replicas.at_once == 0
                waited.append(passed_s() - before_s)
                await asyncio.sleep(10)
                assert replicas.at_once == 0
            await asyncio.sleep(30)

    replicas.live(cycles)
    assert max(waited) < SHORTEST_TURN_S
    assert waited[1] < 0.1  # its turn was long enough
    turns = [end - began for _, began, end in replicas.turns]
    assert 3 <= len(turns) <= 5
    assert sum(turns) <= 100 + len(turns)
    assert replicas.results() == [(VM, VerificationOutcome.CLEAN)]
    assert sum(isinstance(event, VerificationBegan) for event in replicas.events) == 1


def test_cycles_that_follow_each_other_at_once_do_not_keep_a_verification_from_its_end() -> None:
    replicas = Replicas(SettableClock())

    async def cycles() -> None:
        while passed_s() < 3000:
            async with replicas.verifier.cycle(VM, Watch(0)):
                await asyncio.sleep(60)
            await asyncio.sleep(0.1)

    replicas.live(cycles)
    assert replicas.results() == [(VM, VerificationOutcome.CLEAN)]


def test_cycle_waits_while_something_is_put_right() -> None:
    replicas = Replicas(SettableClock(), steps=10)
    replicas.mends_for_s = 50

    async def cycle() -> None:
        await asyncio.sleep(615)
        async with replicas.verifier.cycle(VM, Watch(0)):
            assert passed_s() == pytest.approx(660, abs=0.2)

    replicas.live(cycle)
    assert len(replicas.turns) == 1


def test_one_is_verified_at_a_time_and_what_was_begun_is_ended_before_the_next() -> None:
    replicas = Replicas(SettableClock())

    async def ask_both() -> None:
        asked = [await replicas.verifier.request(vm) for vm in (VM, OTHER)]
        await asyncio.sleep(10)
        async with replicas.verifier.cycle(VM, Watch(0)):
            await asyncio.sleep(20)
        ends = [await one for one in asked]
        assert [end.result.outcome for end in ends] == [VerificationOutcome.CLEAN] * 2

    replicas.live(ask_both)
    assert replicas.most_at_once == 1
    assert [vm for vm, _, _ in replicas.turns] in ([VM, OTHER, VM], [VM, VM, OTHER])


def test_damage_is_told_and_stays_known_through_failures_until_it_is_gone() -> None:
    replicas = Replicas(SettableClock(), steps=1)
    replicas.damages = [DAMAGE]

    async def damage_and_mend() -> None:
        first = await (await replicas.verifier.request(VM))
        assert first.result.text == (
            "웹/disks/a.vhdx: chunk 3 does not match the manifest; points 1, 2 can't be restored as they were"
        )
        assert (first.result.damaged_chunks, replicas.saved[VM].damage) == (2, first.result)
        replicas.error = UnreachableError("read", "nas", "it is gone")
        second = await (await replicas.verifier.request(VM))
        assert (second.error, second.result.outcome) == (replicas.error, VerificationOutcome.FAILED)
        assert (replicas.saved[VM].damage, replicas.saved[VM].last) == (first.result, second.result)
        replicas.error = None
        third = await (await replicas.verifier.request(VM, repair=True))
        assert (third.result.outcome, third.result.text) == (
            VerificationOutcome.CLEAN, "1 damage was found and repaired",
        )  # fmt: skip
        assert replicas.saved[VM].damage is None

    replicas.live(damage_and_mend)
    assert replicas.repairs == [False, False, True]


def test_replica_that_can_not_be_opened_for_damage_is_damaged() -> None:
    replicas = Replicas(SettableClock())
    replicas.error = IntegrityError("read", "replica.json", "its seal is broken")

    async def ask() -> None:
        end = await (await replicas.verifier.request(VM))
        assert (end.result.outcome, end.result.text) == (VerificationOutcome.DAMAGED, str(replicas.error))

    replicas.live(ask)


def test_a_repair_asked_for_makes_the_verification_under_way_one_that_mends() -> None:
    replicas = Replicas(SettableClock())

    async def ask() -> None:
        asked = await replicas.verifier.request(VM)
        await asyncio.sleep(50)
        mended = await replicas.verifier.request(VM, repair=True)
        assert (await mended) == (await asked)

    replicas.live(ask)
    assert replicas.repairs == [False, True]
    assert replicas.turns[-1][2] <= 102  # it went on where it was


def test_failures_are_tried_again_by_themselves_and_later_each_time() -> None:
    replicas = Replicas(SettableClock())
    replicas.error = UnreachableError("read", "nas", "it is gone")
    replicas.live(_for(1200))
    assert [began for _, began, _ in replicas.turns] == [600, 660, 780, 1020]
    assert replicas.results() == [(VM, VerificationOutcome.FAILED)] * 4


def test_another_host_at_the_replica_is_no_failure() -> None:
    replicas = Replicas(SettableClock())
    replicas.error = LockedError("lock", "nas", "it is held by host b")
    replicas.live(_for(800))
    assert [began for _, began, _ in replicas.turns] == [600, 660, 780]
    assert (replicas.results(), replicas.saved[VM].last) == ([], None)


def test_defect_ends_neither_the_service_nor_silently() -> None:
    replicas = Replicas(SettableClock())
    replicas.error = ZeroDivisionError("비밀")
    replicas.live(_for(700))
    assert replicas.results()[0] == (VM, VerificationOutcome.FAILED)
    last = replicas.saved[VM].last
    assert last is not None
    assert "this program has a defect (ZeroDivisionError)" in (last.text or "")
    assert "비밀" not in (last.text or "")
    assert any(isinstance(event, Trouble) and "ZeroDivisionError" in event.details for event in replicas.events)


def test_paused_machine_is_not_verified_and_goes_on_when_it_is_resumed() -> None:
    replicas = Replicas(SettableClock())

    async def pause_and_resume() -> None:
        asked = await replicas.verifier.request(VM)
        await asyncio.sleep(52)
        replicas.agendas[VM] = Agenda(VM, latest=POINT, paused_at=MONDAY)
        replicas.verifier.look_again()
        await asyncio.wait([asked])
        assert asked.cancelled()
        assert passed_s() < 60
        with pytest.raises(BusyError, match="it has been paused since"):
            await replicas.verifier.request(VM)
        await asyncio.sleep(1000)
        assert len(replicas.turns) == 1
        replicas.agendas[VM] = Agenda(VM, latest=POINT)
        replicas.verifier.look_again()
        await asyncio.sleep(60)

    replicas.live(pause_and_resume)
    assert sum(end - began for _, began, end in replicas.turns) <= 102
    assert replicas.results() == [(VM, VerificationOutcome.CLEAN)]


def test_machine_that_is_removed_is_not_gone_on_with() -> None:
    replicas = Replicas(SettableClock())

    async def remove() -> None:
        asked = await replicas.verifier.request(VM)
        await asyncio.sleep(10)
        await replicas.verifier.keep({OTHER: OnRequest()}, {})
        assert replicas.at_once == 0
        await asyncio.wait([asked])
        assert asked.cancelled()
        with pytest.raises(NotFoundError):
            await replicas.verifier.request(VM)

    replicas.live(remove)
    assert replicas.results() == []


def test_machine_that_was_changed_is_read_from_the_beginning() -> None:
    replicas = Replicas(SettableClock())

    async def change() -> None:
        asked = await replicas.verifier.request(VM)
        await asyncio.sleep(50)
        await replicas.verifier.keep({VM: OnRequest()}, {}, frozenset({VM}))
        await asked

    replicas.live(change)
    assert replicas.turns[-1][2] - replicas.turns[-1][1] == 100


def test_stopping_waits_for_no_silent_server_and_an_order_outlives_it() -> None:
    replicas = Replicas(SettableClock())
    replicas.is_deaf = True

    async def ask() -> None:
        await replicas.verifier.request(VM, repair=True)
        await asyncio.sleep(10)

    replicas.live(ask)
    assert replicas.given_up == 1
    assert replicas.turns[0][2] <= 10 + 3
    again = Replicas(SettableClock())
    again.live(_for(200), {VM: OnRequest()}, {VM: replicas.saved[VM]})
    assert (again.repairs, again.results()) == ([True], [(VM, VerificationOutcome.CLEAN)])


def test_verification_in_which_nothing_moves_is_ended() -> None:
    replicas = Replicas(SettableClock())

    async def stand_still(vm: str, watch: Watch, covered: Covered, *, repair: bool) -> Verification:
        await asyncio.sleep(STALLED_AFTER_S * 10)
        raise AssertionError("nobody ended it")

    async def ask() -> None:
        end: End = await (await replicas.verifier.request(OTHER))
        assert end.result.text is not None
        assert "nothing has moved for 20 min" in end.result.text

    replicas.verify = stand_still  # type: ignore[method-assign]  # one that hangs
    replicas.live(ask)


def test_machines_that_come_while_a_pause_takes_orders_back_end_nothing() -> None:
    replicas = Replicas(SettableClock())
    replicas.agendas |= {vm: Agenda(vm, latest=POINT) for vm in ("vm1", "vm2")}
    both: dict[str, Schedule] = {VM: OnRequest(), OTHER: OnRequest()}

    async def save_slowly(*changed: VerificationPlan) -> None:
        await asyncio.sleep(1)
        replicas.saved |= {plan.vm: plan for plan in changed}

    async def pause_and_add() -> None:
        async with replicas.verifier.cycle(VM, Watch(0)), replicas.verifier.cycle(OTHER, Watch(0)):
            asked = [await replicas.verifier.request(vm) for vm in (VM, OTHER)]
            replicas.save_verification = save_slowly  # type: ignore[method-assign]  # a disk that has much to do
            replicas.agendas |= {vm: Agenda(vm, latest=POINT, paused_at=MONDAY) for vm in (VM, OTHER)}
            replicas.verifier.look_again()
            await asyncio.sleep(0.5)
            await replicas.verifier.keep({**both, "vm1": OnRequest(), "vm2": OnRequest()}, {})
            await asyncio.wait(asked)
        assert all(one.cancelled() for one in asked)

    replicas.live(pause_and_add, both)


def test_a_repair_that_is_asked_for_as_the_verification_ends_is_done_all_the_same() -> None:
    replicas = Replicas(SettableClock())
    replicas.damages = [DAMAGE]

    async def save_slowly(*changed: VerificationPlan) -> None:
        await asyncio.sleep(3)
        replicas.saved |= {plan.vm: plan for plan in changed}

    replicas.save_verification = save_slowly  # type: ignore[method-assign]  # a disk that has much to do

    async def ask() -> None:
        await replicas.verifier.request(VM)
        await asyncio.sleep(95)
        end = await (await replicas.verifier.request(VM, repair=True))
        assert end.result.outcome is VerificationOutcome.CLEAN

    replicas.live(ask, {VM: OnRequest()})
    assert replicas.repairs[-1] is True
    assert replicas.saved[VM].damage is None


def test_who_asks_is_told_that_another_host_holds_the_replica_and_no_failure_stays_of_that() -> None:
    replicas = Replicas(SettableClock())
    replicas.error = LockedError("lock", "nas", "it is held by host b")

    async def ask() -> None:
        end = await (await replicas.verifier.request(OTHER))
        assert isinstance(end.error, LockedError)

    replicas.live(ask)
    assert (replicas.results(), replicas.saved[OTHER].last, replicas.saved[OTHER].requested_at) == ([], None, None)


def test_an_order_that_nobody_waits_for_outlives_another_host_at_the_replica() -> None:
    replicas = Replicas(SettableClock())
    replicas.error = LockedError("lock", "nas", "it is held by host b")

    async def ask() -> None:
        async with replicas.verifier.cycle(OTHER, Watch(0)):
            (await replicas.verifier.request(OTHER, repair=True)).cancel()
        await asyncio.sleep(90)
        replicas.error = None
        await asyncio.sleep(600)

    replicas.live(ask, {OTHER: OnRequest()})
    assert replicas.repairs[-1] is True
    assert replicas.results() == [(OTHER, VerificationOutcome.CLEAN)]
    assert len(replicas.repairs) < 5


@pytest.mark.parametrize("away", [timedelta(days=365), timedelta(days=-365)], ids=["ahead", "behind"])
def test_clock_that_is_set_makes_no_verification_wait_for_a_time_that_has_been(away: timedelta) -> None:
    time = SettableClock(MONDAY + away)
    replicas = Replicas(time)

    async def set_it() -> None:
        await asyncio.sleep(1000)
        time.set_forward(-away)
        await asyncio.sleep(4000)

    replicas.live(set_it, {VM: HOUR})
    assert len(replicas.turns) >= 2
    due_at = replicas.saved[VM].due_at
    assert due_at is not None
    assert abs(due_at - MONDAY) < timedelta(hours=3)


def test_cycle_that_waits_for_a_long_repair_does_not_stand_still() -> None:
    replicas = Replicas(SettableClock(), steps=10)
    replicas.mends_for_s = STALLED_AFTER_S * 0.9
    watch = Watch(0)

    async def cycle() -> None:
        await asyncio.sleep(615)
        async with replicas.verifier.cycle(VM, watch):
            pass

    async def look() -> None:
        waiting = asyncio.create_task(cycle())
        while not waiting.done():
            await asyncio.sleep(5)
            if passed_s() > 620 and not waiting.done():
                assert watch.phase == "waiting for the verification of its replica"
                assert watch.stands_still_s(passed_s()) < 10
        assert passed_s() > 1600

    replicas.live(look)
