"""What stands in front of a share must not take its large calls apart."""

from __future__ import annotations

import importlib
import pkgutil
from concurrent.futures import ThreadPoolExecutor

import pytest

import replicad
from replicad.storage.decorated import DecoratedFile, DecoratedShare
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import MeteredShare
from replicad.storage.port import OpenMode, ShareFile
from replicad.storage.room import RoomTellingShare


def _decorators() -> list[type[DecoratedFile]]:
    """All of the program's own."""
    for module in pkgutil.walk_packages(replicad.__path__, "replicad."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [one for one in DecoratedFile.__subclasses__() if one.__module__.startswith("replicad.")]


def test_whoever_cares_about_single_calls_has_an_answer_for_large_ones() -> None:
    found = _decorators()
    assert len(found) >= 4
    for decorator in found:
        for single, large in (("write", "write_pieces"), ("read_into", "read_and")):
            assert single not in vars(decorator) or large in vars(decorator), (decorator, large)


@pytest.mark.parametrize("in_front", [DecoratedShare, RoomTellingShare])
async def test_many_pieces_and_a_use_of_what_was_read_stay_one_call(in_front: type[DecoratedShare]) -> None:
    metered = MeteredShare(MemoryShare("nas"))
    share = in_front(metered)
    with ThreadPoolExecutor(1) as executor:
        async with await share.open("디스크", OpenMode.CREATE) as file:
            await file.write_pieces([(b"12", 0), (b"345", 5)])
            assert await file.read_and(bytearray(9), 1, bytes, executor) == b"2" + bytes(3) + b"345"
    calls = metered.meter.calls
    assert (calls["write_pieces"], calls["write"], calls["read_and"], calls["read_into"]) == (1, 0, 1, 0)
    assert (metered.meter.written_bytes, metered.meter.read_bytes) == (5, 7)


async def test_what_cares_about_single_calls_only_sees_each_piece_and_each_read() -> None:
    class Listening(DecoratedFile):
        def __init__(self, inner: ShareFile) -> None:
            super().__init__(inner)
            self.heard: list[tuple[str, int]] = []

        async def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
            self.heard.append(("read", offset))
            return await self.inner.read_into(buffer, offset)

        async def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
            self.heard.append(("write", offset))
            await self.inner.write(data, offset)

    with ThreadPoolExecutor(1) as executor:
        async with Listening(await MemoryShare("nas").open("디스크", OpenMode.CREATE)) as file:
            await file.write_pieces([(b"12", 0), (b"345", 5)])
            assert await file.read_and(bytearray(3), 5, bytes, executor) == b"345"
            assert file.heard == [("write", 0), ("write", 5), ("read", 5)]
