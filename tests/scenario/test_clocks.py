"""A replica's server whose clock is an hour off, and files whose times jump: nothing rests on either."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.faults import Fault, impatient
from tests.support.machine_model import CHUNK, file_state
from tests.support.stage import small_stage

pytestmark = pytest.mark.samba

HOUR_S = 3600
LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


@contextmanager
def clock_off(by_s: int) -> Iterator[None]:
    """Programs that are started meanwhile see another time of day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
        patch.setenv("FAKETIME", f"{by_s:+d}")
        patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield


def restarted_with_clock_off(by_s: int) -> Callable[[PrivateSamba], None]:
    def restart(server: PrivateSamba) -> None:
        with clock_off(by_s):
            server.restart()

    return restart


@pytest.mark.timeout(300)
@pytest.mark.skipif(not LIBRARIES, reason="Debian's package 'faketime' is not installed")
@pytest.mark.parametrize("by_s", [-HOUR_S, HOUR_S])
def test_server_whose_clock_is_an_hour_off(by_s: int, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    with small_stage(room, by_s, prepare=restarted_with_clock_off(by_s)) as stage:
        stage.sync()
        assert _clock_of(stage.server) == pytest.approx(time.time() + by_s, abs=120)
        for fault in (Fault.PROCESS, Fault.RESET, Fault.CHILD, Fault.PROCESS_BEHIND_CUT_CABLE, Fault.STALL):
            stage.model.some_changes()
            stage.replica.about_to_sync()
            stage.troubles.bring(fault)
            stage.replica.check_names()
            stage.sync()
            stage.troubles.let_go()
        stage.check_all_points()


def _clock_of(server: PrivateSamba) -> float:
    """What the server's processes take for the time, by the log that they write."""
    stamps = [line[1:20] for line in server.log_path.read_text().splitlines() if line.startswith("[2")]
    return time.mktime(time.strptime(stamps[-1], "%Y/%m/%d %H:%M:%S"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("by_s", [-HOUR_S, 0, HOUR_S], ids=["backward", "not at all", "forward"])
def test_files_whose_times_jump_are_replicated_by_what_they_hold(by_s: int, room: Path) -> None:
    """`not at all`: the content changes, and the times stay what they were."""
    random = Random(by_s)
    with small_stage(room, f"touch {by_s}") as stage:
        stage.sync()
        for _ in range(3):
            paths = [path for path in (*stage.model.directory.rglob("*"), *stage.share.rglob("*")) if path.is_file()]
            before = {path: path.stat() for path in paths}
            disk = random.choice([p for p in sorted(stage.model.directory.rglob("raw *")) if p.stat().st_size])
            old = file_state(disk)
            with disk.open("r+b") as file:
                file.seek(random.randrange(0, max(1, disk.stat().st_size // CHUNK)) * CHUNK)
                file.write(random.randbytes(16))
            assert file_state(disk) != old
            for path, was in before.items():
                os.utime(path, ns=(was.st_atime_ns + by_s * 10**9, was.st_mtime_ns + by_s * 10**9))
            stage.sync()
            assert max(stage.model.history) > 1
        stage.check_all_points()
