"""Whole files on a share, for tests."""

from __future__ import annotations

import os

from replicad.storage.port import LockHolder, OpenMode, Share, ShareFile
from replicad.storage.processes import start_of_process

HOLDER = LockHolder(
    # This process, on an invented machine: shares take the lock of a dead process of the same machine over.
    "nas-가", "machine-1", "boot-1", os.getpid(), start_of_process(os.getpid()) or "", "2026-01-31T12:00:00Z",
    extra={"vm": "웹 01"},
)  # fmt: skip


def pattern(length: int, seed: int = 1) -> bytes:
    """Bytes that differ at every offset between any two seeds from 0 to 250, and mostly between neighbours."""
    block = bytes((seed + i * 31 + i // 251) % 251 for i in range(min(length, 64 * 1024)))
    return (block * (length // max(1, len(block)) + 1))[:length]


async def put(share: Share, path: str, data: bytes) -> None:
    """Make a new file."""
    async with await share.open(path, OpenMode.CREATE) as file:
        await file.write(data, 0)
        await file.flush()


async def read(file: ShareFile) -> bytes:
    """The whole content of an open file."""
    size = (await file.identity()).size_bytes
    buffer = bytearray(size + 1)
    count = await file.read_into(buffer, 0)
    assert count == size
    return bytes(buffer[:count])


async def get(share: Share, path: str) -> bytes:
    """The whole content of a file."""
    async with await share.open(path, OpenMode.READ) as file:
        return await read(file)


async def names(share: Share, path: str = "") -> list[str]:
    """The names in a directory."""
    return [entry.name for entry in await share.list(path)]
