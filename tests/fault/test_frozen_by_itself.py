"""A user's `freeze` command that waits for what it has frozen itself: nothing can end it but its own thaw."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from replicad.hypervisor.command.freezing import CommandFreezer
from replicad.hypervisor.command.running import undo_command
from replicad.hypervisor.thawing import FreezeJournal
from replicad.model.errors import BusyError
from replicad.model.progress import ProgressEvent
from replicad.storage.memory import MemoryShare
from tests.support.files import HOLDER
from tests.support.filesystems import mounted
from tests.support.world import SteadyClock

pytestmark = pytest.mark.root
VM = "웹 🖥"


async def test_a_freeze_that_writes_to_what_it_has_frozen_is_thawed_although_it_can_not_be_ended() -> None:
    events: list[ProgressEvent] = []
    clock = SteadyClock().clock()
    with mounted("ext4", 64 * 1024 * 1024) as where:
        freeze = ("sh", "-c", f"fsfreeze -f '{where}' && echo done > '{where}/로그'")
        thaw = ("fsfreeze", "-u", str(where))

        async def disks() -> list[str]:
            return [str(where / "disk.vhdx")]

        journal = FreezeJournal(
            MemoryShare(), lambda: HOLDER, clock, {"command": undo_command(events.append)}, events.append
        )
        freezer = CommandFreezer(VM, freeze, thaw, 0.5, journal, disks, events.append)
        try:
            async with asyncio.timeout(30):
                with pytest.raises(BusyError, match=r"did not end within 0\.5 s, and can't be ended"):
                    async with freezer.frozen(application=False):
                        pytest.fail("it has not ended, so nothing is known of it")
        finally:
            still_frozen = subprocess.run(thaw, check=False, capture_output=True).returncode == 0
        assert not still_frozen
        assert await journal.left() == ()
