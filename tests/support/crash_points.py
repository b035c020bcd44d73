"""Every way in which some work may be disturbed, at every call that changes anything, and what must hold each time.

A `Scenario` (tests/support/crash_scenarios.py) says how a world gets to the moment before, what is then disturbed, and
what is done about it afterwards. A first run without faults tells which calls there are; then each `Case` is one run
with one fault at one call, begun from a copy of the same world. Nothing here is left to chance: the same case makes the
same calls and breaks in the same way each time.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ParamSpec, TypeVar, cast

import pytest

from replicad.model.errors import (
    AccessDeniedError,
    BusyError,
    DivergedError,
    IntegrityError,
    LockedError,
    NotFoundError,
    OutOfSpaceError,
    ReplicadError,
    StuckError,
    TimedOutError,
    UnreachableError,
    was_lost,
)
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Share
from tests.support.faulty import Fault, FaultyShare, When, crashes
from tests.support.invariants import (
    Stays,
    check_foreign_files,
    check_names,
    check_nothing_left_over,
    check_points,
    check_seen_by_a_reader,
    check_verified,
    check_which_points,
    check_which_points_in_the_end,
    committed_points,
    plant_foreign_files,
)
from tests.support.world import CHUNK, World, mutate

T = TypeVar("T")
P = ParamSpec("P")

LONGEST_CASE_S = 60.0
_TAKES_ROOM = ("create", "write", "copy_from", "make_dir", "set_size", "lock")


def _is_same(told: ReplicadError, error: ReplicadError | None) -> bool:
    return type(told) is type(error) and told.args == error.args


def _named(kind: type[ReplicadError]) -> ReplicadError:
    return kind("use", "nas", "it is what this case is about")


ERRORS: Mapping[str, ReplicadError] = {
    "unreachable": _named(UnreachableError),
    "timed out": _named(TimedOutError),
    "stuck": _named(StuckError),
    "busy": _named(BusyError),
    "access denied": _named(AccessDeniedError),
    "not found": _named(NotFoundError),
    "out of space": _named(OutOfSpaceError),
    "integrity": _named(IntegrityError),
    "locked": _named(LockedError),
    "diverged": _named(DivergedError),
}


class InlineExecutor(Executor):
    """Does everything where it is asked for: with threads, the order of the calls would be a matter of luck."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # it is for whoever waits for the future
            future.set_exception(error)
        return future


@dataclass
class Stage(World):
    """A world with a place to restore to, and files on both shares that are none of ours."""

    target: Share = field(default_factory=lambda: MemoryShare("target", volatile=True))
    foreign: dict[str, bytes] = field(default_factory=dict)
    foreign_at_target: dict[str, bytes] = field(default_factory=dict)


Step = Callable[[Stage], Coroutine[Any, Any, None]]


async def sync(stage: Stage) -> None:
    """A cycle."""
    await stage.sync()


async def _nothing_more(stage: Stage) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Scenario:
    """Work that may be disturbed at any call.

    `prepare` brings a new stage to the moment before; `act` is disturbed; `finish` is what somebody does about it whose
    shares work, and must end well. `breaks` names the share that breaks: "replica" or "target". `share` are options of
    the replica's share. `small_batches`: each chunk is a batch of its own, and what is written is flushed now and then.
    `spoiled`: the replica is damaged before it begins, so that until the finish points may refuse to be read, but never
    read wrong. `may_change`: the source may go on changing before the finish. `outlives_losses`: lost connections do
    not end it. `look` checks what else must hold after the fault. `keeps`: points are pruned by it or by the finish,
    and only so many of the newest stay, and those that are `pinned`; None: all points stay. `foreign_in_points`: files
    that are none of ours lie in the points' directories as well, which keeps these from being removed.
    """

    name: str
    prepare: Step
    act: Step = sync
    finish: Step = sync
    breaks: str = "replica"
    share: Mapping[str, bool] = field(default_factory=dict)
    small_batches: bool = False
    spoiled: bool = False
    may_change: bool = True
    outlives_losses: bool = False
    look: Step = _nothing_more
    keeps: int | None = None
    pinned: frozenset[int] = frozenset()
    foreign_in_points: bool = True


@dataclass(frozen=True, slots=True)
class Way:
    """What happens at a call: the process dies, or (`error`) the call fails, once or `forever`; the server may restart
    with it and lose what it had in its `caches` (0: all of it, other numbers: seeds of what it loses)."""

    name: str
    when: When
    error: ReplicadError | None = None
    forever: bool = False
    caches: int | None = None


def ways(seeds: int) -> Iterator[Way]:
    """All ways, with so many results of each loss of the server's caches."""
    for when in When:
        yield Way(f"dies {when.value}", when)
        for seed in range(seeds):
            yield Way(f"dies {when.value} and the server loses its caches ({seed})", when, caches=seed)
            restarted = f"the server restarts {when.value} and loses its caches ({seed})"
            yield Way(restarted, when, ERRORS["unreachable"], caches=seed)
    for name, error in ERRORS.items():
        for forever in (False, True):
            often = "forever" if forever else "once"
            yield Way(f"{name} {often}", When.BEFORE, error, forever)
            if isinstance(error, UnreachableError | TimedOutError | OutOfSpaceError):
                # It was done, or half of it, although the answer says that it was not.
                when = When.TORN if isinstance(error, OutOfSpaceError) else When.AFTER
                yield Way(f"{name} {often}, {when.value}", when, error, forever)


@dataclass(frozen=True, slots=True)
class Case:
    """One fault at one numbered call."""

    number: int
    way: Way


class BreakingShare(FaultyShare):
    """A view of a share in memory for one life that is disturbed as a case says; without one, it only counts."""

    def __init__(self, memory: MemoryShare, case: Case | None = None, luck: Random | None = None) -> None:
        self.memory = memory.view()
        super().__init__(self.memory, {case.number: Fault(case.way.when, case.way.error)} if case else None)
        self.was_struck = False
        self._way = case.way if case else None
        self._luck = luck

    def struck(self) -> None:
        self.was_struck = True
        if self._way is not None and self._way.caches is not None:
            self.memory.crash(self._luck if self._way.caches else None)

    def _lasting_error(self, what: str) -> ReplicadError | None:
        """What every call gets that comes after the first one that failed."""
        if self._way is None or not self._way.forever or not self.was_struck:
            return None
        spared = isinstance(self._way.error, OutOfSpaceError) and not what.startswith(_TAKES_ROOM)
        return None if spared else self._way.error

    async def change(
        self, what: str, whole: Callable[[], Awaitable[T]], half: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        error = self._lasting_error(what)
        if error is not None:
            self.faults[len(self.log) + 1] = Fault(When.BEFORE, error)
        try:
            return await super().change(what, whole, half)
        except (UnreachableError, TimedOutError) as told:
            if self._way is not None and _is_same(told, self._way.error) and what.startswith("release "):
                return cast("T", None)  # locks are given back without a word about lost connections
            raise

    async def look(self, call: Callable[[], Awaitable[T]]) -> T:
        error = self._lasting_error("look")
        if isinstance(error, UnreachableError | TimedOutError):
            raise copy.copy(error)
        try:
            return await super().look(call)
        except LockedError:
            if self._way is None or self._way.caches is None or not self.was_struck:
                raise
            # A lock that went away with the server is asked for over the connection that went with it.
            raise _named(UnreachableError) from None

    def left_open(self) -> list[str]:
        """The files that nobody closed, by path."""
        return [o.path for node in self.memory.tree.files() for o in node.openers if o.share is self.memory]


@contextmanager
def patched(scenario: Scenario) -> Iterator[None]:
    """The constants of a scenario."""
    with pytest.MonkeyPatch.context() as patch:
        if scenario.small_batches:
            patch.setattr("replicad.replica.disk_update._FLUSH_EVERY_BYTES", 2 * CHUNK)
            patch.setattr("replicad.replica.disk_update.BATCH_CHUNKS", 1)
            patch.setattr("replicad.workflows.collecting.BATCH_CHUNKS", 1)
            patch.setattr("replicad.replica.merged_log._BATCH_BYTES", 2 * CHUNK)
        yield


class Enumeration:
    """A scenario at the moment before, and how many calls there are to disturb it at."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.calls: list[str] = []
        self._stays = Stays(frozenset(), scenario.keeps, scenario.pinned)
        self._stage = Stage(
            MemoryShare("source"), MemoryShare("replica", volatile=True, **scenario.share), InlineExecutor(), seed=3
        )

    async def begin(self) -> None:
        """Prepare the stage, and count."""
        with patched(self.scenario):
            await self.scenario.prepare(self._stage)
            there = await committed_points(self._stage.replica)
            self._stays = replace(self._stays, there=frozenset(there))
            in_points = self.scenario.foreign_in_points
            self._stage.foreign = await plant_foreign_files(self._stage.replica, in_points=in_points)
            self._stage.foreign_at_target = await plant_foreign_files(self._stage.target)
            stage = self._again()
            share = BreakingShare(self._breaking(stage))
            self._put(stage, share)
            await self.scenario.act(stage)
            self.calls = share.log
            assert share.left_open() == []
            self._put(stage, share.memory)
            await self.scenario.finish(stage)
            await self._check_finished(stage)

    def cases(self, seeds: int) -> list[Case]:
        """All of them."""
        return [Case(number, way) for number in range(1, len(self.calls) + 1) for way in ways(seeds)]

    async def try_out(self, case: Case) -> bool:
        """One disturbed life, and all that must hold then; whether the fault came to pass (a call that fails by itself
        is not disturbed besides). AssertionError or another Exception with the case in it if something does not hold.
        """
        where = f"{self.scenario.name}: {case.way.name} call {case.number}, {self.calls[case.number - 1]}"
        with patched(self.scenario):
            try:
                async with asyncio.timeout(LONGEST_CASE_S):
                    return await self._try_out(case, Random(where))
            except Exception as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error

    async def _try_out(self, case: Case, random: Random) -> bool:
        stage, scenario = self._again(), self.scenario
        below = self._breaking(stage)
        share = BreakingShare(below, case, random)
        self._put(stage, share)
        await self._live(stage, share, case)
        share.memory.die()  # the process is at its end, and with it a lock that it could not give back
        self._put(stage, below)
        as_it_was = dict(stage.disks)
        await _note(stage, as_it_was)
        await check_names(stage, scenario.spoiled)
        await check_seen_by_a_reader(stage, self._stays, scenario.spoiled)
        await scenario.look(stage)
        await self._check_foreign(stage)
        if random.random() < 0.5:
            # Somebody reads, and brings the replica into order for it, before the next cycle begins.
            await check_which_points(stage, stage.replica, self._stays)
            await _note(stage, as_it_was)
            await check_points(stage, stage.replica, scenario.spoiled)
            if not scenario.spoiled and await committed_points(stage.replica):
                await check_verified(stage)
        if scenario.may_change:
            await _change_source(stage, random)
        await scenario.finish(stage)
        await _note(stage, as_it_was)
        await self._check_finished(stage)
        return share.was_struck

    async def _live(self, stage: Stage, share: BreakingShare, case: Case) -> None:
        error, way = None, case.way
        try:
            died = await crashes(self.scenario.act(stage))
        except ReplicadError as raised:
            died, error = False, raised
        assert len(share.log) >= case.number, "the call was never made"
        assert died == (share.was_struck and way.error is None), f"died: {died}, raised: {error!r}"
        if way.error is None:
            assert died or error is None, f"it raised {error!r}"
            return
        # What is not there may be no matter, or lead to an error of another kind.
        expected = ReplicadError if isinstance(way.error, NotFoundError) else type(way.error)
        assert error is None or isinstance(error, expected), f"it raised {error!r}"
        if self.scenario.outlives_losses and was_lost(way.error) and not way.forever:
            assert error is None, f"a lost connection ended it: {error!r}"
        assert share.left_open() == [], "files were left open"

    async def _check_foreign(self, stage: Stage) -> None:
        await check_foreign_files(stage.replica, stage.foreign)
        await check_foreign_files(stage.target, stage.foreign_at_target)

    async def _check_finished(self, stage: Stage) -> None:
        await check_which_points(stage, stage.replica, self._stays)
        await check_which_points_in_the_end(stage.replica, self._stays)
        await check_points(stage, stage.replica, spoiled=False)
        await check_names(stage, spoiled=False)
        await check_nothing_left_over(stage)
        await self._check_foreign(stage)

    def _breaking(self, stage: Stage) -> MemoryShare:
        share = stage.target if self.scenario.breaks == "target" else stage.replica
        assert isinstance(share, MemoryShare)
        return share

    def _put(self, stage: Stage, share: Share) -> None:
        if self.scenario.breaks == "target":
            stage.target = share
        else:
            stage.replica = share

    def _again(self) -> Stage:
        """A stage just like the prepared one."""
        first = self._stage
        trees = copy.deepcopy([cast("MemoryShare", s).tree for s in (first.source, first.replica, first.target)])
        shares = []
        for original, tree in zip((first.source, first.replica, first.target), trees, strict=True):
            share = MemoryShare(original.name)
            share.tree = tree
            shares.append(share)
        stage = Stage(
            shares[0], shares[1], first.hashing, seed=first.seed, disks=dict(first.disks),
            history={number: dict(disks) for number, disks in first.history.items()}, target=shares[2],
            foreign=first.foreign, foreign_at_target=first.foreign_at_target,
        )  # fmt: skip
        stage.random.setstate(first.random.getstate())
        stage.time.seconds = first.time.seconds
        return stage


async def _note(stage: Stage, disks: dict[str, bytes]) -> None:
    """Take down what the points hold that a disturbed cycle made."""
    for number in await committed_points(stage.replica):
        stage.history.setdefault(number, dict(disks))


async def _change_source(stage: Stage, random: Random) -> None:
    """The source goes on: it stays as it is, goes back to what it was, or changes some more."""
    what = random.choice(["stay", "go back", "change"])
    if what == "go back" and stage.history:
        wanted = stage.history[random.choice(sorted(stage.history))]
    elif what == "change":
        wanted = {path: mutate(data, random, 8 * CHUNK) for path, data in stage.disks.items()}
    else:
        return
    for path in sorted(stage.disks.keys() - wanted.keys()):
        await stage.drop(path)
    for path, data in wanted.items():
        if stage.disks.get(path) != data:
            await stage.put(path, data)
