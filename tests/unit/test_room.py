"""What a share that is full says of the room that is missing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from replicad.model.errors import OutOfSpaceError, UnreachableError
from replicad.storage.memory import MemoryShare
from replicad.storage.port import CopyRange, OpenMode, ShareFile
from replicad.storage.room import RoomTellingShare
from replicad.storage.sparse import PAGE_BYTES
from tests.support.files import put

PAGE = PAGE_BYTES


async def _write(file: ShareFile, source: ShareFile) -> None:
    await file.write(bytes([1]) * 5 * PAGE, 0)


async def _copy(file: ShareFile, source: ShareFile) -> None:
    await file.copy_from(source, [CopyRange(0, 0, 2 * PAGE), CopyRange(2 * PAGE, 2 * PAGE, 3 * PAGE)])


@pytest.mark.parametrize("call", [_write, _copy], ids=["write", "copy"])
async def test_a_full_share_says_what_was_to_be_written_and_what_is_free(
    call: Callable[[ShareFile, ShareFile], Awaitable[None]],
) -> None:
    inner = MemoryShare(capacity_bytes=8 * PAGE)
    share = RoomTellingShare(inner)
    await put(inner, "원본", bytes([2]) * 5 * PAGE)
    async with await share.open("원본", OpenMode.READ) as source, await share.open("a", OpenMode.CREATE) as file:
        with pytest.raises(OutOfSpaceError, match=rf"is left: {5 * PAGE} bytes more were to be written, and") as caught:
            await call(file, source)
    free_bytes = int(caught.value.answer.split(", and ")[1].split()[0])
    assert caught.value.missing_bytes == 5 * PAGE - free_bytes > 0
    assert caught.value.hint == "Free some space."


async def test_a_share_that_can_not_be_asked_says_what_is_known() -> None:
    class Silent(MemoryShare):
        async def free_bytes(self) -> int:
            raise UnreachableError("ask", "nas", "it is gone")

    async with await RoomTellingShare(Silent(capacity_bytes=PAGE)).open("a", OpenMode.CREATE) as file:
        with pytest.raises(OutOfSpaceError) as caught:
            await file.write(bytes([1]) * 2 * PAGE, 0)
    assert (caught.value.answer, caught.value.missing_bytes) == ("no space is left", 0)


async def test_what_has_room_is_written() -> None:
    share = RoomTellingShare(MemoryShare(capacity_bytes=4 * PAGE))
    async with await share.open("a", OpenMode.CREATE) as file:
        await file.write(b"1", 0)
        await file.zero(0, 1)
        await file.copy_from(file, [CopyRange(0, PAGE, 1)])
        assert (await file.identity()).size_bytes == PAGE + 1
