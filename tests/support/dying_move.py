"""A process that moves a machine, and is killed at a step that it writes down: `python -m tests.support.dying_move`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from replicad.model.moves import MoveRecord
from replicad.settings import Consistency, load_settings
from replicad.workflows import move_journal
from replicad.workflows.move_journal import encode
from tests.support.moving_world import moved_by


def main() -> None:
    """The arguments are one JSON object: settings, monitor, source, destination, remembered, step, before."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    steps = 0

    def die_at(when: bool) -> None:
        if steps == wanted["step"] and when == wanted["before"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(write: Any) -> Any:
        async def killed(self: object, record: MoveRecord) -> MoveRecord:
            nonlocal steps
            steps += 1
            die_at(True)
            written: MoveRecord = await write(self, record)
            die_at(False)
            return written

        return killed

    journal, quick = move_journal.MoveJournal, move_journal.QuickJournal
    for kind, name in ((journal, "write"), (quick, "write"), (journal, "remember")):
        setattr(kind, name, killing(getattr(kind, name)))

    async def remember(record: MoveRecord) -> None:
        Path(wanted["remembered"]).write_bytes(encode(record))

    async def run() -> None:
        settings = load_settings(Path(wanted["settings"]))
        consistency = Consistency(method="qemu", monitor=Path(wanted["monitor"]))
        await moved_by(settings, consistency, wanted["source"], wanted["destination"], remember, lambda event: None)

    asyncio.run(run())


if __name__ == "__main__":
    main()
