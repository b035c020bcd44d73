"""Private SMB servers for tests: one a worker process, shared by its tests, each in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from replicad.model.address import SmbAddress
from replicad.storage.smb import Endpoint, SmbPool
from replicad.storage.smb.share import SmbShare

PLAIN, ENCRYPTED, READ_ONLY = "plain", "encrypted", "readonly"
"""The shares of the common server; all three show the same directory."""


@contextmanager
def running_samba(
    shares: Mapping[str, SambaShare] | None = None,
    *,
    min_protocol: str = "SMB3_00",
    settings: Mapping[str, str] | None = None,
) -> Iterator[PrivateSamba]:
    """A server of one's own, for tests that stop, kill or configure it. Without `shares` it has one, `plain`."""
    # Not pytest's tmp_path: smbd makes Unix sockets below it, whose paths are short.
    base = Path(tempfile.mkdtemp(prefix="replicad-smb-", dir="/tmp"))
    base.chmod(0o755)  # other users sign in too
    if shares is None:
        shares = {PLAIN: SambaShare(base / "data")}
    for share in shares.values():
        share.directory.mkdir(parents=True, exist_ok=True)
    server = PrivateSamba(base / "smbd", shares, min_protocol=min_protocol, settings=settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(base)


def pids_serving(server: PrivateSamba, client_ports: Collection[int]) -> list[int]:
    """The processes of the server that serve the connections from these ports of this machine."""
    sides = {f"{port:04X}" for port in client_ports}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{server.port:04X}") and row[2][-4:] in sides}
    return [pid for pid in server.pids()[1:] if sockets & _open_files(pid)]


def _open_files(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(descriptor.readlink()))
    return found


def endpoint_of(server: PrivateSamba, **changes: Any) -> Endpoint:
    """How to reach a private server, under the name `nas`; `changes` are fields of `Endpoint`."""

    async def password() -> str:
        return server.password

    fields: dict[str, Any] = {"name": "nas", "host": server.host, "port": server.port, "username": server.username}
    return Endpoint(**{**fields, "password": password, **changes})


@asynccontextmanager
async def pool_of(server: PrivateSamba, **changes: Any) -> AsyncIterator[SmbPool]:
    """A pool that knows the server as `nas`, closed in the end."""
    async with closing_pool(SmbPool({"nas": endpoint_of(server, **changes)})) as pool:
        yield pool


@asynccontextmanager
async def closing_pool(pool: SmbPool) -> AsyncIterator[SmbPool]:
    """The pool, closed in the end."""
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def open_share(server: PrivateSamba, address: SmbAddress, **changes: Any) -> AsyncIterator[SmbShare]:
    """A share on a connection of its own."""
    async with pool_of(server, **changes) as pool:
        yield await pool.share(address)


@dataclass(frozen=True, slots=True)
class SambaDirectory:
    """A fresh directory that the common server shares under each of its share names."""

    server: PrivateSamba
    path: Path

    def address(self, share: str = PLAIN) -> SmbAddress:
        """The directory seen through one of the shares."""
        return SmbAddress("nas", share, self.path.name)


@contextmanager
def common_samba() -> Iterator[PrivateSamba]:
    """A server with the shares `plain`, `encrypted` and `readonly`, which all show one directory."""
    base = Path(tempfile.mkdtemp(prefix="replicad-data-", dir="/tmp"))
    try:
        with running_samba(
            {
                PLAIN: SambaShare(base),
                ENCRYPTED: SambaShare(base, encryption_required=True),
                READ_ONLY: SambaShare(base, read_only=True),
            }
        ) as server:
            yield server
    finally:
        shutil.rmtree(base)


@contextmanager
def fresh_directory(server: PrivateSamba) -> Iterator[SambaDirectory]:
    """A new directory on a common server, removed in the end."""
    directory = server.share_directory(PLAIN) / f"{uuid4().hex[:12]} 가상 🖥"
    directory.mkdir()
    yield SambaDirectory(server, directory)
    if os.path.lexists(directory):
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def samba_server() -> Iterator[PrivateSamba]:
    """The common server of this worker process. Don't stop it."""
    with common_samba() as server:
        yield server


@pytest.fixture
def samba(samba_server: PrivateSamba) -> Iterator[SambaDirectory]:
    """A fresh directory on the common server."""
    with fresh_directory(samba_server) as directory:
        yield directory
