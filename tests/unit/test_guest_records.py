"""What the records of the test guest tell of a set of disks, for every state that its writing passes through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.guest.records import Ring, Slot, judge

Slots = dict[tuple[int, int, int], Slot]


def states(ring: Ring, records: int) -> Iterator[tuple[int, Slots]]:
    """All that may be found on the disks while so many are written, each with the number of the last durable one."""
    slots: Slots = {}
    for number in range(1, records + 1):
        yield number - 1, dict(slots)
        disk, file, slot = ring.place(number)
        if slot == 0 and file % 2 == 1:
            for deleted in range(ring.per_file):
                slots.pop((disk, file, deleted), None)
            yield number - 1, dict(slots)
        yield number - 1, {**slots, (disk, file, slot): Slot(None)}
        slots[disk, file, slot] = Slot(number)
        yield number - 1, dict(slots)


@pytest.mark.parametrize("disks", [1, 2, 3])
def test_every_state_that_writing_passes_through_is_sound(disks: int) -> None:
    ring = Ring(disks, files=4, per_file=3, slot_bytes=4096)
    for durable, slots in states(ring, 3 * disks * ring.slots + 5):
        found = judge(ring, slots)
        assert found.highest in {durable, durable + 1}
        assert (found.through, found.missing, found.torn) == (found.highest, (), 0), (durable, slots)


@pytest.mark.parametrize("disks", [1, 2, 3])
def test_a_record_that_is_lost_torn_or_an_older_one_is_noticed_wherever_it_lies(disks: int) -> None:
    ring = Ring(disks, files=4, per_file=3, slot_bytes=4096)
    whole = disks * ring.slots
    for durable, slots in states(ring, 2 * whole + 5):
        highest = judge(ring, slots).highest
        for place, slot in slots.items():
            # The last is nobody's loss: the one before it is then the last.
            if not slot.number or slot.number == highest or ring.excused(slot.number, highest):
                continue
            for instead, torn in ((Slot(0), 0), (Slot(None), 1), (Slot(max(0, slot.number - whole)), 0)):
                found = judge(ring, {**slots, place: instead})
                assert found.through == slot.number - 1, (durable, place, instead)
                assert found.missing == (slot.number,)
                assert found.torn == torn


def test_few_records_are_excused() -> None:
    """Else a loss could hide: only those of one file of each disk, and only if it is made anew."""
    ring = Ring(2, files=4, per_file=3, slot_bytes=4096)
    for highest in range(3 * ring.slots, 6 * ring.slots):
        there = range(highest - 2 * ring.slots + 1, highest + 1)
        excused = [number for number in there if ring.excused(number, highest)]
        assert len(excused) <= 2 * ring.per_file
        assert all(ring.place(number)[1] % 2 == 1 or number == there[0] for number in excused)


def test_disks_of_two_instants_are_noticed() -> None:
    ring = Ring(2, files=4, per_file=3, slot_bytes=4096)
    seen = [slots for _, slots in states(ring, 3 * 2 * ring.slots)]
    for earlier in range(0, len(seen), 7):
        for later in range(earlier + 12, len(seen), 11):
            for first in (0, 1):
                mixed = {place: slot for place, slot in seen[earlier].items() if place[0] == first}
                mixed |= {place: slot for place, slot in seen[later].items() if place[0] != first}
                found = judge(ring, mixed)
                assert found.through < found.highest, (earlier, later, first)
