"""Whether the rounds of a move come to an end: when to have the machine stand still, and when to give up. Pure.

While a round is sent the machine writes more, and that is what the next one has to send. If it writes slower than we
send each round is shorter than the one before, down to what takes about no time; else more rounds do not help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

GOOD_ENOUGH_S = 0.05
"""A freeze that is predicted to be so short is not worth another round."""
_WORTH_ANOTHER = 0.8
"""Another round is, if it is predicted to leave no more than that part of this one."""
_OVERHEAD_S = 0.02
"""Whatever is left to be sent: stopping, asking what changed, writing down, switching."""


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """What a round sent, and how long it took."""

    sent_bytes: int
    duration_s: float


class Verdict(Enum):
    """What to do after a round."""

    GO = "go"
    AGAIN = "again"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, how long the machine would stand still if it were stopped now, and how fast it writes and we send,
    in bytes a second."""

    verdict: Verdict
    freeze_s: float
    written_bytes_per_s: float
    sent_bytes_per_s: float


def judge(rounds: Sequence[RoundFigures], max_freeze_s: float, max_rounds: int) -> Judgement:
    """After these rounds, of which the first one sent everything.

    What is left is what was written during the last round. It is taken for what that round itself found: the rate at
    which the machine writes is what the last round found to send, by the time in which that was written.
    """
    last = rounds[-1]
    # Rates of rounds that took next to nothing say nothing: the fastest of the longer ones is believed.
    sent_per_s = max((r.sent_bytes / r.duration_s for r in rounds if r.duration_s > 0 and r.sent_bytes), default=0.0)
    if len(rounds) == 1:
        # Nothing is known yet of how fast the machine writes.
        return Judgement(Verdict.AGAIN, last.duration_s, 0.0, sent_per_s)
    before = rounds[-2]
    written_per_s = last.sent_bytes / before.duration_s if before.duration_s > 0 else 0.0
    left_bytes = written_per_s * last.duration_s
    # What a round takes whatever it sends: without a tracker the disks are read whole, also while the machine stands.
    looking_s = max(0.0, last.duration_s - last.sent_bytes / sent_per_s) if sent_per_s else last.duration_s
    freeze_s = _OVERHEAD_S + looking_s + (left_bytes / sent_per_s if sent_per_s else 0.0)
    # The next round would take as long as what is left takes to be sent, and leave what is written in that time.
    shrinks = written_per_s < _WORTH_ANOTHER * sent_per_s and freeze_s < _WORTH_ANOTHER * last.duration_s
    if freeze_s <= max_freeze_s and (freeze_s <= _OVERHEAD_S + GOOD_ENOUGH_S or not shrinks):
        return Judgement(Verdict.GO, freeze_s, written_per_s, sent_per_s)
    if len(rounds) > max_rounds:
        verdict = Verdict.GO if freeze_s <= max_freeze_s else Verdict.STUCK
    else:
        verdict = Verdict.AGAIN if shrinks else Verdict.STUCK
    return Judgement(verdict, freeze_s, written_per_s, sent_per_s)
