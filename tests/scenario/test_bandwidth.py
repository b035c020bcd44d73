"""Bandwidth limits on a real server: never faster than the configuration says, and about as fast as that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.model.progress import nobody
from replicad.service.bandwidth import BandwidthLimits
from replicad.service.compose import Shares
from replicad.service.machines import open_machine
from replicad.service.surroundings import surroundings
from replicad.settings import Settings, load_settings
from replicad.settings.timetable import parse_timetable
from replicad.workflows.replicate import replicate
from tests.support.installation import VM, Installation, Server, install
from tests.support.machine_model import MIB
from tests.support.relay import Relay, Traffic, relay_to
from tests.support.samba import ENCRYPTED

pytestmark = pytest.mark.samba

_log = logging.getLogger(__name__)

LATE_S = 8.0
"""What a loaded machine may take beside the waiting."""
OVERHEAD = 1.02
"""What travels beside the bytes of files: requests, and what encryption adds."""
Record = Callable[[str, object], None]


@dataclass(slots=True)
class Seen:
    """When how much had gone to the server, message by message."""

    messages: list[tuple[float, int]] = field(default_factory=list)

    def judge(self, traffic: Traffic, length: int) -> None:
        """For `Relay.cut`: it lets everything pass."""
        self.messages.append((time.monotonic(), traffic.to_server_bytes + length))

    def assert_never_faster_than(self, rate_bytes_per_s: int) -> None:
        """At no moment had more arrived than the rate lets through until then, and one piece."""
        began_s = self.messages[0][0]
        for at_s, total_bytes in self.messages:
            allowed = rate_bytes_per_s * (at_s - began_s) + max(rate_bytes_per_s / 4, 64 * 1024)
            assert total_bytes <= allowed * OVERHEAD + 64 * 1024, f"{total_bytes} bytes {at_s - began_s:.3f} s after"

    def rate_bytes_per_s(self) -> float:
        """Of the middle half: nothing that was saved up before, and nothing that the commit waits for."""
        end_bytes = self.messages[-1][1]
        middle = [one for one in self.messages if end_bytes // 4 <= one[1] <= end_bytes * 3 // 4]
        return (middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0])


@dataclass(frozen=True, slots=True)
class Scene:
    """A disk of random bytes on this host, and an encrypted share behind a relay."""

    installation: Installation
    relay: Relay
    size_bytes: int

    def run(self, verb: str, *arguments: str) -> tuple[float, Seen]:
        """How long it took, and what the server saw of it."""
        seen = Seen()
        self.relay.cut(seen.judge, lambda: None)
        began_s = time.monotonic()
        self.installation.run(verb, *arguments)
        return time.monotonic() - began_s, seen


@contextmanager
def scene(
    room: Path, samba: PrivateSamba, size_mib: int, *, own: str | None = None, common: str | None = None
) -> Iterator[Scene]:
    source = room / "원본"
    source.mkdir()
    random = Random(1)
    (source / "디스크.img").write_bytes(b"".join(random.randbytes(MIB) for _ in range(size_mib)))
    replica = samba.share_directory(ENCRYPTED) / f"{uuid4().hex} 사본"
    replica.mkdir()
    options, settings = _bandwidth(own), _bandwidth(common)
    with relay_to(samba.port) as relay:
        servers = {"nas": Server(samba, relay.port)}
        address = rf"\\nas\{ENCRYPTED}\{replica.name}"
        made = install(room / "설치", str(source), address, servers, options=options, settings=settings)
        yield Scene(made, relay, size_mib * MIB)


def _bandwidth(text: str | None) -> Mapping[str, Any]:
    return {} if text is None else {"bandwidth": text}


@pytest.mark.parametrize(("own", "common"), [("8M", None), ("off", "8M"), ("8M", "16M")])
def test_sync_takes_the_time_that_the_limit_gives_it(
    own: str | None, common: str | None, room: Path, samba_server: PrivateSamba
) -> None:
    with scene(room, samba_server, 24, own=own, common=common) as it:
        took_s, seen = it.run("sync")
        assert 22 / 8 <= took_s <= 24 / 8 + LATE_S
        seen.assert_never_faster_than(8 * MIB)


@pytest.mark.soak
@pytest.mark.parametrize("rate_mib", [1, 10, 100])
def test_rates_are_kept_to_within_a_few_percent(
    rate_mib: int, room: Path, samba_server: PrivateSamba, record_property: Record
) -> None:
    with scene(room, samba_server, 10 * rate_mib, own=f"{rate_mib}M") as it:
        took_s, seen = it.run("sync")
        found = seen.rate_bytes_per_s() / MIB
        told = f"{10 * rate_mib} MiB at {rate_mib} MiB/s: {took_s:.2f} s, {found:.3f} MiB/s on the wire"
        record_property("rate", told)
        _log.info(told)
        seen.assert_never_faster_than(rate_mib * MIB)
        # Where something else holds it up for more than a quarter of a second, that is not made up for.
        assert 0.8 * rate_mib <= found <= 1.02 * rate_mib * OVERHEAD


def test_restore_and_verify_obey_the_limit_and_give_every_byte(room: Path, samba_server: PrivateSamba) -> None:
    with scene(room, samba_server, 12) as it:
        took_s, _ = it.run("sync")
        assert took_s < LATE_S
    config = it.installation.config
    config.write_text(config.read_text().replace('"disks"', '"bandwidth": "4M", "disks"'))
    with relay_to(samba_server.port) as relay:
        config.write_text(config.read_text().replace(f'"port": {it.relay.port}', f'"port": {relay.port}'))
        limited = Scene(it.installation, relay, it.size_bytes)
        took_s, _ = limited.run("verify")
        assert 11 / 4 <= took_s <= 12 / 4 + LATE_S
        took_s, _ = limited.run("restore", "--to", str(room / "되찾은 것"))
        assert 11 / 4 <= took_s <= 12 / 4 + LATE_S
    assert (room / "되찾은 것" / "디스크.img").read_bytes() == (room / "원본" / "디스크.img").read_bytes()


def test_a_replica_in_a_local_directory_is_limited_as_well(room: Path) -> None:
    source, replica = room / "원본", room / "사본"
    source.mkdir()
    replica.mkdir()
    (source / "디스크.img").write_bytes(Random(1).randbytes(8 * MIB))
    it = install(room / "설치", str(source), str(replica), {}, settings={"bandwidth": "4M"})
    began_s = time.monotonic()
    it.run("sync")
    assert 7 / 4 <= time.monotonic() - began_s <= 8 / 4 + LATE_S


def _with_bandwidth(settings: Settings, text: str) -> Settings:
    machine = replace(settings.machine(VM), bandwidth=parse_timetable(text))
    return replace(settings, virtual_machines=MappingProxyType({VM: machine}))


async def test_another_configuration_changes_the_rate_of_a_cycle_that_is_running(
    room: Path, samba_server: PrivateSamba
) -> None:
    with scene(room, samba_server, 24) as it:
        slow = _with_bandwidth(load_settings(it.installation.config), "1M")
        limits, seen, loop, well_under_way = BandwidthLimits(slow), Seen(), asyncio.get_running_loop(), asyncio.Event()

        def judge(traffic: Traffic, length: int) -> None:
            seen.judge(traffic, length)
            if traffic.to_server_bytes >= 2 * MIB:
                loop.call_soon_threadsafe(well_under_way.set)

        it.relay.cut(judge, lambda: None)

        async def cycle() -> float:
            async with surroundings(None, nobody) as ctx, Shares(slow, limits=limits) as shares:
                opened = await open_machine(slow.machine(VM), shares, ctx)
                await replicate(opened.job, opened.source, opened.replica, ctx)
            return time.monotonic()

        began_s = time.monotonic()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(cycle())
            await well_under_way.wait()
            changed_s = time.monotonic()
            limits.apply(_with_bandwidth(slow, "16M"))
        # 22 MiB were left: at the old rate it would have taken that many seconds more.
        assert changed_s - began_s >= 1.5
        assert (22 - 4) / 16 <= running.result() - changed_s <= 22 / 16 + LATE_S
        Seen([one for one in seen.messages if one[0] <= changed_s]).assert_never_faster_than(MIB)
        seen.assert_never_faster_than(16 * MIB)
