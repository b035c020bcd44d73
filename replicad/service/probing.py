"""What `probe` is made of: the way to a share, and the means of this process."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from replicad.model.address import Address, LocalAddress
from replicad.storage.port import Share
from replicad.workflows.probe import Finding, Means, Way

from .surroundings import system_clock
from .this_host import this_process_holder

if TYPE_CHECKING:
    from replicad.storage.smb.diagnose import Diagnosis, Observation

    from .compose import Shares

Step = tuple[str, Callable[[], Awaitable[Finding]]]


@asynccontextmanager
async def way_to(shares: Shares, address: Address) -> AsyncIterator[Way]:
    """The way to a share; what it opened is closed in the end. ConfigError for a server that is not known."""
    if isinstance(address, LocalAddress):
        yield _LocalWay(address)
        return
    from replicad.storage.smb.diagnose import Diagnosis

    diagnosis = Diagnosis(shares.endpoint(address.server), address)
    try:
        yield _SmbWay(diagnosis)
    finally:
        await diagnosis.close()


@asynccontextmanager
async def probe_means() -> AsyncIterator[Means]:
    """Clocks, randomness and the holder of locks."""
    with ThreadPoolExecutor(1, "random") as executor:

        async def random_bytes(count: int) -> bytes:
            return await asyncio.get_running_loop().run_in_executor(executor, os.urandom, count)

        yield Means(
            clock=system_clock(),
            random_bytes=random_bytes,
            new_id=lambda: secrets.token_hex(16),
            holder=lambda: this_process_holder(datetime.now(UTC)),
        )


class _LocalWay:
    def __init__(self, address: LocalAddress) -> None:
        self._address = address

    @property
    def steps(self) -> Sequence[Step]:
        return ()

    async def open(self) -> Share:
        from replicad.storage.local import LocalShare

        return LocalShare(self._address.path)


class _SmbWay:
    def __init__(self, diagnosis: Diagnosis) -> None:
        self._diagnosis = diagnosis

    @property
    def steps(self) -> Sequence[Step]:
        diagnosis = self._diagnosis
        return [
            ("name", _told(diagnosis.find)),
            ("port", _told(diagnosis.connect)),
            ("dialect", _told(diagnosis.negotiate)),
            ("protection", _told(diagnosis.protect)),
            ("sign-in", _told(diagnosis.sign_in)),
            ("share", _told(diagnosis.open_share)),
        ]

    async def open(self) -> Share:
        return await self._diagnosis.open()


def _told(look: Callable[[], Awaitable[Observation]]) -> Callable[[], Awaitable[Finding]]:
    async def tell() -> Finding:
        seen = await look()
        return Finding(seen.text, seen.facts, seen.warnings)

    return tell
