"""Whatever the bytes: a plan that leaves a sound file with what was asked for, or a refusal, in bounded memory."""

from __future__ import annotations

import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.model.errors import UnsupportedError
from replicad.vhdx import (
    DamagedVhdxError,
    LogState,
    NotVhdx,
    ParentPaths,
    Stages,
    Step,
    VhdxFacts,
    Write,
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
    Block,
    Data,
    Image,
    Spec,
    Zeros,
    build,
    drive,
    log_entry,
    put_in_log,
)
from tests.support.vhdx_changing import carry_out

GUID = uuid.UUID("99999999-8888-7777-6666-555555555555")
PARENT = {"parent_linkage": "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}", "relative_path": ".\\부모.vhdx"}
PATHS = ParentPaths("..\\새 자리\\부모 💽.vhdx", "\\\\?\\UNC\\nas2\\v\\부모 💽.vhdx")
FILE_WRITE, LOG = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


def _with_log() -> Image:
    image = build(Spec(parent=PARENT, log_guid=GUID, blocks={0: Block(PARTIALLY_PRESENT), 3: Block()}))
    page = Data(image.places["bat"], image.get(image.places["bat"], PAGE))
    at = put_in_log(image, 0, log_entry(GUID, 1, 0, [page, Zeros(image.size, PAGE)], flushed=0, last=image.size + MIB))
    put_in_log(image, at, log_entry(GUID, 2, 0, [page], flushed=0, last=image.size + MIB))
    return image


IMAGES = (build(Spec(parent=PARENT, blocks={0: Block(PARTIALLY_PRESENT), 7: Block()})), _with_log())
_PLACES = [
    0,
    *HEADERS,
    *REGION_TABLES,
    LOG_AT,
    LOG_AT + 2 * PAGE,
    2 * MIB,
    2 * MIB + 32 + 5 * 32,
    2 * MIB + 65536,
    3 * MIB,
]
_OFFSETS = st.builds(int.__add__, st.sampled_from(_PLACES), st.integers(0, 200))
_BYTES = st.one_of(
    st.binary(min_size=1, max_size=16), st.sampled_from([bytes(8), b"\xff" * 4, MIB.to_bytes(8, "little")])
)


@given(st.sampled_from(range(2)), st.lists(st.tuples(_OFFSETS, _BYTES), min_size=1, max_size=4))
@settings(max_examples=200, deadline=10_000)
def test_any_bytes_get_a_plan_or_a_refusal(which: int, changes: list[tuple[int, bytes]]) -> None:
    image = IMAGES[which].copy()
    for offset, data in changes:
        image.put(offset, data)
    image.seal_all()  # checksums that fit let the changes through to what lies behind them
    image.seal(LOG_AT, 2 * PAGE)
    image.seal(LOG_AT + 2 * PAGE, 2 * PAGE)
    before = _facts(image)
    replayed = _planned(image, replay_log(image.size, file_write_guid=FILE_WRITE))
    rewritten = _planned(image, rewrite_parent_locator(image.size, PATHS, file_write_guid=FILE_WRITE, log_guid=LOG))
    if before is None:
        return
    for plan in (replayed, rewritten):
        if plan:
            after = _facts(carry_out(image, plan))
            assert after is not None
            assert after.log.state is LogState.CLEAN
            assert (after.bat, after.regions, after.disk_id) == (before.bat, before.regions, before.disk_id)
    if rewritten:
        after = _facts(carry_out(image, rewritten))
        assert after is not None
        assert after.parent_paths == (PATHS.relative_path, PATHS.absolute_win32_path)


def _facts(image: Image) -> VhdxFacts | None:
    try:
        facts = drive(parse(image.size), image)
    except (DamagedVhdxError, UnsupportedError):
        return None
    return None if isinstance(facts, NotVhdx) else facts


def _planned(image: Image, step: Step[Stages]) -> Stages:
    """The plan, () if it was refused as promised; no more data in it than the logs and the metadata have."""
    try:
        stages = drive(step, image)
    except (DamagedVhdxError, UnsupportedError):
        return ()
    data = [change.data for stage in stages for change in stage if isinstance(change, Write)]
    assert sum(map(len, data)) < 4 * MIB
    return stages


def test_the_images_are_sound_and_planned_for_before_they_are_changed() -> None:
    for image in IMAGES:
        assert _facts(image) is not None
        assert _planned(image, rewrite_parent_locator(image.size, PATHS, file_write_guid=FILE_WRITE, log_guid=LOG))
