"""What is done with a disk whose switch was cut short."""

from __future__ import annotations

from itertools import product

import pytest

from replicad.model.moves import Course, Looked, MovePhase, Side, course_of, courses_of

_STATES = (None, False, True)
ALL = [Looked(*found) for found in product(Side, _STATES, _STATES)]


@pytest.mark.parametrize("looked", ALL, ids=str)
def test_the_copy_that_a_machine_has_written_since_is_never_given_up(looked: Looked) -> None:
    course = course_of(looked)
    if looked.source_changed and looked.destination_changed:
        assert course is Course.ASK
    elif looked.source_changed:
        assert course is not Course.FORWARD
    elif looked.destination_changed:
        assert course is not Course.BACK


@pytest.mark.parametrize("looked", ALL, ids=str)
def test_the_copy_that_is_in_use_is_never_given_up(looked: Looked) -> None:
    course = course_of(looked)
    assert looked.side is not Side.SOURCE or course is not Course.FORWARD
    assert looked.side is not Side.DESTINATION or course is not Course.BACK


@pytest.mark.parametrize("looked", ALL, ids=str)
def test_a_copy_that_is_not_there_is_not_chosen(looked: Looked) -> None:
    if looked.side is Side.NOBODY:
        course = course_of(looked)
        assert looked.destination_changed is not None or course is not Course.FORWARD
        assert looked.source_changed is not None or course is not Course.BACK


def test_of_two_copies_that_nobody_touched_the_verified_one_is_taken() -> None:
    assert course_of(Looked(Side.NOBODY, source_changed=False, destination_changed=False)) is Course.FORWARD


@pytest.mark.parametrize("phase", MovePhase)
def test_a_move_is_cancelled_before_the_switch_alone(phase: MovePhase) -> None:
    order = list(MovePhase)
    assert phase.can_be_cancelled == (order.index(phase) < order.index(MovePhase.SWITCHING))


def test_disks_that_nobody_wrote_since_stay_with_those_that_went_back() -> None:
    for first, second in product(ALL, ALL):
        courses = courses_of({"가.vhdx": first, "나.vhdx": second})
        for path, looked in (("가.vhdx", first), ("나.vhdx", second)):
            untouched = looked == Looked(Side.NOBODY, source_changed=False, destination_changed=False)
            if untouched and Course.BACK in courses.values():
                assert courses[path] is Course.BACK
            elif not (courses[path] is Course.BACK and looked.side is Side.NOBODY):
                assert courses[path] is course_of(looked)
            assert looked.side is not Side.DESTINATION or courses[path] is not Course.BACK
            assert not looked.destination_changed or courses[path] is not Course.BACK
