"""Verifications through the API: asked for, followed, told to all who listen, and refused where they can't be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from replicad.model.errors import UnreachableError
from replicad.model.progress import Advanced, PhaseStarted, Warned
from replicad.service.watch import Watch
from replicad.workflows.damage import Damage, Part, Verification
from tests.support.live_api import OTHER, VM, Told, configuration, events_of, live_api

AT = f"/vms/{VM}"
STREAM = {"Accept": "text/event-stream"}
DAMAGE = Damage(Part.DISK, "웹/disks/a.vhdx", "chunk 3 does not match the manifest", "a of point 1", (3,), (1,))


class _Replica:
    """One that is damaged until it is repaired; it is read when `may` is set."""

    def __init__(self) -> None:
        self.may, self.is_damaged = asyncio.Event(), True

    async def __call__(self, vm: str, watch: Watch, repair: bool) -> Verification:
        watch.hear(PhaseStarted("verifying", 100))
        watch.hear(Advanced(60))
        watch.hear(Warned("조심"))
        await self.may.wait()
        found = replace(DAMAGE, repaired=repair)
        damages, self.is_damaged = [found] if self.is_damaged else [], self.is_damaged and not repair
        return Verification([1], 100, damages, ["웹/x"])


async def test_a_verification_is_followed_to_its_end_and_shown_from_then_on(tmp_path: Path) -> None:
    replica = _Replica()
    async with live_api(configuration(tmp_path), reading=replica) as api, api.client() as client:
        async with client.stream("POST", f"{AT}/verify", headers=STREAM) as response:
            assert response.status_code == 200
            told = []
            async for one in events_of(response):
                told.append(one)
                if one.name == "progress":
                    busy = (await client.get(AT)).json()
                    assert busy["verifying"] == {
                        "phase": "verifying", "done_bytes": 60, "sent_bytes": 0, "total_bytes": 100,
                    }  # fmt: skip
                    replica.may.set()
        assert [one.name for one in told if one.name not in ("", "waiting")] == ["warning", "progress", "ended"]
        end = told[-1].data
        assert (end["vm"], end["outcome"], end["error"], end["points"]) == (VM, "damaged", None, [1])
        assert (end["damaged_points"], end["read_bytes"], end["leftovers"]) == ([1], 100, ["웹/x"])
        assert end["damages"] == [
            {"part": "disk", "file": DAMAGE.file, "reason": DAMAGE.reason, "affects": DAMAGE.costs, "points": [1],
             "chunks": [3], "repaired": False, "not_repaired": None},
        ]  # fmt: skip
        ill = (await client.get(AT)).json()
        assert ill["verification"] == {key: end[key] for key in ("at", "outcome", "text")}
        assert (ill["verifying"], ill["health"]) == (None, "critical")
        replica.may.clear()
        taken = await client.post(f"{AT}/verify", json={"repair": True})
        assert (taken.status_code, taken.json()["vm"]) == (202, VM)
        same = await api.control.verify(VM)
        replica.may.set()
        assert (await same).result.text == "1 damage was found and repaired"
        assert (await client.get(AT)).json()["health"] == "warning"  # there is no point yet


async def test_what_is_warned_of_at_the_very_end_is_told_before_it(tmp_path: Path) -> None:
    async def read(vm: str, watch: Watch, repair: bool) -> Verification:
        watch.hear(Warned("마지막"))
        return Verification([1], 100, [], [])

    async with live_api(configuration(tmp_path), reading=read) as api, api.client() as client:
        async with client.stream("POST", f"{AT}/verify", headers=STREAM) as response:
            told = [one async for one in events_of(response)]
        assert [(one.name, one.data.get("text")) for one in told[-2:]] == [("warning", "마지막"), ("ended", None)]


async def test_all_who_listen_hear_of_verifications(tmp_path: Path) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        async with client.stream("GET", "/events") as response:
            events = events_of(response)
            assert (await anext(events)).name == ""
            await (await api.control.verify(OTHER))
            told = [one async for one in _until_verified(events)]
        assert [one.name for one in told if one.name != "machine"] == ["verifying", "verified"]
        assert (told[-1].data["vm"], told[-1].data["outcome"], told[-1].data["text"]) == (OTHER, "clean", None)


async def _until_verified(events: AsyncIterator[Told]) -> AsyncIterator[Told]:
    async for one in events:
        yield one
        if one.name == "verified":
            return


async def test_one_that_can_not_be_done_is_told_with_the_exit_code(tmp_path: Path) -> None:
    async def gone(vm: str, watch: Watch, repair: bool) -> Verification:
        raise UnreachableError("read", "nas", "it is gone")

    async with live_api(configuration(tmp_path), reading=gone) as api, api.client() as client:
        async with client.stream("POST", f"{AT}/verify", headers=STREAM) as response:
            end = [one async for one in events_of(response)][-1]
        assert (end.name, end.data["outcome"]) == ("ended", "failed")
        assert end.data["error"] == {"kind": "UnreachableError", "exit_code": 5}
        assert "it is gone" in end.data["text"]
        machine = (await client.get(AT)).json()
        assert any("the last verification of the replica failed: " in reason for reason in machine["reasons"])


async def test_paused_and_unknown_machines_are_not_verified(tmp_path: Path) -> None:
    replica = _Replica()
    async with live_api(configuration(tmp_path), reading=replica) as api, api.client() as client:
        assert (await client.post("/vms/none/verify")).status_code == 404
        assert (await client.post(f"{AT}/verify", json={"repair": 1})).status_code == 422
        async with client.stream("POST", f"{AT}/verify", headers=STREAM) as response:
            events = events_of(response)
            while (await anext(events)).name != "progress":
                pass
            await client.post(f"{AT}/pause")
            last = [one async for one in events][-1]
        assert (last.name, "the machine was paused" in last.data["text"]) == ("cancelled", True)
        refused = await client.post(f"{AT}/verify")
        assert (refused.status_code, refused.json()["error"]["exit_code"]) == (409, 5)
        assert (await client.get(AT)).json()["next_verification"] is None
