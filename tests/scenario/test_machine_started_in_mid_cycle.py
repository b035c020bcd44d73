"""Method `none`, and the machine is started while its disk is read: it waits for nobody, and the cycle comes again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.support.daemon import site
from tests.support.processes import other_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="leases of Linux")

VM = "웹 서버 🖥"
PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
MACHINE = """
import os, sys, time
sys.stdin.readline()
began = time.monotonic()
fd = os.open(sys.argv[1], os.O_RDWR)
print(time.monotonic() - began)
os.pwrite(fd, b"the machine writes", 4096)
sys.stdin.readline()
"""


def test_the_cycle_gives_way_at_once_names_who_came_and_is_begun_again(tmp_path: Path) -> None:
    with site(tmp_path / "설치") as place:
        source, replica = place.base / "원본", place.base / "사본"
        source.mkdir()
        replica.mkdir()
        disk = source / "디스크 1.vhd"
        disk.write_bytes(Random(1).randbytes(24 << 20))
        machine = {
            "source": str(source), "replica": str(replica), "every": "1h", "bandwidth": "4M",
            "consistency": {"method": "none", "wait": "0s"},
        }  # fmt: skip
        place.write({}, {VM: machine})
        with other_process(MACHINE, str(disk)) as writer:
            daemon = place.ready()
            daemon.wait_until(lambda: {} if _has_begun_to_write(replica) else None, "bytes on the replica")
            writer.go_on()
            waited_s = float(writer.line())
            failed = daemon.wait_for("has opened it for writing meanwhile", vm=VM)
            assert waited_s < 1.0
            assert f"process {writer.pid} (python" in failed["event"]
            assert "consistency method" in failed["event"]
            assert (failed["error"], failed["means"]) == ("BusyError", "transient")
            assert daemon.terminate()[0] == 0
        _, agendas = place.remembered()
        agenda = agendas[VM]
        assert agenda.failure is not None
        assert (agenda.failure.severity.value, agenda.failures) == ("transient", 1)
        assert agenda.retry_at is not None
        assert 0 < (agenda.retry_at - agenda.failure.at).total_seconds() <= 60
        # The machine is off again, and nobody wants to wait for the minute to end.
        place.write({}, {VM: {**machine, "bandwidth": "off"}})
        daemon = place.ready()
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "sync", VM, "--no-wait", "--config", str(place.config)],
            check=True, timeout=60, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        daemon.wait_for("cycle done", vm=VM)
        assert daemon.terminate()[0] == 0
        [run] = [run for run in place.remembered()[0] if run.point]
        assert (run.point, run.resumed, run.consistency) == (1, True, "cold")
        assert (replica / VM / "disks/디스크 1.vhd").read_bytes() == disk.read_bytes()
        assert place.complaints() == []


def _has_begun_to_write(replica: Path) -> bool:
    return any(path.stat().st_size > 0 for path in (replica / VM / "disks").glob("*.initial"))
