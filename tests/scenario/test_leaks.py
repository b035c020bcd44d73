"""A process that runs many syncs holds no more after the last one than after the first ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.installation import Server, install
from tests.support.machine_model import MIB
from tests.support.samba import ENCRYPTED

pytestmark = pytest.mark.samba

SYNCS = 50
WARM_UP = 15

_PROGRAM = """
import json, os, sys, threading, time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from uuid import uuid4
from replicad.cli.main import main

def threads_left():
    # Names are resolved by at most 4 threads that the process keeps; all others are told to end, and soon do.
    deadline = time.monotonic() + 10
    while True:
        left = sorted(t.name for t in threading.enumerate() if not t.name.startswith("smb-resolve"))
        if left == ["MainThread"] or time.monotonic() > deadline:
            return left
        time.sleep(0.01)

disk, count, arguments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
seen = []
for number in range(count):
    with disk.open("r+b") as file:
        file.seek(number * 65536)
        file.write(os.urandom(100_000))
    with redirect_stdout(StringIO()):
        assert main(arguments) == 0
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    threads = threads_left()
    seen.append([int(status["VmRSS"].split()[0]) * 1024, len(os.listdir("/proc/self/fd")), threads])
print(json.dumps(seen))
"""


def test_fifty_syncs_leak_neither_memory_nor_descriptors_nor_threads(
    room: Path, samba_server: PrivateSamba, record_property: Callable[[str, object], None]
) -> None:
    source = room / "원본"
    source.mkdir()
    disk = source / "디스크.img"
    disk.write_bytes(os.urandom(8 * MIB))
    replica = samba_server.share_directory(ENCRYPTED) / f"{uuid4().hex} 사본"
    replica.mkdir()
    address = rf"\\nas\{ENCRYPTED}\{replica.name}"
    installation = install(room / "설치", str(source), address, {"nas": Server(samba_server)})
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(disk), str(SYNCS), *installation.arguments("sync", "--json")],
        capture_output=True, text=True, timeout=110, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) == SYNCS
    memory, descriptors, threads = zip(*seen, strict=True)
    record_property("resident MiB after 1, 16 and 50 syncs", [round(memory[n] / MIB, 1) for n in (0, WARM_UP, -1)])
    assert len(set(descriptors)) == 1
    assert all(left == ["MainThread"] for left in threads), threads
    # Each of the syncs in between read 8 MiB and wrote the replica's share: nothing of a sync stays for good. A block
    # that was given back last may stay with the allocator for a while, so the lowest of ten are compared.
    assert min(memory[-10:]) - min(memory[WARM_UP : WARM_UP + 10]) < 6 * MIB
