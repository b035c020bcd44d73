"""`python -m benchmarks`: replicad beside smbclient, in one run and in turns, so that both see the same machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from replicad.model.errors import ReplicadError

from . import delta, initial_copy, restore
from .case import Case
from .harness import Contest, Measurement
from .lab import Lab, labs
from .report import as_json, machine, print_contests

CASES = (initial_copy.CASE, delta.CASE, restore.CASE)
_MIB = 1 << 20


def main() -> int:
    """Measure, print a table, write JSON if asked to."""
    asked = _arguments()
    rounds = asked.rounds or (3 if asked.quick else 5)
    size_mib = asked.size_mib or (128 if asked.quick else 1024)
    cases = [case for case in CASES if case.name in (asked.cases or [case.name])]
    facts = machine()
    try:
        with labs(asked.directory, size_mib * _MIB, seed=1) as places:
            contests = [_hold(case, lab, rounds) for case in cases for lab in places]
    except (ReplicadError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print_contests(contests, facts, rounds)
    if asked.output:
        settings = {"rounds": rounds, "size_bytes": size_mib * _MIB, "directory": str(asked.directory)}
        asked.output.write_text(json.dumps(as_json(contests, facts, settings), indent=2) + "\n")
    return 0


def _hold(case: Case, lab: Lab, rounds: int) -> Contest:
    """Both sides in turns; who begins alternates, so that neither always finds the caches warm."""
    ours: list[Measurement] = []
    theirs: list[Measurement] = []
    sent_bytes = 0
    for number in range(rounds):
        print(f"{case.name}, {lab.protection}: round {number + 1} of {rounds}", file=sys.stderr)
        for is_ours in (True, False) if number % 2 == 0 else (False, True):
            case.prepare(lab)
            if is_ours:
                measured, sent_bytes = case.ours(lab)
                ours.append(measured)
            else:
                theirs.append(case.theirs(lab))
    return Contest(
        case.name, lab.protection, lab.disk.stat().st_size, sent_bytes, case.rival, tuple(ours), tuple(theirs)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="128 MiB and 3 rounds in place of 1 GiB and 5")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--size-mib", type=int, metavar="N")
    parser.add_argument("--case", dest="cases", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where, best in memory: /dev/shm")  # noqa: S108 - mkdtemp makes a new name
    parser.add_argument("--output", type=Path, metavar="FILE", help="write every measurement as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
