"""The disks of the machines whose work is disturbed (tests/support/crash_points.py), and damage of files."""

from __future__ import annotations

from random import Random

from replicad.storage.port import OpenMode, Share
from tests.support.world import CHUNK

ONE, TWO, THREE = "가 disk.vhd", "sub/나.vhd", "다 🆕.vhd"


def some_bytes(chunks: float, seed: int = 1) -> bytes:
    """So many chunks that no zeros are in."""
    return Random(seed).randbytes(int(chunks * CHUNK))


def changed(data: bytes, *chunks: int, seed: int = 0) -> bytes:
    """The data with other bytes in these chunks."""
    result = bytearray(data)
    for chunk in chunks:
        start, end = chunk * CHUNK, min((chunk + 1) * CHUNK, len(data))
        result[start:end] = Random(chunk + 1000 * seed).randbytes(end - start)
    return bytes(result)


async def damage(share: Share, path: str, offset: int) -> None:
    """Turn a bit over, for ever."""
    async with await share.open(path, OpenMode.WRITE) as file:
        byte = bytearray(1)
        await file.read_into(byte, offset)
        await file.write(bytes([byte[0] ^ 1]), offset)
        await file.flush()
