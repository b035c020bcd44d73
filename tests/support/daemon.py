"""`replicad run` as a process of its own: started, told by signals, watched by its log, killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from replicad.catalog import open_catalog
from replicad.model.agenda import Agenda
from replicad.model.runs import Run

Facts = dict[str, Any]
"""One event of the log."""

_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
_LOOK_EVERY_S = 0.02
_PATIENCE_S = 180.0
_PAGE = 1000


@dataclass(slots=True)
class Log:
    """What a daemon wrote on stderr until now."""

    path: Path
    _events: list[Facts] = field(default_factory=list)
    _read_bytes: int = 0

    def events(self) -> list[Facts]:
        """All of it that is JSON, in order; what is said before or after there is a log is not."""
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._read_bytes += len(whole) + 1
            self._events += [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return self._events


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """A moment, and for how long a process had waited for a processor until then."""

    clock_s: float
    waited_s: float


@dataclass(slots=True)
class Daemon:
    """One process that runs, or ran."""

    process: subprocess.Popen[bytes]
    log: Log

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def mark(self) -> int:
        """Where the log is now, for `wait_for`."""
        return len(self.log.events())

    def wait_for(self, event: str, after: int = 0, within_s: float = _PATIENCE_S, **facts: object) -> Facts:
        """The first event behind a mark whose text contains `event` and that has these facts."""

        def seek() -> Facts | None:
            for found in self.log.events()[after:]:
                if event in found["event"] and all(found.get(key) == value for key, value in facts.items()):
                    return found
            return None

        return self.wait_until(seek, f"{event} {facts}", within_s)

    def wait_until(self, seek: Callable[[], Facts | None], what: str, within_s: float = _PATIENCE_S) -> Facts:
        """What `seek` finds, which is asked again and again."""
        deadline_s = time.monotonic() + within_s
        while True:
            ended = self.process.poll() is not None
            if (found := seek()) is not None:
                return found
            assert not ended, f"the daemon has ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline_s, f"no event {what!r} came: {self.said()}"
            time.sleep(_LOOK_EVERY_S)

    def said(self) -> str:
        """The end of what it wrote, as it is."""
        return self.log.path.read_text(errors="replace")[-6000:]

    def hang_up(self) -> None:
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """kill -9; when this returns it is gone."""
        self.process.kill()
        self.process.wait(30)

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; as `ended`."""
        stopwatch = self.stopwatch()
        self.process.send_signal(signal.SIGTERM)
        return self.ended(stopwatch)

    def ended(self, since: Stopwatch | None = None) -> tuple[int, float]:
        """Its exit code, once it has ended by itself, and how long that took without the time that it waited for a
        processor: how quick it is says nothing of what else the machine does."""
        deadline_s = time.monotonic() + _PATIENCE_S
        since = since or self.stopwatch()
        # Not collected yet: its statistics are still there.
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(_LOOK_EVERY_S)
        now = self.stopwatch()
        return self.process.wait(), (now.clock_s - since.clock_s) - (now.waited_s - since.waited_s)

    def stopwatch(self) -> Stopwatch:
        """What the time is."""
        waited_ns = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1])
        return Stopwatch(time.monotonic(), waited_ns / 1e9)

    def takes_no_sigterm_any_more(self) -> bool:
        """Whether the next SIGTERM does what it does to every process."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (caught,) = [int(line.split()[1], 16) for line in status if line.startswith("SigCgt:")]
        return not caught >> (signal.SIGTERM - 1) & 1


@dataclass(slots=True)
class Site:
    """A place where daemons run, one at a time or more: `base` holds the configuration, the state and the logs."""

    base: Path
    daemons: list[Daemon] = field(default_factory=list)
    program: tuple[str, ...] = ("-c", _PROGRAM, "run")
    """What Python is to run as a daemon."""

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.base / "replicad.yaml"

    @property
    def state_dir(self) -> Path:
        """What the daemon remembers."""
        return self.base / "state"

    def write(self, servers: Mapping[str, Any], machines: Mapping[str, Any], **settings: object) -> None:
        """Replace the configuration, whole at any moment. JSON is YAML."""
        whole = {
            "state_dir": str(self.state_dir), "servers": dict(servers), "virtual_machines": dict(machines), **settings,
        }  # fmt: skip
        self.write_text(json.dumps(whole, ensure_ascii=False, indent=2))

    def write_text(self, text: str) -> None:
        """The same, whatever it is."""
        new = self.base / "new.yaml"
        new.write_text(text)
        new.replace(self.config)

    def start(self) -> Daemon:
        """Start one more; its log is `daemon N.log`."""
        path = self.base / f"daemon {len(self.daemons) + 1}.log"
        with path.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *self.program, "--config", str(self.config), "--log-format", "json"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, cwd=self.base,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip
        self.daemons.append(Daemon(process, Log(path)))
        return self.daemons[-1]

    def ready(self) -> Daemon:
        """Start one more, and wait until it works."""
        daemon = self.start()
        daemon.wait_for("ready")
        return daemon

    def remembered(self) -> tuple[list[Run], dict[str, Agenda]]:
        """The history of all machines, the oldest first, and what lies ahead, as the catalog has it. While no daemon
        runs: it changes nothing."""
        return asyncio.run(_remembered(self.state_dir / "catalog.sqlite"))

    def complaints(self) -> list[str]:
        """What no log may say, whatever happens outside."""
        return [
            f"{daemon.log.path.name}: {event}"
            for daemon in self.daemons
            for event in daemon.log.events()
            if event["level"] == "critical" or "traceback" in event or _says_of_a_defect(event["event"])
        ] + [
            f"{daemon.log.path.name}: a traceback"
            for daemon in self.daemons
            if "Traceback" in daemon.log.path.read_text(errors="replace")
        ]


def _says_of_a_defect(text: str) -> bool:
    return any(part in text for part in ("defect", "written down, and is forgotten", "put aside", "were dropped"))


async def _remembered(path: Path) -> tuple[list[Run], dict[str, Agenda]]:
    warnings: list[str] = []
    async with open_catalog(path, warnings.append) as catalog:
        agendas = await catalog.agendas()
        runs: list[Run] = []
        while page := await catalog.runs(limit=_PAGE, before=runs[-1].number if runs else None):
            runs += page
    assert warnings == []
    return runs[::-1], agendas


def moment_of(event: Facts) -> datetime:
    """When it was."""
    return datetime.fromisoformat(event["timestamp"])


@contextmanager
def site(base: Path, *program: str) -> Iterator[Site]:
    """A new place; what runs there in the end is killed. Another `program` than `replicad run` takes its options."""
    base.mkdir(parents=True)
    made = Site(base, program=program) if program else Site(base)
    try:
        yield made
    finally:
        for daemon in made.daemons:
            with contextlib.suppress(ProcessLookupError):
                daemon.process.send_signal(signal.SIGCONT)
            daemon.kill()
