"""Reading the points of replicas for many who ask."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from replicad.model.agenda import Agenda
from replicad.model.errors import ReplicadError, SignInError, TimedOutError, UnreachableError
from replicad.model.runs import Run, Trigger
from replicad.service.events import CycleEnded, MachineChanged
from replicad.service.point_lists import READ_WITHIN_S, PointLists
from replicad.workflows.list_points import PointList
from tests.support.virtual_time import SettableClock, passed_s, run

VM, OTHER = "웹 서버 💾", "db"
AT = datetime(2026, 11, 23, 14, tzinfo=UTC)
ENDED = CycleEnded(Run(VM, Trigger.REQUEST, AT, AT), Agenda(VM))


class _Replicas:
    """Are read in a second; `came` is what a machine's reading ends with, or how long it takes."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.at_once = self.most_at_once = 0
        self.came: dict[str, ReplicadError | float] = {}
        self.lists = PointLists(self, SettableClock().clock)

    async def __call__(self, vm: str) -> PointList:
        self.read.append(vm)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            came = self.came.get(vm, 1.0)
            await asyncio.sleep(came if isinstance(came, float) else 1.0)
            if isinstance(came, ReplicadError):
                raise came
            return PointList(vm, (), len(self.read))
        finally:
            self.at_once -= 1


def test_a_replica_is_read_once_for_all_who_ask_within_a_minute() -> None:
    async def story() -> None:
        replicas = _Replicas()
        all_at_once = await asyncio.gather(*(replicas.lists.of(VM) for _ in range(50)))
        assert {known.pending for known in all_at_once} == {1}
        assert await replicas.lists.of(VM) is all_at_once[0]
        await replicas.lists.of(OTHER)
        assert replicas.read == [VM, OTHER]
        await asyncio.sleep(61)
        assert (await replicas.lists.of(VM)).pending == 3

    run(story())


@pytest.mark.parametrize("event", [ENDED, MachineChanged(VM)], ids=lambda event: type(event).__name__)
def test_what_was_read_before_or_while_a_machine_changed_is_old(event: CycleEnded | MachineChanged) -> None:
    async def story() -> None:
        replicas = _Replicas()
        asking = asyncio.ensure_future(replicas.lists.of(VM))
        await asyncio.sleep(0.5)
        replicas.lists.hear(event)
        await asking
        await replicas.lists.of(OTHER)
        assert (await replicas.lists.of(VM)).pending == 3
        replicas.lists.hear(event)
        await replicas.lists.of(VM)
        await replicas.lists.of(OTHER)
        assert replicas.read == [VM, OTHER, VM, VM]

    run(story())


def test_a_server_that_is_away_is_not_asked_again_by_all_who_ask_us() -> None:
    async def story() -> None:
        replicas = _Replicas()
        replicas.came[VM] = UnreachableError("reach", "nas2", "the port is closed")
        for _ in range(5):
            with pytest.raises(UnreachableError, match="the port is closed"):
                await replicas.lists.of(VM)
        assert replicas.read == [VM]
        del replicas.came[VM]
        await asyncio.sleep(16)
        assert (await replicas.lists.of(VM)).points == ()

    run(story())


def test_a_sign_in_that_was_refused_is_not_tried_again_by_itself() -> None:
    async def story() -> None:
        replicas = _Replicas()
        replicas.came[VM] = SignInError("sign in to", "nas2", "the password is wrong")
        for _ in range(5):
            with pytest.raises(SignInError):
                await replicas.lists.of(VM)
            await asyncio.sleep(86_400)
        assert replicas.read == [VM]
        replicas.lists.hear(MachineChanged(VM))
        del replicas.came[VM]
        await replicas.lists.of(VM)

    run(story())


def test_nobody_waits_longer_than_is_promised_nor_for_another_machines_server() -> None:
    async def story() -> None:
        replicas = _Replicas()
        replicas.came[VM] = 3_600.0
        asking = asyncio.ensure_future(replicas.lists.of(VM))
        await replicas.lists.of(OTHER)
        assert passed_s() == 1
        with pytest.raises(TimedOutError, match=f"within {READ_WITHIN_S:.0f} s"):
            await asking
        assert passed_s() == READ_WITHIN_S

    run(story())


def test_a_server_that_was_not_asked_is_not_said_to_give_no_answer() -> None:
    async def story() -> None:
        replicas = _Replicas()
        away = [f"vm{n}" for n in range(4)]
        replicas.came |= dict.fromkeys(away, 3_600.0)
        asking = [asyncio.ensure_future(replicas.lists.of(vm)) for vm in away]
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(replicas.lists.of(VM)) for _ in range(3)]
        for one in asyncio.as_completed(waiting):
            with pytest.raises(TimedOutError, match=f"points of {VM}: 4 others are being read"):
                await one
        assert passed_s() == READ_WITHIN_S
        await asyncio.wait(asking)
        await asyncio.sleep(1)
        assert (await replicas.lists.of(VM)).pending == 5

    run(story())


def test_few_are_read_at_once_and_few_remembered() -> None:
    async def story() -> None:
        replicas = _Replicas()
        vms = [f"vm{n}" for n in range(70)]
        await asyncio.gather(*(replicas.lists.of(vm) for vm in vms))
        assert replicas.most_at_once == 4
        await asyncio.gather(*(replicas.lists.of(vm) for vm in vms[-64:]))
        assert len(replicas.read) == 70
        await replicas.lists.of(vms[0])
        assert len(replicas.read) == 71

    run(story())


def test_who_stops_asking_keeps_nobody_from_an_answer() -> None:
    async def story() -> None:
        replicas = _Replicas()
        first, second = (asyncio.ensure_future(replicas.lists.of(VM)) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        assert (await second).pending == 2

    run(story())
