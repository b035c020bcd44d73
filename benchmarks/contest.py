"""What is compared: the same thing done by several programs, in turns, so that all of them see the same machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass

from .lab import Lab
from .measuring import Measurement
from .results import Kind, Outcome, Standing


def nothing() -> None:
    """Where there is nothing to prepare, to check or to change."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of doing it. `begin` comes once, before the first round, and `prepare` before each run.

    `check` comes after the clock stopped: it raises AssertionError if the result is not equal to the source, and takes
    the result away where the next run does not need it.

    `needs` is a program that may be missing; then it does not take part.
    """

    name: str
    kind: Kind
    run: Callable[[], Measurement]
    begin: Callable[[], object] = nothing
    prepare: Callable[[], object] = nothing
    check: Callable[[], None] = nothing
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Contest:
    """`size_bytes` is what is to be brought over or read. `before_round` happens once a round, for all alike."""

    case: str
    variant: str
    size_bytes: int
    contestants: tuple[Contestant, ...]
    before_round: Callable[[], object] = nothing


Contests = Generator[Contest, None, None]


@dataclass(frozen=True, slots=True)
class Case:
    """Contests, and what they need around them: `contests` makes it, yields, and takes it away again.

    It is given the size of its disk in bytes, and raises `lab.LeftOutError` where it can't be held.
    """

    name: str
    size_mib: int
    quick_size_mib: int
    contests: Callable[[Lab, int], Contests]


def hold(contest: Contest, rounds: int) -> Outcome:
    """All contestants in turns; another one begins each round, so that nobody always finds the caches warm."""
    present = [c for c in contest.contestants if not c.needs or shutil.which(c.needs)]
    missing = tuple(f"{c.name}: {c.needs} is not installed" for c in contest.contestants if c not in present)
    for contestant in present:
        contestant.begin()
    runs: dict[str, list[Measurement]] = {c.name: [] for c in present}
    for number in range(rounds):
        print(f"{contest.case}, {contest.variant}: round {number + 1} of {rounds}", file=sys.stderr)
        contest.before_round()
        first = number % len(present)
        for contestant in (*present[first:], *present[:first]):
            contestant.prepare()
            runs[contestant.name].append(contestant.run())
            contestant.check()
    standings = tuple(Standing(c.name, c.kind, tuple(runs[c.name])) for c in present)
    return Outcome(contest.case, contest.variant, contest.size_bytes, standings, missing)
