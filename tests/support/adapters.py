"""The adapters that the contract of the storage port is tested against.

To add one, write a context manager that yields a `Factory` and add it to `ADAPTERS`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from replicad.settings.timetable import parse_timetable
from replicad.storage.limiter import Limiter, Throttle
from replicad.storage.local import LocalShare
from replicad.storage.memory import MemoryShare
from replicad.storage.metered import MeteredShare
from replicad.storage.port import Capabilities, Share
from replicad.storage.smb import lanes
from replicad.storage.throttled import ThrottledShare, Throttles
from tests.support.filesystems import KINDS, mounted
from tests.support.samba import ENCRYPTED, PLAIN, common_samba, fresh_directory, open_share

EVERYTHING = Capabilities(
    server_copy=True, sparse=True, zero=True, allocated_extents=True, hold=True, flush_directory=True
)


@dataclass(frozen=True, slots=True)
class Tree:
    """An empty tree, seen by two hosts (or by two sessions of one server), and what is promised of it."""

    share: Share
    other: Share
    capabilities: Capabilities = EVERYTHING


Factory = Callable[[], AbstractAsyncContextManager[Tree]]
"""Makes an empty tree, and closes its shares and removes it in the end. Called once a test, on the test's loop."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """How to make trees of one kind. `session` is entered once a test session (there it starts a server, if need be);
    `marks` go on all its tests."""

    name: str
    session: Callable[[], AbstractContextManager[Factory]]
    marks: tuple[pytest.MarkDecorator, ...] = ()


@contextmanager
def _memory() -> Iterator[Factory]:
    @asynccontextmanager
    async def tree() -> AsyncIterator[Tree]:
        share = MemoryShare()
        yield Tree(share, share.view())

    yield tree


@contextmanager
def _metered() -> Iterator[Factory]:
    @asynccontextmanager
    async def tree() -> AsyncIterator[Tree]:
        share = MemoryShare(case_sensitive=False, volatile=True)
        yield Tree(MeteredShare(share), MeteredShare(share.view()))

    yield tree


class _TinyPieces(Limiter):
    def piece_bytes(self) -> int:
        return 10_007


@contextmanager
def _throttled() -> Iterator[Factory]:
    """Everything is cut into many pieces, and hardly has to wait."""

    @asynccontextmanager
    async def tree() -> AsyncIterator[Tree]:
        share = MemoryShare()
        limiters = [_TinyPieces(parse_timetable("4G"), lambda: datetime.now(UTC)) for _ in range(2)]
        throttles = Throttles(*(Throttle((limiter,)) for limiter in limiters))
        yield Tree(ThrottledShare(share, throttles), ThrottledShare(share.view(), throttles))

    yield tree


@contextmanager
def _bare() -> Iterator[Factory]:
    can_nothing = Capabilities(False, False, False, False, False, False)

    @asynccontextmanager
    async def tree() -> AsyncIterator[Tree]:
        share = MemoryShare(
            server_copy=False, sparse=False, zero=False, allocated_extents=False, hold=False, flush_directory=False
        )
        yield Tree(share, share.view(), can_nothing)

    yield tree


@contextmanager
def _local() -> Iterator[Factory]:
    @asynccontextmanager
    async def tree() -> AsyncIterator[Tree]:
        with tempfile.TemporaryDirectory(prefix="replicad 시험 🗄 ") as directory:
            async with local_tree(Path(directory)) as made:
                yield made

    yield tree


@asynccontextmanager
async def local_tree(directory: Path, capabilities: Capabilities = EVERYTHING) -> AsyncIterator[Tree]:
    """A tree in a directory."""
    share, other = LocalShare(str(directory)), LocalShare(str(directory))
    try:
        yield Tree(share, other, capabilities)
    finally:
        await share.close()
        await other.close()


def _file_system(kind: str) -> Adapter:
    @contextmanager
    def session() -> Iterator[Factory]:
        numbers = count()
        with mounted(kind) as top:

            @asynccontextmanager
            async def tree() -> AsyncIterator[Tree]:
                directory = top / f"나무 {next(numbers)}"
                directory.mkdir()
                async with local_tree(directory) as made:
                    yield made
                shutil.rmtree(directory)

            yield tree

    needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
    return Adapter(f"local-{kind}", session, (pytest.mark.root, needs_root))


def _smb(share: str, *, encryption_required: bool, connections: int) -> Adapter:
    """Two hosts on a private smbd; without `encryption_required` everything is signed.

    With several connections every call that moves data goes over one that carries nothing else.
    """

    @contextmanager
    def session() -> Iterator[Factory]:
        with common_samba() as server:

            @asynccontextmanager
            async def tree() -> AsyncIterator[Tree]:
                changes = {"encryption_required": encryption_required, "connections": connections}
                with fresh_directory(server) as directory, pytest.MonkeyPatch.context() as patch:
                    patch.setattr(lanes, "LARGE_BYTES", 1)
                    address = directory.address(share)
                    async with (
                        open_share(server, address, **changes) as one,
                        open_share(server, address, **changes) as other,
                    ):
                        for each in (one, other):
                            (await each.bundle()).main.carried_bytes += 1  # it seems busy
                        yield Tree(one, other)

            yield tree

    return Adapter(f"smb-{share}-{connections}", session, (pytest.mark.samba,))


def need(promised: bool) -> None:
    """Leave out a test of what the tree under test does not promise."""
    if not promised:
        pytest.skip("this tree does not promise it")


ADAPTERS = [
    Adapter("memory", _memory),
    Adapter("metered", _metered),
    Adapter("throttled", _throttled),
    Adapter("bare", _bare),
    Adapter("local", _local),
    *(_file_system(kind) for kind in KINDS),
    _smb(PLAIN, encryption_required=False, connections=1),
    _smb(PLAIN, encryption_required=False, connections=3),
    _smb(ENCRYPTED, encryption_required=True, connections=2),
]
