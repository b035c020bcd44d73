"""Syncs that are killed at an exact place of what they send, and what may be seen on the replica's share then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from random import Random

from replicad.replica.layout import pending_number, point_number
from tests.support.installation import Installation
from tests.support.machine_model import FileState, MachineModel, file_state
from tests.support.relay import Judge, Relay, Traffic, after_bytes, after_messages

_LONGEST_SYNC_S = 120.0
_INTERRUPTED = 130


class Phase(Enum):
    """How far a killed sync got, by what it left on the share."""

    BEFORE = "before it began"
    WRITING = "writing disks and undo logs"
    SEALING = "point's record written, not committed"
    SETTLING = "committed, names not given back"
    AFTER = "done but for its last words"


@dataclass(slots=True)
class WatchedReplica:
    """A replica as the server's own disk has it (`path` is the VM's directory), and what its points should hold."""

    path: Path
    model: MachineModel
    syncs: list[tuple[datetime, dict[str, FileState]]] = field(default_factory=list)

    def about_to_sync(self) -> None:
        """Take down what the source holds now; it does not change before the sync has ended."""
        self.syncs.append((datetime.now(UTC), self.model.state()))

    def note_points(self) -> None:
        """Take down what each new point must hold: what the source held when the sync ran that read it, which may be
        one that was killed after it had sealed the point, and before it had committed it."""
        points = self.points()
        assert points == list(range(1, len(points) + 1))
        for number in points[len(self.model.history) :]:
            record = json.loads((self.path / "points" / str(number) / "point.json").read_text())
            taken = datetime.fromisoformat(record["time"])
            self.model.remember(number, next(state for began, state in reversed(self.syncs) if began <= taken))

    def points(self) -> list[int]:
        """The committed points, ascending."""
        return sorted(n for name in self._names("points") if (n := point_number(name)) is not None)

    def pending(self) -> int | None:
        """The cycle under way."""
        return next((n for name in self._names("points") if (n := pending_number(name)) is not None), None)

    def is_sealing(self) -> bool:
        """Whether the cycle under way has begun to write the record of its point."""
        number = self.pending()
        return number is not None and any(n.startswith("point.json") for n in self._names(f"points/{number}.pending"))

    def phase(self, latest_before: int) -> Phase:
        """How far a cycle got that began when `latest_before` was the latest point (0: none)."""
        if self.pending() is not None:
            return Phase.SEALING if self.is_sealing() else Phase.WRITING
        if max(self.points(), default=0) == latest_before:
            return Phase.BEFORE
        unsettled = any(name.endswith((".updating", ".initial")) for name in self._names("disks"))
        return Phase.SETTLING if unsettled else Phase.AFTER

    def check_names(self) -> None:
        """Every disk that bears its own name holds what the latest committed point says of it.

        One that the latest point has no more may still lie there as it was at the point before. The server may still
        be working on a dead client's last request: a look during which a name changed counts for nothing.
        """
        for _ in range(50):
            before = self._all_names()
            self.note_points()
            found = {path: state for path in self._own_names() if (state := self._state(path)) is not None}
            if self._all_names() == before:
                break
        else:
            raise AssertionError("names keep changing after the client's death")
        history, latest = self.model.history, max(self.model.history, default=0)
        for path, state in found.items():
            allowed = history[latest].get(path) or history.get(latest - 1, {}).get(path) if latest else None
            assert state == allowed, f"{path} is visible and is not what point {latest} has"

    def _own_names(self) -> Iterator[str]:
        disks = self.path / "disks"
        for path in disks.rglob("*"):
            if path.is_file() and path.suffix not in (".updating", ".initial"):
                yield str(path.relative_to(disks))

    def _state(self, path: str) -> FileState | None:
        try:
            return file_state(self.path / "disks" / path)
        except FileNotFoundError:
            return None  # it was renamed: the look is repeated

    def _all_names(self) -> list[str]:
        return sorted(str(p) for directory in ("disks", "points") for p in (self.path / directory).rglob("*"))

    def _names(self, directory: str) -> list[str]:
        try:
            return [path.name for path in (self.path / directory).iterdir()]
        except FileNotFoundError:
            return []


def random_moment(random: Random, usual: Traffic, replica: WatchedReplica) -> tuple[str, Judge]:
    """Where to kill the next sync, and how to say it: anywhere in what a sync usually sends, by messages or by bytes
    (in the middle of a message), or a few messages after it began to seal its point."""
    kind = random.choice(["message", "byte", "sealing"])
    if kind == "message":
        count = random.randrange(10, max(11, usual.messages))
        return f"before message {count}", after_messages(count)
    if kind == "byte":
        count = random.randrange(0, max(1, usual.to_server_bytes))
        return f"after byte {count}", after_bytes(count)
    more = random.randrange(0, 36)
    sealing_since: list[int] = []

    def judge(traffic: Traffic, length: int) -> int | None:
        if not sealing_since and replica.is_sealing():
            sealing_since.append(traffic.messages)
        if sealing_since and traffic.messages >= sealing_since[0] + more:
            return length // 2 if more % 2 else 0
        return None

    return f"{more} messages after the point was sealed", judge


def killed_sync(installation: Installation, relay: Relay, judge: Judge, *arguments: str) -> bool:
    """Run a sync as a process of its own and kill it where `judge` says so; whether it was killed.

    One that ends before that moment must have succeeded.
    """
    pid: Future[int] = Future()
    relay.cut(judge, lambda: os.kill(pid.result(_LONGEST_SYNC_S), signal.SIGKILL))
    with installation.start("sync", *arguments) as process:
        pid.set_result(process.pid)
        try:
            _, stderr = process.communicate(timeout=_LONGEST_SYNC_S)
        except BaseException:
            process.kill()
            raise
    if not relay.was_cut():
        assert process.returncode == 0, stderr
        return False
    # It may have been done just before: then its last words are lost and it was not killed in time.
    assert process.returncode in (-signal.SIGKILL, 0), stderr
    return process.returncode == -signal.SIGKILL


def stopped_sync(
    installation: Installation, after_s: float, signal_number: signal.Signals, *arguments: str
) -> float | None:
    """Run a sync as a process of its own and end it by a signal after a while.

    None if it was ended; how long it took if it was quicker, and then it must have succeeded.
    """
    began_s = time.monotonic()
    with installation.start("sync", *arguments) as process:
        try:
            _, stderr = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal_number)
            try:
                _, stderr = process.communicate(timeout=_LONGEST_SYNC_S)
            except BaseException:
                process.kill()
                raise
    if process.returncode in (-signal_number, _INTERRUPTED):
        return None
    assert process.returncode == 0, stderr
    return time.monotonic() - began_s
