"""What a verification came to, as it is remembered. Pure."""

from __future__ import annotations

from datetime import datetime

from replicad.model.verification import VerificationOutcome, VerificationResult
from replicad.workflows.damage import Damage, Verification


def result_of(found: Verification, at: datetime, duration_s: float) -> VerificationResult:
    """What a verification came to, in words. Pure."""
    left = [damage for damage in found.damages if not damage.repaired]
    if left:
        chunks = sum(len(damage.chunks) for damage in left)
        about = _about(left, found.damaged_points)
        return VerificationResult(at, VerificationOutcome.DAMAGED, about, chunks, found.read_bytes, duration_s)
    repaired = len(found.damages)
    was = "damage was" if repaired == 1 else "damages were"
    text = f"{repaired} {was} found and repaired" if repaired else None
    return VerificationResult(at, VerificationOutcome.CLEAN, text, 0, found.read_bytes, duration_s)


def _about(damages: list[Damage], points: list[int]) -> str:
    first = damages[0]
    more = f", and {len(damages) - 1} more" if len(damages) > 1 else ""
    lost = ""
    if points:
        which = ", ".join(map(str, points))
        one = len(points) == 1
        lost = f"; point{'' if one else 's'} {which} can't be restored as {'it was' if one else 'they were'}"
    return f"{first.file}: {first.reason}{more}{lost}"
