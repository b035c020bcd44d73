"""What is said of how changes became known."""

from __future__ import annotations

from datetime import UTC, datetime

from replicad.model.points import (
    Change,
    Consistency,
    CycleKind,
    DiskState,
    FileKind,
    ManifestReference,
    Mistake,
    Provenance,
    RecoveryPoint,
    Statistics,
    Trust,
)
from replicad.model.tracking_words import TrackerMistake, mistake_in_words, mistakes_of, tracking_in_words

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
WRONG = Trust(20, 300, Mistake(Provenance.EXTENTS, 7, 1, NOW))


def _disk(
    path: str = "웹 🖥.vhdx", by: Provenance = Provenance.DIRTY_BITMAP, trust: Trust | None = None, note: str = "",
    change: Change = Change.DELTA,
) -> DiskState:  # fmt: skip
    return DiskState(
        "22" * 16, path, FileKind.DISK, 1 << 20, 1 << 16, change, by, ManifestReference(3, "33" * 32), None,
        Statistics(), trust, note,
    )  # fmt: skip


def _point(number: int, *disks: DiskState) -> RecoveryPoint:
    return RecoveryPoint(
        1, "11" * 16, "vm", number, None, NOW, CycleKind.DELTA, Consistency.COLD, 1, "host", disks, (), (), Statistics()
    )


def test_a_tracker_that_was_found_right_is_told_with_how_much_was_checked() -> None:
    assert tracking_in_words([_disk(trust=Trust(16, 65_536))]) == (
        "dirty-bitmap; 16 of 65,536 unchanged chunks checked, all as they were",
    )
    assert tracking_in_words([_disk(trust=Trust(0, 0))]) == ("dirty-bitmap; no chunk was called unchanged",)


def test_a_full_scan_says_why_it_was_one() -> None:
    assert tracking_in_words([_disk(by=Provenance.FULL_SCAN, note="the machine was restarted")]) == (
        "full-scan: the machine was restarted",
    )
    assert tracking_in_words([_disk(by=Provenance.FULL_SCAN)]) == ("full-scan",)
    assert tracking_in_words([_disk(by=Provenance.FULL_SCAN, change=Change.INITIAL)]) == ("full-scan of what is new",)


def test_a_tracker_that_was_wrong_is_told() -> None:
    assert tracking_in_words([_disk(by=Provenance.FULL_SCAN, trust=WRONG)]) == (
        "full-scan: extents called chunks unchanged that had changed",
    )
    assert mistake_in_words("b.vhdx", WRONG) == (
        "b.vhdx: extents called chunk 7 unchanged, and that was wrong; the whole disk was read"
    )
    several = Trust(20, 300, Mistake(Provenance.EXTENTS, 7, 3, NOW))
    assert "called 3 chunks, the first 7, unchanged" in mistake_in_words("b.vhdx", several)
    assert mistake_in_words("b.vhdx", Trust(20, 300)) == ""


def test_disks_of_which_the_same_is_to_be_said_share_a_line() -> None:
    disks = [_disk("a.vhdx", note=""), _disk("b.vhdx"), _disk("c.vhdx", by=Provenance.FULL_SCAN, note="why")]
    assert tracking_in_words(disks) == ("a.vhdx, b.vhdx: dirty-bitmap", "c.vhdx: full-scan: why")


def test_mistakes_come_in_the_order_of_the_points() -> None:
    points = [_point(9, _disk("b.vhdx", trust=WRONG)), _point(4, _disk(), _disk("a.vhdx", trust=WRONG))]
    assert [(m.point, m.text[:6]) for m in mistakes_of(points)] == [(4, "a.vhdx"), (9, "b.vhdx")]
    assert mistakes_of([_point(1, _disk())]) == ()
    assert isinstance(mistakes_of(points)[0], TrackerMistake)
