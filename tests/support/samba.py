"""Private SMB servers for tests: one a worker process, shared by its tests, each in a directory of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from replicad.model.address import SmbAddress

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


@dataclass(frozen=True, slots=True)
class SambaDirectory:
    """A fresh directory that the common server shares under each of its share names."""

    server: PrivateSamba
    path: Path

    def address(self, share: str = PLAIN) -> SmbAddress:
        """The directory seen through one of the shares."""
        return SmbAddress("nas", share, self.path.name)


@pytest.fixture(scope="session")
def samba_server() -> Iterator[PrivateSamba]:
    """The common server of this worker process. Don't stop it."""
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


@pytest.fixture
def samba(samba_server: PrivateSamba) -> Iterator[SambaDirectory]:
    """A fresh directory on the common server."""
    directory = samba_server.share_directory(PLAIN) / f"{uuid4().hex[:12]} 가상 🖥"
    directory.mkdir()
    yield SambaDirectory(samba_server, directory)
    if os.path.lexists(directory):
        shutil.rmtree(directory)
