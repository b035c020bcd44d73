"""The steps of a probe on an open share, in memory: what each finds, what is skipped, what is cleaned up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from replicad.model.clock import Clock
from replicad.model.errors import AccessDeniedError, UnreachableError
from replicad.storage.memory import MemoryFile, MemoryLock, MemoryShare
from replicad.storage.port import LockHolder, OpenMode
from replicad.workflows.probe import Finding, Means, StepResult, exit_code, probe
from tests.support.files import HOLDER, names


class FakeClock:
    """Each look at it takes as long as the test says."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.looks_s: list[float] = []

    def look(self) -> float:
        self.now_s += self.looks_s.pop(0) if self.looks_s else 1.0
        return self.now_s


def means(clock: FakeClock | None = None) -> Means:
    async def random_bytes(count: int) -> bytes:
        return bytes(count)

    def now() -> datetime:
        return datetime(2026, 1, 31, tzinfo=UTC)

    steady = (clock or FakeClock()).look
    return Means(Clock(now, steady, asyncio.sleep), random_bytes, lambda: "0123456789abcdef" * 2, lambda: HOLDER)


class MemoryWay:
    def __init__(self, share: MemoryShare, *steps: tuple[str, Callable[[], Awaitable[Finding]]]) -> None:
        self._share = share
        self._steps = steps

    @property
    def steps(self) -> Sequence[tuple[str, Callable[[], Awaitable[Finding]]]]:
        return self._steps

    async def open(self) -> MemoryShare:
        view = type(self._share)(self._share.name)
        view.tree = self._share.tree
        return view


async def run(share: MemoryShare, *steps: Any, clock: FakeClock | None = None) -> dict[str, StepResult]:
    reported: list[StepResult] = []
    results = await probe(MemoryWay(share, *steps), means(clock), reported.append)
    assert reported == results
    return {result.step: result for result in results}


async def test_everything_passes_on_a_good_share_and_nothing_is_left() -> None:
    share = MemoryShare()
    results = await run(share)
    assert {result.outcome for result in results.values()} == {"passed"}
    assert exit_code(list(results.values())) == 0
    assert await names(share) == []


async def test_a_step_on_the_way_that_fails_skips_all_after_it_and_gives_the_exit_code() -> None:
    async def fine() -> Finding:
        return Finding("fine")

    async def lost() -> Finding:
        raise UnreachableError("connect to", "server nas", "the port is closed", "Check the port.")

    results = await run(MemoryShare(), ("name", fine), ("port", lost), ("sign-in", fine))
    assert [result.outcome for result in results.values()] == ["passed", "failed"] + ["skipped"] * (len(results) - 2)
    assert results["port"].text == "server nas: the port is closed"
    assert results["port"].hint == "Check the port."
    assert exit_code(list(results.values())) == 5


class ReadOnlyShare(MemoryShare):
    async def make_dir(self, path: str) -> None:
        raise AccessDeniedError("make directory", self.subject(path), "access is denied")


async def test_what_does_not_need_writing_is_tried_on_a_read_only_share() -> None:
    results = await run(ReadOnlyShare())
    assert results["make a directory"].outcome == "failed"
    assert "only read from" in results["make a directory"].hint
    assert results["capabilities"].outcome == results["free space"].outcome == "passed"
    assert results["write"].outcome == results["lock"].outcome == results["read speed"].outcome == "skipped"
    assert exit_code(list(results.values())) == 12


class GenerousShare(MemoryShare):
    """Gives the same lock to everybody."""

    async def lock(self, path: str, holder: LockHolder) -> MemoryLock:
        node = self.tree.find(path)
        if node is not None:
            self.tree.remove(path)
        return await super().lock(path, holder)


async def test_a_lock_that_two_connections_get_is_a_failure() -> None:
    results = await run(GenerousShare())
    assert results["lock"].outcome == "failed"
    assert "two connections were given the same lock" in results["lock"].text
    assert exit_code(list(results.values())) == 3


class CarelessShare(MemoryShare):
    """Renames over what is there, whatever it is told."""

    async def rename(self, source: str, target: str, *, replace: bool = False) -> None:
        await super().rename(source, target, replace=True)


async def test_a_share_that_replaces_what_it_should_not_is_a_failure() -> None:
    results = await run(CarelessShare())
    assert "an existing file was replaced" in results["rename"].text
    assert results["delete"].outcome == "skipped"


@pytest.mark.parametrize(
    ("write_s", "flush_s", "warned"), [(0.1, 0.0005, True), (0.1, 0.05, False), (6.0, 0.0005, False)]
)
async def test_a_flush_quicker_than_any_disk_is_doubted_unless_the_writing_was_slow(
    write_s: float, flush_s: float, warned: bool
) -> None:
    clock = FakeClock()
    clock.looks_s = [0.0, write_s, flush_s]
    results = await run(MemoryShare(), clock=clock)
    assert results["write speed"].outcome == "passed"
    assert any("strict sync" in warning for warning in results["write speed"].warnings) is warned


async def test_missing_capabilities_are_told_and_are_no_failure() -> None:
    results = await run(MemoryShare(server_copy=False, hold=False))
    assert "no server-side copy" in results["capabilities"].text
    assert results["capabilities"].facts["hold"] is False
    assert exit_code(list(results.values())) == 0


class SlowShare(MemoryShare):
    """Never ends one of its calls."""

    async def open(self, path: str, mode: OpenMode) -> MemoryFile:
        if path.endswith("speed"):
            started.set()
            await asyncio.Event().wait()
        return await super().open(path, mode)


started = asyncio.Event()


async def test_a_cancelled_probe_cleans_up() -> None:
    started.clear()
    share = SlowShare()
    task = asyncio.ensure_future(probe(MemoryWay(share), means(), lambda result: None))
    await started.wait()
    assert await names(share) == [".replicad-probe-0123456789ab"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(share) == []
