"""What a metered share counts, and what it leaves as it is."""

from __future__ import annotations

import pytest

from replicad.model.errors import AccessDeniedError
from replicad.storage.copying import copy_ranges
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import Meter, MeteredShare
from replicad.storage.port import CopyRange, OpenMode, Share


async def test_bytes_are_counted_by_the_way_they_went() -> None:
    meter = Meter()
    share: Share = MeteredShare(MemoryShare(), meter)
    async with await share.open("a", OpenMode.CREATE) as a, await share.open("b", OpenMode.CREATE) as b:
        await a.write(b"0123456789", 0)
        assert await a.read_into(bytearray(100), 4) == 6
        assert await copy_ranges(a, b, [CopyRange(0, 0, 3), CopyRange(5, 5, 2)])
        await b.zero(0, 4)
    assert (meter.read_bytes, meter.written_bytes, meter.copied_bytes, meter.zeroed_bytes) == (6, 10, 5, 4)
    assert meter.calls == {"open": 2, "write": 1, "read_into": 1, "copy_from": 1, "zero": 1, "close": 2}


async def test_what_failed_is_a_call_without_bytes() -> None:
    share = MeteredShare(MemoryShare())
    await (await share.open("a", OpenMode.CREATE)).close()
    async with await share.open("a", OpenMode.READ) as file:
        with pytest.raises(AccessDeniedError):
            await file.write(b"x", 0)
    assert share.meter.written_bytes == 0
    assert share.meter.calls["write"] == 1


async def test_a_copy_into_a_plain_file_from_a_metered_one_is_done_by_the_server() -> None:
    plain = MemoryShare()
    metered = MeteredShare(plain.view())
    async with await metered.open("a", OpenMode.CREATE) as a, await plain.open("b", OpenMode.CREATE) as b:
        await a.write(b"0123456789", 0)
        assert await copy_ranges(a, b, [CopyRange(0, 0, 10)])
