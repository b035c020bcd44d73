"""A machine whose disks stand still by commands: shell scripts that write down what they were run for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicad.hypervisor.command.freezing import CommandFreezer
from replicad.hypervisor.command.running import UNDO_KIND, undo_command
from replicad.hypervisor.command.snapshots import CommandSnapshots
from replicad.hypervisor.command.switching import SWITCH_UNDO_KIND, undo_switch
from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.progress import ProgressEvent, Said, Warned
from replicad.storage.local import LocalShare
from replicad.storage.port import LockHolder
from tests.support.world import SteadyClock

VM = "웹 서버 🖥"
Command = tuple[str, ...]


@dataclass
class Stage:
    """A directory for a test: `log` is what was run, `state` where the journal is."""

    root: Path
    share: LocalShare
    timeout_s: float = 20.0
    events: list[ProgressEvent] = field(default_factory=list)

    @property
    def log(self) -> list[str]:
        """The phases that were begun, in order."""
        path = self.root / "log"
        return path.read_text().split() if path.exists() else []

    @property
    def said(self) -> list[str]:
        """The lines that were told for the log."""
        return [event.line for event in self.events if isinstance(event, Said)]

    @property
    def warnings(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Warned))

    def script(self, text: str = "") -> Command:
        """A command that writes its phase down and then does this; its own arguments must never be shown."""
        return ("sh", "-c", f'echo "$REPLICAD_PHASE" >> "$1/log"\n{text}', "sh", str(self.root), "--password=$ecret")

    def journal(self) -> FreezeJournal:
        holder = LockHolder("host", "machine", "boot", 1, "1", "2026-01-01T00:00:00Z")
        undo = {
            UNDO_KIND: undo_command(self.events.append),
            SWITCH_UNDO_KIND: undo_switch(self.events.append),
        }
        return FreezeJournal(self.share, lambda: holder, SteadyClock().clock(), undo, self.events.append)

    def freezer(self, freeze: Command | str = "", thaw: Command | str = "") -> CommandFreezer:
        async def disks() -> list[str]:
            return ["/vms/웹 하나.vhdx", "/vms/sub/둘.vhdx"]

        return CommandFreezer(
            VM, self._command(freeze), self._command(thaw), self.timeout_s, self.journal(), disks, self.events.append
        )

    def snapshots(
        self, snapshot: Command | str, release: Command | str | None = "", freezer: CommandFreezer | None = None
    ) -> CommandSnapshots:
        return CommandSnapshots(
            VM, self._command(snapshot), None if release is None else self._command(release), self.timeout_s, freezer,
            self.journal(), SteadyClock().clock(), self.events.append,
        )  # fmt: skip

    def left(self) -> list[Path]:
        """The pages of the journal."""
        return sorted((self.root / "state/frozen").glob("*.json"))

    def _command(self, command: Command | str) -> Command:
        return self.script(command) if isinstance(command, str) else command


@asynccontextmanager
async def command_stage(root: Path) -> AsyncIterator[Stage]:
    (root / "state").mkdir(exist_ok=True)
    share = LocalShare(str(root / "state"))
    try:
        yield Stage(root, share)
    finally:
        await share.close()
