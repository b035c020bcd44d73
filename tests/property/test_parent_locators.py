"""Rewriting a parent locator: wherever it is cut short, the file is the old one or the new one (MS-VHDX §2.3)."""

from __future__ import annotations

import struct
import uuid
from dataclasses import replace
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.model.errors import InvalidNameError, UnsupportedError
from replicad.vhdx import (
    DamagedVhdxError,
    LogState,
    ParentPaths,
    Stages,
    VhdxFacts,
    parse,
    replay_log,
    rewrite_parent_locator,
)
from tests.support.vhdx_builder import (
    HEADERS,
    LOG_AT,
    MIB,
    PAGE,
    PARTIALLY_PRESENT,
    REGION_TABLES,
    ZERO,
    Block,
    Data,
    Image,
    Spec,
    Zeros,
    build,
    drive,
    locator,
    log_entry,
    put_in_log,
)
from tests.support.vhdx_changing import all_cuts, carry_out, cut_short, pieces

PENDING = uuid.UUID("99999999-8888-7777-6666-555555555555")
FILE_WRITE, LOG = "f0f0f0f0-1111-2222-3333-444444444444", "abababab-1111-2222-3333-444444444444"
AGAIN, LOG_AGAIN = "0f0f0f0f-1111-2222-3333-444444444444", "cdcdcdcd-1111-2222-3333-444444444444"
OLD = {
    "absolute_win32_path": "D:\\가상 머신\\부모.vhdx",
    "parent_linkage": "{AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee}",
    "relative_path": ".\\부모.vhdx",
    "parent_linkage2": "{00000000-0000-0000-0000-000000000000}",
    "volume_path": "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\부모.vhdx",
    "x_of_somebody": "kept 🗝",
}
SHORT = ParentPaths(".\\p.vhdx", "E:\\p.vhdx")
LONG = ParentPaths(
    "..\\" + "아주 긴 이름 💽\\" * 300 + "p.vhdx", "\\\\?\\UNC\\nas3\\fast\\" + "x" * 9000, "\\\\?\\Volume{x}\\y"
)


def child(**changes: object) -> Image:
    blocks = {0: Block(PARTIALLY_PRESENT, b"a" * 512, (0, 5)), 1: Block(data=b"b"), 7: Block(ZERO)}
    return build(Spec(**{"parent": OLD, "blocks": blocks, **changes}))  # type: ignore[arg-type]  # forwarded as they are


@cache
def images() -> tuple[Image, ...]:
    """Files in every state in which one may be found, each with a parent."""
    crowded = child()  # an item right behind the locator: a longer one has no room there
    at, end = crowded.places["metadata"], crowded.places["parent locator"] + 1024
    crowded.put(
        at + 32 + 6 * 32, uuid.UUID(int=77).bytes_le + b"".join(n.to_bytes(4, "little") for n in (end - at, 500, 1))
    )
    crowded.put(end, b"\xee" * 500)
    crowded.put(at + 10, b"\7")
    pending = child(log_guid=PENDING)
    guid, bat, size = PENDING, pending.places["bat"], pending.size
    page = pending.get(bat, PAGE)
    start = MIB - 2 * PAGE  # round the end of the log
    position = put_in_log(
        pending,
        start,
        log_entry(guid, 5, start, [Data(bat, page[:56] + bytes(8) + page[64:])], flushed=size, last=size),
    )
    locator_page = pending.places["parent locator"] // PAGE * PAGE
    text = pending.get(locator_page, PAGE).replace("부모".encode("utf-16-le"), "이름".encode("utf-16-le"))
    last: list[Data | Zeros] = [Zeros(size, 2 * PAGE), Data(locator_page, text), Data(size + MIB, b"\x77" * PAGE)]
    put_in_log(pending, position, log_entry(guid, 6, start, last, flushed=size, last=size + 2 * MIB))
    incomplete = child(log_guid=PENDING)
    one_header = child()
    one_header.flip(HEADERS[1] + 100)
    twins = child()
    twins.put(HEADERS[0], twins.get(HEADERS[1], PAGE))
    odd_size = child()
    odd_size.size += 512
    garbage = child()  # of an earlier log, and in the free room of the metadata
    put_in_log(garbage, 0, log_entry(uuid.UUID(LOG_AGAIN), 1, 0, [Data(bat, page)] * 9, flushed=0, last=0))
    garbage.put(garbage.places["parent locator"] + 3000, Random(5).randbytes(40_000))
    return child(), crowded, pending, incomplete, one_header, twins, odd_size, garbage


PENDING_IMAGE, INCOMPLETE_IMAGE = 2, 3
WHICH = st.sampled_from(range(8))


def facts_of(image: Image) -> VhdxFacts:
    facts = drive(parse(image.size), image)
    assert isinstance(facts, VhdxFacts)
    return facts


def plan(image: Image, paths: ParentPaths) -> Stages:
    return drive(rewrite_parent_locator(image.size, paths, file_write_guid=FILE_WRITE, log_guid=LOG), image)


def replay(image: Image) -> Image:
    return carry_out(image, drive(replay_log(image.size, file_write_guid=AGAIN), image))


def visible(facts: VhdxFacts) -> object:
    """Everything but the locator that must be as it was at every moment."""
    header = facts.header
    return (
        facts.creator, facts.kind, facts.virtual_size_bytes, facts.block_size_bytes, facts.logical_sector_bytes,
        facts.physical_sector_bytes, facts.disk_id, facts.regions, facts.bat, header.data_write_guid,
        header.log_offset_bytes, header.log_length_bytes,
    )  # fmt: skip


def expected(before: VhdxFacts, paths: ParentPaths) -> dict[str, str]:
    new = {
        "relative_path": paths.relative_path,
        "volume_path": paths.volume_path,
        "absolute_win32_path": paths.absolute_win32_path,
    }
    kept = {key: value for key, value in before.parent_locator if key not in new}
    return kept | {key: value for key, value in new.items() if value is not None}


@pytest.mark.parametrize("which", range(8))
@pytest.mark.parametrize("paths", [SHORT, LONG, ParentPaths(absolute_win32_path="\\\\?\\E:\\p.vhdx")])
def test_a_rewritten_file_differs_in_its_paths_and_in_nothing_else(which: int, paths: ParentPaths) -> None:
    image = images()[which]
    before, after_image = facts_of(image), carry_out(image, plan(image, paths))
    after = facts_of(after_image)
    assert dict(after.parent_locator) == expected(before, paths)
    assert visible(after) == visible(before)
    assert after.log.state is LogState.CLEAN
    assert after.warnings == ()
    assert after.header_copies_valid == (True, True)
    assert after.header.file_write_guid == FILE_WRITE
    assert after.header.sequence_number == before.header.sequence_number + (8 if before.needs_replay else 6)
    for offset, length in _elsewhere(image):
        assert after_image.get(offset, length) == replay(image).get(offset, length)
    metadata = after_image.get(after_image.places["metadata"], MIB)
    entry = after_image.places["parent locator entry"] + 16
    at, length, flags = struct.unpack("<III", after_image.get(entry, 12))
    assert metadata[at : at + length] == locator(dict(after.parent_locator))  # to the byte
    assert (at % 4, flags) == (0, 4)
    assert "가상 머신".encode("utf-16-le") not in metadata  # paths of the past are gone
    assert which != 1 or metadata.count(b"\xee" * 500) == 1  # and the neighbour stayed


def _elsewhere(image: Image) -> list[tuple[int, int]]:
    """What neither headers, log nor metadata take."""
    behind = image.places["metadata"] + MIB
    tables = [(offset, 64 * 1024) for offset in REGION_TABLES]
    return [(0, HEADERS[0]), *tables, (behind, replay(image).size - behind)]


@pytest.mark.parametrize("which", range(8))
def test_the_header_is_updated_first_and_every_stage_is_bound_to_one_place(which: int) -> None:
    image = images()[which]
    stages = plan(image, SHORT)
    places = [{_place(image, offset) for offset, _ in _writes(image, stage)} for stage in stages]
    rewriting = ["header"] * 2 + ["log"] + ["header"] * 2 + ["metadata"] + ["header"] * 2
    assert places[-8:] == [{place} for place in rewriting]
    assert len(stages) == (11 if which == PENDING_IMAGE else 8)
    assert [len(stage) for stage in stages if _place(image, _writes(image, stage)[0][0]) == "header"] == [1] * (
        len(stages) - (3 if which == PENDING_IMAGE else 2)
    )
    slots = [_writes(image, stage)[0][0] for stage, place in zip(stages, places, strict=True) if place == {"header"}]
    assert all(one != other for one, other in pairwise(slots))


def _writes(image: Image, stage: object) -> list[tuple[int, int]]:
    return [(change.offset_bytes, 0) for change in stage if hasattr(change, "offset_bytes")]  # type: ignore[attr-defined]  # a stage


def _place(image: Image, offset: int) -> str:
    if offset < MIB:
        return "header"
    if offset < LOG_AT + MIB:
        return "log"
    return "metadata" if offset < image.places["metadata"] + MIB else "elsewhere"


@pytest.mark.parametrize("which", range(8))
def test_cut_short_at_any_sector_the_file_is_the_old_or_the_new_one(which: int) -> None:
    image = images()[which]
    before = facts_of(image)
    stages = plan(image, SHORT)
    old, new = dict(before.parent_locator), expected(before, SHORT)
    decided = len(stages) - 5  # the header that names the log: from here on only the new one
    for done, torn in all_cuts(image, stages, Random(which)):
        _is_old_or_new(torn, before, old, new, None if done == decided else done > decided)


@given(WHICH, st.integers(0, 11), st.randoms(use_true_random=False), st.sampled_from([SHORT, LONG]))
@settings(max_examples=60, deadline=20_000)
def test_any_sectors_of_a_stage_may_get_lost(which: int, done: int, random: Random, paths: ParentPaths) -> None:
    image = images()[which]
    before = facts_of(image)
    stages = plan(image, paths)
    done = min(done, len(stages))
    units = len([*pieces(stages[done])]) if done < len(stages) else 0
    torn = cut_short(image, stages, done, [random.random() < 0.5 for _ in range(units)])
    decided = len(stages) - 5
    old, new = dict(before.parent_locator), expected(before, paths)
    _is_old_or_new(torn, before, old, new, None if done == decided else done > decided)


@pytest.mark.parametrize("which", [0, PENDING_IMAGE])
@pytest.mark.parametrize("lost", HEADERS)
def test_either_header_may_rot_once_both_were_updated(which: int, lost: int) -> None:
    image = images()[which]
    before = facts_of(image)
    stages = plan(image, SHORT)
    old, new = dict(before.parent_locator), expected(before, SHORT)
    decided = len(stages) - 5
    for done in range(2, len(stages) + 1):
        units = len([*pieces(stages[done])]) if done < len(stages) else 0
        torn = cut_short(image, stages, done, [unit % 3 != 1 for unit in range(units)])
        torn.flip(lost + 50)
        if done == len(stages) or {_place(image, offset) for offset, _ in _writes(image, stages[done])} != {"header"}:
            _is_old_or_new(torn, before, old, new, None if done == decided else done > decided)


def _is_old_or_new(
    image: Image, before: VhdxFacts, old: dict[str, str], new: dict[str, str], is_new: bool | None
) -> None:
    """To a reader who replays in memory; after the replay; and after the work was begun again from where it was."""
    facts = facts_of(image)
    assert visible(facts) == visible(before)
    assert dict(facts.parent_locator) in ([old, new] if is_new is None else [new if is_new else old])
    if facts.log.state is LogState.INCOMPLETE:  # §2.3.3 calls such a file corrupt: never but where it was so before
        assert before.log.state is LogState.INCOMPLETE
    replayed = replay(image)
    after = facts_of(replayed)
    assert after.log.state is LogState.CLEAN
    assert after.parent_locator == facts.parent_locator
    assert visible(after) == visible(before)
    paths = ParentPaths(*(new.get(key) for key in ("relative_path", "absolute_win32_path", "volume_path")))
    again = drive(rewrite_parent_locator(image.size, paths, file_write_guid=AGAIN, log_guid=LOG_AGAIN), image)
    assert bool(again) == (dict(facts.parent_locator) == old)
    assert dict(facts_of(carry_out(image, again)).parent_locator) == new


def test_a_replay_that_is_cut_short_and_begun_again_gets_done() -> None:
    image = images()[PENDING_IMAGE]
    before, whole = facts_of(image), replay(image)
    assert before.needs_replay
    stages = drive(replay_log(image.size, file_write_guid=FILE_WRITE), image)
    for done, torn in all_cuts(image, stages[:3] + stages[-2:], Random(1)):  # what it replays is the same each time
        del done
        facts = facts_of(torn)
        assert (visible(facts), facts.parent_locator) == (visible(before), before.parent_locator)
    for done in range(len(stages) + 1):
        random = Random(done)
        units = len([*pieces(stages[done])]) if done < len(stages) else 0
        torn = cut_short(image, stages, done, [random.random() < 0.5 for _ in range(units)])
        facts = facts_of(torn)
        assert (visible(facts), facts.parent_locator) == (visible(before), before.parent_locator)
        again = replay(torn)
        assert facts_of(again).log.state is LogState.CLEAN
        assert again.size == whole.size == image.size + 2 * MIB
        for start in range(MIB, whole.size, MIB):
            assert again.get(start, MIB) == whole.get(start, MIB)


def test_a_log_whose_first_entry_is_not_there_is_named_no_more() -> None:
    image = images()[INCOMPLETE_IMAGE]
    assert facts_of(image).log.state is LogState.INCOMPLETE
    after = facts_of(replay(image))
    assert after.log.state is LogState.CLEAN
    assert after.warnings == ()


def test_a_log_that_would_write_terabytes_is_refused() -> None:
    image = child(log_guid=PENDING)
    far = log_entry(PENDING, 1, 0, [Zeros(image.size, 1 << 45)], flushed=0, last=image.size + MIB)
    put_in_log(image, 0, far)
    with pytest.raises(DamagedVhdxError, match="its log would write to byte 35184"):
        replay(image)
    with pytest.raises(DamagedVhdxError, match="its log would write"):
        plan(image, SHORT)


def test_what_says_so_already_is_left_alone() -> None:
    image = child(log_guid=PENDING)
    paths = ParentPaths(OLD["relative_path"], OLD["absolute_win32_path"], OLD["volume_path"])
    assert plan(image, paths) == ()
    assert drive(replay_log(image.size, file_write_guid=AGAIN), child()) == ()


def test_keys_stay_in_their_order_and_the_linkage_as_it_is_written() -> None:
    image = carry_out(images()[0], plan(images()[0], SHORT))
    keys = [key for key, _ in facts_of(image).parent_locator]
    assert keys == ["absolute_win32_path", "parent_linkage", "relative_path", "parent_linkage2", "x_of_somebody"]
    assert dict(facts_of(image).parent_locator)["parent_linkage"] == OLD["parent_linkage"]


def test_children_know_a_rewritten_disk_by_the_same_guid_and_openers_by_another() -> None:
    before = facts_of(images()[0]).header
    after = facts_of(carry_out(images()[0], plan(images()[0], SHORT))).header
    assert after.data_write_guid == before.data_write_guid
    assert after.file_write_guid == FILE_WRITE != before.file_write_guid
    assert after == replace(before, sequence_number=after.sequence_number, file_write_guid=FILE_WRITE)


def test_an_item_that_outgrows_its_place_goes_where_room_is() -> None:
    image = images()[1]
    after = carry_out(image, plan(image, LONG))
    entry = image.places["parent locator entry"] + 16
    old, new = (int.from_bytes(i.get(entry, 4), "little") for i in (image, after))
    assert new > old
    short = carry_out(after, plan(after, SHORT))
    assert int.from_bytes(short.get(entry, 4), "little") == new  # which it fits into
    assert dict(facts_of(short).parent_locator)["relative_path"] == SHORT.relative_path


def test_a_region_without_room_is_said_to_be_full() -> None:
    image = child()
    at, end = image.places["metadata"], image.places["parent locator"] + 1024
    room = image.places["metadata"] + MIB - end
    entry = uuid.UUID(int=77).bytes_le + b"".join(n.to_bytes(4, "little") for n in (end - at, room, 1))
    image.put(at + 32 + 6 * 32, entry)
    image.put(at + 10, b"\7")
    with pytest.raises(UnsupportedError, match="has no room for"):
        plan(image, LONG)
    assert dict(facts_of(carry_out(image, plan(image, SHORT))).parent_locator)["relative_path"] == ".\\p.vhdx"


@pytest.mark.parametrize(
    "paths",
    [
        ParentPaths(""),
        ParentPaths("a\0b"),
        ParentPaths("\ud83d"),
        ParentPaths("x" * 32_768),
        ParentPaths("💽" * 16_384),
    ],
)
def test_paths_that_no_locator_can_hold_are_refused(paths: ParentPaths) -> None:
    with pytest.raises(InvalidNameError, match="cannot write the relative_path of the parent locator"):
        plan(images()[0], paths)


def test_the_longest_path_can_be_written() -> None:
    image = images()[0]
    paths = ParentPaths("x" * 32_767, "y" * 32_767, "z" * 32_767)
    assert dict(facts_of(carry_out(image, plan(image, paths))).parent_locator)["volume_path"] == "z" * 32_767


def test_what_has_no_parent_no_path_or_no_log_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="the disk is dynamic and has no parent"):
        plan(build(), SHORT)
    with pytest.raises(UnsupportedError, match="none of its paths is given"):
        plan(images()[0], ParentPaths())
    without = images()[0].copy()
    for offset in HEADERS:
        without.put(offset + 68, bytes(12))
        without.seal(offset, PAGE)
    with pytest.raises(UnsupportedError, match="its log has 0 bytes, and 16384 are needed"):
        plan(without, SHORT)


def test_a_damaged_file_is_refused_before_anything_is_planned() -> None:
    image = images()[0].copy()
    image.put(image.places["metadata"], b"nonsense")
    with pytest.raises(DamagedVhdxError, match="metadata table"):
        plan(image, SHORT)


@pytest.mark.parametrize("guid", ["", "{" + LOG + "}", LOG.upper(), LOG + "0"])
def test_a_guid_that_is_none_is_a_mistake_of_the_caller(guid: str) -> None:
    with pytest.raises(ValueError, match="is no GUID"):
        drive(rewrite_parent_locator(images()[0].size, SHORT, file_write_guid=FILE_WRITE, log_guid=guid), images()[0])
