"""A child is told of its parent's new place: whatever dies meanwhile, its disk is sound, and it can be done again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from replicad.model.moves import MovedFile, MoveRecord
from replicad.model.points import FileKind
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode, Share
from replicad.vhdx import VhdxFacts
from replicad.workflows.inspect import inspect
from replicad.workflows.move_chains import rewrite_locator
from tests.support.faulty import Fault, FaultyShare, When, crashes
from tests.support.vhdx_builder import MIB, Image
from tests.support.vhdx_chains import Chain, build_chain
from tests.support.vhdx_oracles import reads_as

_NAMES = ("기본/부모.vhdx", "첫째.avhdx", "둘째 💽.avhdx")
_RELATIVE, _ABSOLUTE = r".\첫째.avhdx", r"\\nas3\빠른\VM\disks\첫째.avhdx"
_KINDS = ("relative_path", "absolute_win32_path", "volume_path")
RECORD = MoveRecord(
    "0123456789abcdef0123456789abcdef", "웹", "/vms/웹", ("/srv/새 곳", r"\\nas3\빠른\VM"),
    datetime(2026, 1, 1, tzinfo=UTC),
    files=tuple(
        MovedFile(
            number, name, FileKind.DISK, 1 if number else 0, f"disks/{name}", 0,
            parent=_NAMES[number - 1] if number else None,
        )
        for number, name in enumerate(_NAMES)
    ),
)  # fmt: skip
CHILD = RECORD.files[2]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    directory = tmp_path_factory.mktemp("체인")
    return build_chain(Random(7), [directory / name for name in _NAMES], range(3), 4 * MIB, run_sectors=3)


def _ids() -> Callable[[], str]:
    random = Random(11)
    return lambda: UUID(int=random.getrandbits(128), version=4).hex


async def _put(share: MemoryShare, image: Image) -> None:
    async with await share.open("2", OpenMode.CREATE) as file:
        await file.set_size(image.size)
        for number, page in image.pages.items():
            at = number * len(page)
            await file.write(bytes(page)[: image.size - at], at)
        await file.flush()
    await share.flush_directory("")


async def _facts(share: Share) -> VhdxFacts:
    async with await share.open("2", OpenMode.READ) as file:
        found = (await inspect(file)).facts
    assert isinstance(found, VhdxFacts)
    return found


async def _rewrite(share: Share) -> None:
    async with await share.open("2", OpenMode.WRITE) as file:
        await rewrite_locator(file, RECORD, CHILD, {one.path: one for one in RECORD.files}, _ids())


async def _reads_as_before(share: Share, chain: Chain, child: Path) -> None:
    async with await share.open("2", OpenMode.READ) as file:
        data = bytearray((await file.identity()).size_bytes)
        await file.read_into(data, 0)
    child.write_bytes(data)
    files = [layer.path for layer in chain.layers]
    # It is told the parent that it has: that of its new place is not here.
    reads_as(chain, [*files[:-1], child], with_dissect=False)


def _kept(facts: VhdxFacts) -> object:
    header = facts.header
    return (
        facts.kind, facts.virtual_size_bytes, facts.block_size_bytes, facts.logical_sector_bytes, facts.disk_id,
        facts.regions, facts.bat, header.data_write_guid,
        {key: value for key, value in facts.parent_locator if key not in _KINDS},
    )  # fmt: skip


async def _changes(chain: Chain) -> int:
    """How many calls there are that change something, when all goes well."""
    share = MemoryShare()
    await _put(share, chain.top.image)
    faulty = FaultyShare(share.view())
    await _rewrite(faulty)
    new = dict((await _facts(share)).parent_locator)
    assert new["absolute_win32_path"] == _ABSOLUTE
    assert new["relative_path"] == _RELATIVE
    return len(faulty.log)


@pytest.mark.parametrize("when", list(When))
async def test_after_the_death_of_the_process_at_any_call_the_disk_is_sound_and_it_is_done_again(
    chain: Chain, when: When, tmp_path: Path
) -> None:
    seen: set[str] = set()
    for number in range(1, await _changes(chain) + 1):
        share = MemoryShare()
        await _put(share, chain.top.image)
        before = await _facts(share)
        assert await crashes(_rewrite(FaultyShare(share.view(), {number: Fault(when)})))
        await _is_sound_and_done_again(share.view(), before, seen)
        if number % 5 == 0:
            await _reads_as_before(share.view(), chain, tmp_path / "child.avhdx")
    assert seen == {"old", "new"}


@pytest.mark.parametrize("seed", range(4))
async def test_after_a_power_failure_of_the_server_at_any_call_the_disk_is_sound_and_it_is_done_again(
    chain: Chain, seed: int, tmp_path: Path
) -> None:
    seen: set[str] = set()
    for number in range(1, await _changes(chain) + 1):
        share = MemoryShare(volatile=True)
        await _put(share, chain.top.image)
        before = await _facts(share)
        assert await crashes(_rewrite(FaultyShare(share.view(), {number: Fault(When.TORN)})))
        share.crash(Random(seed * 1_000 + number) if seed else None)
        await _is_sound_and_done_again(share.view(), before, seen)
        if number % 5 == 0:
            await _reads_as_before(share.view(), chain, tmp_path / "child.avhdx")
    assert seen == {"old", "new"}


async def _is_sound_and_done_again(share: Share, before: VhdxFacts, seen: set[str]) -> None:
    torn = await _facts(share)
    assert _kept(torn) == _kept(before)
    is_old = torn.parent_locator == before.parent_locator
    seen.add("old" if is_old else "new")
    await _rewrite(share)
    after = await _facts(share)
    assert _kept(after) == _kept(before)
    assert dict(after.parent_locator)["relative_path"] == _RELATIVE
    assert dict(after.parent_locator)["absolute_win32_path"] == _ABSOLUTE
    if not is_old:
        assert dict(torn.parent_locator) == dict(after.parent_locator)
