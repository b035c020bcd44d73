"""A machine that runs and writes while its disks are moved between the shares of two servers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicad.cli.demo.samba import PrivateSamba, SambaShare
from replicad.model.moves import MoveOptions, MovePhase, MoveRecord
from replicad.model.progress import Observer, PhaseStarted, ProgressEvent
from replicad.service.compose import Shares
from replicad.service.moving.parts import move_parts, open_shares
from replicad.service.surroundings import surroundings
from replicad.settings import Consistency, Settings, load_settings
from replicad.workflows.context import Context
from replicad.workflows.move_journal import Remember
from replicad.workflows.move_parts import MoveParts
from replicad.workflows.move_plan import plan_move
from replicad.workflows.move_retiring import take_back
from replicad.workflows.retries import move_with_retries
from tests.support.guest import Guest, Load, build_guest, running_guest
from tests.support.running_machine import make_disks
from tests.support.samba import running_samba

VM = "웹 서버 🖥"
_SETTINGS = """\
state_dir: {root}/state
servers:
  nas1: {{address: '127.0.0.1:{port1}', username: {user}, password_file: {root}/pw1, mounts: {{vms: {nas1}}}}}
  nas2: {{address: '127.0.0.1:{port2}', username: {user}, password_file: {root}/pw2, mounts: {{vms: {nas2}}}}}
"""


@dataclass
class MovedWorld:
    """`guest` runs on `disks`, by their names in the directory of the machine, wherever that is."""

    settings: Settings
    consistency: Consistency
    guest: Guest
    disks: tuple[str, ...]
    directories: dict[str, Path]
    """What is behind the share of each server."""
    servers: dict[str, PrivateSamba]
    events: list[ProgressEvent] = field(default_factory=list)
    records: list[MoveRecord] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    async def move(self, source: str, destination: str, options: MoveOptions | None = None) -> MoveRecord:
        r"""Move the machine from one server to another; `\\nas1\vms` or a local directory has it below."""
        began_s = time.monotonic()
        moved = await moved_by(
            self.settings, self.consistency, source, destination, self._remember, self.events.append, options=options
        )
        self.gaps_s.append(self.guest.longest_gap(began_s, time.monotonic()))
        assert moved.phase is MovePhase.DONE
        return moved

    async def go_on(self, record: MoveRecord) -> MoveRecord:
        """Go on with a move whose process died."""
        return await moved_by(
            self.settings, self.consistency, "", "", self._remember, self.events.append, record=record
        )

    async def begin_and_take_back(self, source: str, destination: str, phase: str) -> MoveRecord:
        """Begin to move it, and have that cancelled as soon as the phase of this name begins; then take it back."""
        begun = asyncio.Event()

        def hear(event: ProgressEvent) -> None:
            self.events.append(event)
            if isinstance(event, PhaseStarted) and event.name == phase:
                begun.set()

        async with asyncio.timeout(60):
            moving = asyncio.ensure_future(
                moved_by(self.settings, self.consistency, source, destination, self._remember, hear)
            )
            await begun.wait()
            moving.cancel()
            await asyncio.wait([moving])
        return await moved_by(
            self.settings, self.consistency, "", "", self._remember, hear, record=self.records[-1], work=take_back
        )

    async def _remember(self, record: MoveRecord) -> None:
        self.records.append(record)

    def paths(self, server: str) -> tuple[Path, ...]:
        """The disks behind that server's share."""
        return tuple(self.directories[server] / VM / disk for disk in self.disks)


async def moved_by(
    settings: Settings, consistency: Consistency, source: str, destination: str, remember: Remember,
    observe: Observer, *, options: MoveOptions | None = None, record: MoveRecord | None = None,
    work: Callable[[MoveRecord, MoveParts, Context], Awaitable[MoveRecord]] = move_with_retries,
) -> MoveRecord:  # fmt: skip
    """What one process does; `record`, if an earlier one began it."""
    async with surroundings(settings.state_dir, observe) as ctx, Shares(settings, observe=observe) as shares:
        new = record or MoveRecord(
            ctx.new_id(), VM, f"{source}\\{VM}", (f"{destination}\\{VM}",), ctx.clock.now(), options or MoveOptions()
        )
        opened = await open_shares(new, shares)
        if record is None:
            new = (await plan_move(new, opened.source, opened.places)).record
            await remember(new)
        return await work(new, move_parts(new, consistency, opened, settings, ctx, remember), ctx)


@asynccontextmanager
async def moved_world(
    disks: int = 1, load: Load | None = None, size_bytes: int = 256 << 20
) -> AsyncIterator[MovedWorld]:
    """A guest on the share of `nas1`, beside the server `nas2`."""
    image = await asyncio.to_thread(build_guest)
    with tempfile.TemporaryDirectory(prefix="replicad-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        directories = {"nas1": root / "하나", "nas2": root / "둘"}
        with (
            running_samba({"vms": SambaShare(directories["nas1"])}) as nas1,
            running_samba({"vms": SambaShare(directories["nas2"])}) as nas2,
        ):
            for directory in directories.values():
                directory.chmod(0o777)
            machine = directories["nas1"] / VM
            machine.mkdir()
            machine.chmod(0o777)
            paths = make_disks(machine, disks, size_bytes)
            for path in paths:
                path.chmod(0o666)
            sockets = root / "s"
            sockets.mkdir()
            settings = _settings(root, nas1, nas2, directories)
            async with running_guest(image, paths, directory=sockets, load=load or Load()) as guest:
                consistency = Consistency(method="qemu", monitor=guest.qmp_path)
                servers = {"nas1": nas1, "nas2": nas2}
                yield MovedWorld(settings, consistency, guest, tuple(path.name for path in paths), directories, servers)
                assert guest.io_errors == []


def _settings(root: Path, nas1: PrivateSamba, nas2: PrivateSamba, directories: dict[str, Path]) -> Settings:
    for name, server in (("pw1", nas1), ("pw2", nas2)):
        (root / name).write_text(server.password)
        (root / name).chmod(0o600)
    file = root / "replicad.yaml"
    file.write_text(
        _SETTINGS.format(
            root=root, port1=nas1.port, port2=nas2.port, user=nas1.username, nas1=directories["nas1"],
            nas2=directories["nas2"],
        ),
        encoding="utf-8",
    )  # fmt: skip
    return load_settings(file)
