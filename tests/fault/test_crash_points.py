"""Every kind of work, disturbed at every call that changes anything and in every way (tests/support/crash_points.py):
no point is lost, nothing half-made shows, nothing foreign goes, and the next one gets done."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from replicad.model.points import RecoveryPoint
from replicad.model.retention import Keep, PointFacts, Verdict, judge
from replicad.replica.directory import Replica
from replicad.replica.fence import Fence
from replicad.replica.merge import commit_merge
from replicad.storage.memory import MemoryFile, MemoryShare
from tests.support.crash_points import Case, Enumeration, Scenario, ways
from tests.support.crash_scenarios import SCENARIOS

Record = Callable[[str, object], None]

_SAMPLE = 9
_SAMPLE_SEEDS, _SOAK_SEEDS = 4, 6
_SHARDS = 4
_TOLD = 10
_KNOWN_CALLS, _KNOWN_CASES = 2200, 145_000
_NAMES = [scenario.name for scenario in SCENARIOS]


async def _begun(scenario: Scenario) -> Enumeration:
    enumeration = Enumeration(scenario)
    await enumeration.begin()
    return enumeration


async def _violations(enumeration: Enumeration, cases: list[Case], most: int | None = None) -> list[str]:
    found: list[str] = []
    for case in cases:
        if len(found) == most:
            break
        try:
            await enumeration.try_out(case)
        except AssertionError as error:
            found.append(str(error))
    return found


def _none(violations: list[str]) -> None:
    assert not violations, "\n".join([f"{len(violations)} violations:", *violations[:_TOLD]])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=_NAMES)
async def test_work_that_is_disturbed_anywhere_loses_nothing(scenario: Scenario) -> None:
    enumeration = await _begun(scenario)
    cases = Random(scenario.name).sample(enumeration.cases(_SAMPLE_SEEDS), _SAMPLE)
    _none(await _violations(enumeration, cases))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(_SHARDS))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=_NAMES)
async def test_work_that_is_disturbed_everywhere_in_every_way_loses_nothing(
    scenario: Scenario, shard: int, record_property: Record
) -> None:
    enumeration = await _begun(scenario)
    cases = enumeration.cases(_SOAK_SEEDS)[shard::_SHARDS]
    record_property("crash points", len(enumeration.calls) if shard == 0 else 0)
    record_property("disturbed runs", len(cases))
    _none(await _violations(enumeration, cases))


async def test_calls_that_can_be_disturbed_are_as_many_as_they_are_known_to_be(record_property: Record) -> None:
    calls = {scenario.name: len((await _begun(scenario)).calls) for scenario in SCENARIOS}
    assert len(calls) == len(SCENARIOS), "names are given twice"
    record_property("crash points", sum(calls.values()))
    assert sum(calls.values()) >= _KNOWN_CALLS, calls
    assert min(calls.values()) >= 10, calls
    assert len(list(ways(_SOAK_SEEDS))) * sum(calls.values()) >= _KNOWN_CASES


def _judge_without_pins(points: list[RecoveryPoint], keep: Keep) -> tuple[Verdict, ...]:
    return judge([PointFacts(p.number, p.time, pinned=False) for p in points], keep)


def _scenario(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def _flush_only(monkeypatch: pytest.MonkeyPatch, wanted: Callable[[str], bool]) -> None:
    """A program that forgets to flush the other files."""
    flush = MemoryFile.flush

    async def forgetful(file: MemoryFile) -> None:
        if wanted(file.path):
            await flush(file)

    monkeypatch.setattr(MemoryFile, "flush", forgetful)


def _flush_only_directories(monkeypatch: pytest.MonkeyPatch, wanted: Callable[[str], bool]) -> None:
    flush_directory = MemoryShare.flush_directory

    async def forgetful(share: MemoryShare, path: str) -> None:
        if wanted(path):
            await flush_directory(share, path)

    monkeypatch.setattr(MemoryShare, "flush_directory", forgetful)


async def _found_in(scenario: str) -> list[str]:
    """The first violation, looking at the server's losses of its caches."""
    enumeration = await _begun(_scenario(scenario))
    cases = [case for case in enumeration.cases(_SAMPLE_SEEDS) if case.way.caches is not None]
    return await _violations(enumeration, Random(scenario).sample(cases, min(len(cases), 150)), most=1)


@pytest.mark.parametrize("kind", [".undo", ".updating", ".xxh3", ".tmp"])
async def test_a_file_that_is_not_flushed_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _flush_only(monkeypatch, lambda path: not path.endswith(kind))
    assert await _found_in("many batches")


@pytest.mark.parametrize("name", ["disks", "manifests", "points"])
async def test_a_directory_that_is_not_flushed_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _flush_only_directories(monkeypatch, lambda path: not path.endswith(name))
    assert await _found_in("delta")


async def test_a_merged_log_that_is_not_flushed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _flush_only(monkeypatch, lambda path: not path.endswith(".merged"))
    assert await _found_in("prune between pinned points")


async def test_points_that_are_put_away_before_a_record_leads_over_them_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hasty(replica: Replica, record: RecoveryPoint, fence: Fence) -> None:
        for number in range((record.previous or 0) + 1, record.number):
            await replica.share.rename(replica.layout.point_dir(number), replica.layout.pruned_dir(number))
        await commit_merge(replica, record, fence)

    monkeypatch.setattr("replicad.workflows.prune.commit_merge", hasty)
    assert await _found_in("prune to the latest point")


async def test_a_pruned_point_that_is_left_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lazy(self: object, *, records_in_doubt: bool = False) -> None:
        pass

    monkeypatch.setattr("replicad.workflows.prune._Pruning.tidy", lazy)
    with pytest.raises(AssertionError, match="left over"):
        await _begun(_scenario("prune to the latest point"))


async def test_a_prune_that_removes_a_point_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.workflows.prune.verdicts_on", _judge_without_pins)
    with pytest.raises(AssertionError, match=r"points \[1\] had to stay and are gone"):
        await _begun(_scenario("prune between a pinned point and the latest"))


async def test_files_that_are_left_open_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    close = MemoryFile.close

    async def lazy(file: MemoryFile) -> None:
        if not file.path.endswith(".undo"):
            await close(file)

    enumeration = await _begun(_scenario("delta"))
    monkeypatch.setattr(MemoryFile, "close", lazy)
    found = await _violations(enumeration, [case for case in enumeration.cases(1) if case.way.name == "busy once"])
    assert any("files were left open" in text for text in found)
