"""replicad's data path by itself: the storage port and hashing, without cycles, manifests and undo logs.

    python -m benchmarks.data_path through SOURCE TARGET NAME      read, hash each chunk, write
    python -m benchmarks.data_path by-server SOURCE TARGET NAME    the server copies
    python -m benchmarks.data_path scan SOURCE NAME                read and hash, as a cycle does

SOURCE and TARGET are addresses of directories, as in the configuration that REPLICAD_CONFIG names. The shares, their
connections and the threads for hashing are those that the composition root makes. Prints as JSON what it took once the
program ran and was signed in, as a service is: `seconds` and `cpu_s`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from replicad.model.address import parse_address
from replicad.model.progress import nobody
from replicad.replica.hashing import hash_chunks
from replicad.service.compose import Shares
from replicad.service.surroundings import surroundings
from replicad.settings.load import load
from replicad.storage.copying import copy_ranges
from replicad.storage.port import CopyRange, OpenMode, ShareFile
from replicad.workflows.context import Context
from replicad.workflows.scan import Block, Gap, Hashing, scan

_CHUNK_BYTES = 64 << 10
_SEED = 0x5EED
_BLOCK_BYTES = 8 << 20
_BLOCKS_AT_ONCE = 3


async def main(verb: str, *arguments: str) -> None:
    """Do it, and say what it took."""
    settings = load(Path(os.environ["REPLICAD_CONFIG"]), os.environ)
    async with Shares(settings) as shares, surroundings(None, nobody) as ctx:
        *addresses, name = arguments
        places = [await shares.open(parse_address(address)) for address in addresses]
        for place in places:
            await place.stat("")  # connects and signs in
        began_s, cpu_before_s = time.monotonic(), time.process_time()
        if verb == "scan":
            async with await places[0].open(name, OpenMode.HOLD) as file:
                await _scan(file, ctx)
        else:
            async with (
                await places[0].open(name, OpenMode.READ) as file,
                await places[1].open(name, OpenMode.CREATE) as copy,
            ):
                await {"through": _through, "by-server": _by_server}[verb](file, copy, ctx)
        took = {"seconds": time.monotonic() - began_s, "cpu_s": time.process_time() - cpu_before_s}
    print(json.dumps(took))


async def _through(file: ShareFile, copy: ShareFile, ctx: Context) -> None:
    """Several blocks are under way at a time, each one read, hashed and written."""
    loop = asyncio.get_running_loop()
    size_bytes = (await file.identity()).size_bytes

    offsets_bytes = iter(range(0, size_bytes, _BLOCK_BYTES))

    async def carry() -> None:
        buffer = memoryview(bytearray(_BLOCK_BYTES))
        for offset_bytes in offsets_bytes:
            view = buffer[: size_bytes - offset_bytes]
            if await file.read_into(view, offset_bytes) != len(view):
                raise RuntimeError(f"{file.path} became shorter")
            await loop.run_in_executor(ctx.hashing, hash_chunks, view, _CHUNK_BYTES, _SEED)
            await copy.write(view, offset_bytes)

    async with asyncio.TaskGroup() as group:
        for _ in range(_BLOCKS_AT_ONCE):
            group.create_task(carry())
    await copy.flush()


async def _by_server(file: ShareFile, copy: ShareFile, ctx: Context) -> None:
    size_bytes = (await file.identity()).size_bytes
    if not await copy_ranges(file, copy, [CopyRange(0, 0, size_bytes)]):
        raise RuntimeError("the server did not copy")
    await copy.flush()


async def _scan(file: ShareFile, ctx: Context) -> None:
    size_bytes = (await file.identity()).size_bytes
    extents = await file.allocated_extents()
    await scan(file, extents, size_bytes, Hashing(ctx.hashing, _CHUNK_BYTES, _SEED), _ignore)


async def _ignore(piece: Block | Gap) -> None:
    """Nothing is made of the hashes here."""


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
