"""`python -m benchmarks`: replicad beside other programs, in one run and in turns, so that all see the same machine."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

from replicad.model.errors import ReplicadError

from . import chart, delta, full_copy, memory, move, starting, unchanged
from .ballast import ballast
from .contest import Case, hold
from .lab import Lab, LeftOutError, is_in_memory, lab
from .machine import machine
from .report import print_results
from .results import Outcome, Results

CASES = (*starting.CASES, *full_copy.CASES, *delta.CASES, *move.CASES, *unchanged.CASES, *memory.CASES)
_MIB = 1 << 20


def main() -> int:
    """Measure, print tables, write JSON and the chart if asked to; 1 if anything failed."""
    asked = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)  # so that servers and mounts are taken away
    rounds = asked.rounds or (1 if asked.quick else 5)
    facts = machine(asked.directory)
    outcomes: list[Outcome] = []
    left_out: list[str] = []
    failed = False
    with ballast(asked.directory) if is_in_memory(asked.directory) else nullcontext() as kept:
        for case in [case for case in CASES if case.name in (asked.cases or [case.name])]:
            size_mib = asked.size_mib or (case.quick_size_mib if asked.quick else case.size_mib)
            try:
                with lab(asked.directory, seed=1, ballast=kept) as place:
                    _hold_all(case, place, size_mib * _MIB, rounds, outcomes)
            except LeftOutError as why:
                left_out.append(f"{case.name}: {why}")
            except (ReplicadError, RuntimeError, AssertionError) as error:
                print(f"benchmarks: {case.name}: {error}", file=sys.stderr)
                failed = True
    settings = {"rounds": rounds, "quick": asked.quick, "size_mib": asked.size_mib}
    results = Results(facts, settings, tuple(outcomes), tuple(left_out))
    print_results(results)
    if asked.output:
        results.write(asked.output)
    if asked.chart:
        asked.chart.write_text(chart.draw(results), encoding="utf-8")
    return 1 if failed else 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    print(f"benchmarks: interrupted by {signal.Signals(number).name}", file=sys.stderr)
    raise KeyboardInterrupt


def _hold_all(case: Case, place: Lab, size_bytes: int, rounds: int, outcomes: list[Outcome]) -> None:
    # Closed whatever happens: what a case has set up is taken away before its directory is.
    with closing(case.contests(place, size_bytes)) as contests:
        for contest in contests:
            outcomes.append(outcome := hold(contest, rounds))
            fastest = min(outcome.standings, key=lambda standing: standing.seconds)
            print(
                f"{outcome.case}, {outcome.variant}: {fastest.name} was the fastest, {fastest.seconds:.2f} s",
                file=sys.stderr,
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round on small disks, in under 3 minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="5 if not given")
    parser.add_argument("--size-mib", type=int, metavar="N", help="of the disk, for every case; a multiple of 8")
    parser.add_argument("--case", dest="cases", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where, best in memory: /dev/shm")  # noqa: S108 - mkdtemp makes a new name
    parser.add_argument("--output", type=Path, metavar="FILE", help="write every measurement as JSON")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart (SVG)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
