"""Moves of disks on a share that programs of this host reach past its server, which knows nothing of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicad.model.address import LocalAddress
from replicad.model.errors import BusyError, ConflictError
from replicad.model.moves import MovePhase
from replicad.model.progress import PhaseStarted, ProgressEvent
from replicad.service.compose import Shares
from replicad.service.moving.orders import find_machines
from replicad.settings import Settings, load_settings
from tests.support.cold_moves import ColdMoves
from tests.support.samba import PLAIN, running_samba

_DISK = "디스크 🖥.vhdx"


@dataclass
class Behind:
    """A share of a server on this host, and the directory behind it, with a machine in it."""

    settings: Settings
    directory: Path

    @property
    def share(self) -> str:
        return rf"\\nas\{PLAIN}"

    @property
    def disk(self) -> Path:
        return self.directory / "웹" / _DISK


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    with running_samba() as server:
        directory = server.share_directory(PLAIN)
        (tmp_path / "pw").write_text(server.password)
        (tmp_path / "pw").chmod(0o600)
        file = tmp_path / "replicad.yaml"
        file.write_text(
            f"""\
state_dir: {tmp_path}/state
servers:
  nas:
    address: 127.0.0.1:{server.port}
    username: {server.username}
    password_file: {tmp_path}/pw
    mounts: {{{PLAIN}: {directory}}}
virtual_machines:
  mounted: {{source: '{directory}/mounted', replica: '{tmp_path}/r'}}
  shared: {{source: '\\\\nas\\{PLAIN}\\shared', replica: '{tmp_path}/r'}}
""",
            encoding="utf-8",
        )
        made = Behind(load_settings(file), directory)
        made.disk.parent.mkdir()
        made.disk.write_bytes(b"disk" * 50_000)
        yield made


async def test_a_disk_that_a_program_writes_past_the_server_is_not_moved(behind: Behind) -> None:
    moves = ColdMoves(behind.settings)
    record = (await moves.plan(rf"{behind.share}\웹", rf"{behind.share}\새 곳")).record
    with behind.disk.open("r+b"), pytest.raises(BusyError, match=r"process \d+\) on this host has it open for writing"):
        await moves.run(record)
    assert (await moves.run(record)).phase is MovePhase.DONE
    assert (behind.directory / "새 곳" / _DISK).read_bytes() == b"disk" * 50_000


class _Using(list[ProgressEvent]):
    """Somebody begins to use a file when it is copied."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def append(self, event: ProgressEvent) -> None:
        super().append(event)
        if isinstance(event, PhaseStarted) and event.name == "cutover":
            self.file = self.path.open("r+b")


async def test_a_disk_that_a_program_begins_to_write_past_the_server_is_its_machine_s_and_stays(behind: Behind) -> None:
    using = _Using(behind.disk)
    moves = ColdMoves(behind.settings, events=using)
    record = (await moves.plan(rf"{behind.share}\웹", rf"{behind.share}\새 곳")).record
    with pytest.raises(ConflictError, match="at the source"):
        await moves.run(record)
    with using.file as file:
        file.write(b"late")
    assert behind.disk.read_bytes().startswith(b"late")
    moves.events = []
    assert (await moves.run(record)).phase is MovePhase.DONE
    assert (behind.directory / "새 곳" / _DISK).read_bytes().startswith(b"latedisk")
    assert list(behind.disk.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["mounted", "shared"])
async def test_a_configured_machine_is_known_by_the_share_and_by_where_that_is_mounted(
    behind: Behind, name: str
) -> None:
    async with Shares(behind.settings) as shares:
        for typed in (rf"{behind.share}\{name}", str(behind.directory / name), name):
            (machine,) = (await find_machines(typed, behind.settings, shares)).machines
            assert (machine.vm, machine.is_configured) == (name, True)
            assert machine.source == behind.settings.machine(name).source
        (other,) = (await find_machines(str(behind.directory / "웹"), behind.settings, shares)).machines
    assert (other.is_configured, other.source) == (False, LocalAddress(str(behind.directory / "웹")))
