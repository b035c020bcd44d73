"""A small replica with something of everything that a replica can hold, and bytes of it turned over."""

from __future__ import annotations

from random import Random

from replicad.replica.layout import Layout
from replicad.storage.memory import MemoryShare
from replicad.storage.memory_tree import FileNode
from replicad.storage.port import OpenMode, Share
from tests.support.world import CHUNK, VM, World

LAYOUT = Layout(VM)
DISK = "웹 디스크 💾.vhd"
CONFIG = "sub/설정.xml"
GONE = "gone.vhd"


async def fill(world: World) -> None:
    """Four points: a disk that grows over zeros and is cut again, a config file below a directory, one that goes away,
    and one that is there from the third point on and changes no more."""
    random = Random(3)
    first = random.randbytes(700) + bytes(CHUNK - 700) + random.randbytes(100)
    await world.put(DISK, first)
    await world.put(CONFIG, b"<vm>1</vm>")
    await world.put(GONE, random.randbytes(900))
    await world.sync()
    await world.put(DISK, random.randbytes(10) + first[10:] + bytes(2 * CHUNK) + random.randbytes(50))
    await world.put(GONE, random.randbytes(300))
    await world.sync()
    await world.put(DISK, world.disks[DISK][:600])
    await world.put(CONFIG, b"<vm>22</vm>")
    await world.put("new 🆕.vhd", random.randbytes(400))
    await world.drop(GONE)
    await world.sync()
    await world.put(DISK, random.randbytes(20) + world.disks[DISK][20:] + bytes(CHUNK))
    await world.sync()


async def flip(share: Share, path: str, offset: int, bits: int = 1) -> None:
    """Turn bits of one byte of a file over."""
    async with await share.open(path, OpenMode.WRITE) as file:
        buffer = bytearray(1)
        assert await file.read_into(buffer, offset) == 1
        await file.write(bytes([buffer[0] ^ bits]), offset)


def flip_at_once(share: Share, path: str, offset: int, bits: int) -> None:
    """The same behind the back of a share in memory, which takes no time."""
    assert isinstance(share, MemoryShare)
    node = share.tree.find(path)
    assert isinstance(node, FileNode)
    buffer = bytearray(1)
    assert node.content.read_into(memoryview(buffer), offset) == 1
    buffer[0] ^= bits
    node.content.write(memoryview(buffer), offset)
