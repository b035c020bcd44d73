"""What this process says of itself in a lock file."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from replicad.service.this_host import this_process_holder
from replicad.storage.holder import decode, encode, is_dead
from replicad.storage.processes import start_of_process

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_this_process_is_not_dead_to_itself() -> None:
    me = this_process_holder(NOON)
    assert me.pid == os.getpid()
    assert me.since == "2026-01-31T12:00:00Z"
    assert not is_dead(me, me, start_of_process)
    assert decode(encode(me)) == me


def test_a_moment_of_another_zone_is_told_in_utc() -> None:
    seoul = timezone(timedelta(hours=9))
    assert this_process_holder(datetime(2026, 1, 31, 21, tzinfo=seoul)).since == "2026-01-31T12:00:00Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_another_process_of_this_host_is_dead_once_it_has_ended() -> None:
    code = (
        "import sys; from datetime import datetime, UTC\n"
        "from replicad.service.this_host import this_process_holder\n"
        "from replicad.storage.holder import encode\n"
        "sys.stdout.buffer.write(encode(this_process_holder(datetime.now(UTC)))); sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        holder = decode(other.stdout.readline())
        assert holder is not None
        me = this_process_holder(NOON)
        assert not is_dead(holder, me, start_of_process)
        other.kill()
    assert is_dead(holder, me, start_of_process)
