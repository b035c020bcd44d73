"""The daemon verifies replicas on a real server: it finds what was damaged behind its back, says so, and mends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from replicad.cli.main import main
from tests.support.daemon import Daemon, Facts, Site, site
from tests.support.installation import Server, described_server
from tests.support.live_api import unix_client
from tests.support.samba import PLAIN, running_samba
from tests.support.scene import flip_bit, make_vhdx

pytestmark = pytest.mark.samba

VM = "웹 서버 🖥"
DISK = "디스크 1.vhdx"
MIB = 1 << 20


@dataclass
class Place:
    """A daemon, its machine's disk, and its replica as the server's own disk has it."""

    site: Site
    daemon: Daemon
    source: Path
    replica: Path
    capsys: pytest.CaptureFixture[str]

    def asked(self, *arguments: str) -> tuple[int, str]:
        """A verb's exit code, and what it prints."""
        self.capsys.readouterr()
        code = main([*arguments, "--config", str(self.site.config)])
        out, err = self.capsys.readouterr()
        assert "in this process" not in err, err
        return code, out

    def status(self) -> Facts:
        code, out = self.asked("status", VM, "--json")
        assert code == 0
        (machine,) = json.loads(out)
        return dict(machine)

    def wait_for_status(self, is_right: Callable[[Facts], bool]) -> Facts:
        """The first one that is."""

        def seek() -> Facts | None:
            found = self.status()
            return found if is_right(found) else None

        return self.daemon.wait_until(seek, "a status that is right", 60)


@contextmanager
def _place(tmp_path: Path, capsys: pytest.CaptureFixture[str], blocks: int = 1, **machine: Any) -> Iterator[Place]:
    with running_samba() as server, site(tmp_path / "설치") as place:
        source, data = tmp_path / "원본", server.share_directory(PLAIN)
        source.mkdir()
        make_vhdx(source / DISK, 1, blocks)
        (data / "사본").mkdir()
        keys = {"source": str(source), "replica": rf"\\nas\{PLAIN}\사본", **machine}
        told = tmp_path / "health.txt"
        hook = ["/bin/sh", "-c", f'cat >> "{told}"']
        place.write(
            {"nas": described_server(place.base, "nas", Server(server, server.port))}, {VM: keys},
            hooks={"on_health_change": hook},
        )  # fmt: skip
        yield Place(place, place.ready(), source, data / "사본" / VM, capsys)
        code, _ = place.daemons[-1].terminate()
        assert code == 0
        assert place.complaints() == []


@pytest.mark.timeout(240)
def test_flipped_byte_is_found_on_schedule_told_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _place(tmp_path, capsys, every="1h", rpo="1d", verify={"every": "1s"}) as place:
        place.daemon.wait_for("cycle done", vm=VM)
        place.daemon.wait_for("verification done: the replica is sound", vm=VM)
        well = place.wait_for_status(lambda machine: machine["verification"] is not None)
        assert (well["health"], well["reasons"], well["verification"]["outcome"]) == ("normal", [], "clean")
        assert f"{VM}: verified " in place.asked("status")[1]

        mark = place.daemon.mark()
        flip_bit(place.replica / "disks" / DISK, 3 * MIB + 7)
        place.daemon.wait_for("the replica is damaged", mark, vm=VM)
        ill = place.status()
        assert (ill["health"], ill["verification"]["outcome"]) == ("critical", "damaged")
        (reason,) = ill["reasons"]
        assert f"{DISK}: chunk " in reason
        assert "point 1 can't be restored as it was" in reason
        assert reason.endswith(f"'replicad verify {VM} --repair' mends what can be mended")
        assert reason in place.asked("status")[1]
        figures = _metrics(place.site)
        assert figures["replicad_verification_damaged"] == figures["replicad_verification_damaged_chunks"] == 1

        told = tmp_path / "health.txt"
        place.daemon.wait_until(
            lambda: {} if told.exists() and '"critical"' in told.read_text() else None, "the hook", 60
        )
        event = json.loads("{" + told.read_text().rpartition("{")[2])
        assert (event["health"], event["reasons"]) == ("critical", [reason])

        assert place.asked("verify", VM)[0] == 3
        code, out = place.asked("verify", VM, "--repair", "--json")
        found = json.loads(out)
        assert (code, [(d["chunks"], d["repaired"]) for d in found["damages"]]) == (0, [(_chunks(reason), True)])
        mended = place.status()
        assert (mended["health"], mended["reasons"]) == ("normal", [])
        assert _metrics(place.site)["replicad_verification_damaged"] == 0
        assert place.asked("verify", VM)[0] == 0


@pytest.mark.timeout(240)
def test_cycles_go_on_during_a_verification_that_takes_many_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"every": "2s", "rpo": "1d", "keep": {"latest": 100}}
    with _place(tmp_path, capsys, 8, **keys, verify={"every": "30d", "bandwidth": "1M"}) as place:
        place.daemon.wait_for("cycle done", vm=VM)
        with (place.source / DISK).open("r+b") as disk:
            disk.seek(5 * MIB)
            disk.write(Random(5).randbytes(MIB))
        place.daemon.wait_for("cycle done", place.daemon.mark(), vm=VM)
        flip_bit(place.replica / "disks" / DISK, 9 * MIB + 7)
        began = place.daemon.mark()
        assert place.asked("verify", VM)[0] == 3
        place.daemon.wait_for("the replica is damaged", began)  # the log is written behind what happens
        between = place.daemon.log.events()[began:]
        done = [event for event in between if event["event"] == "cycle done"]
        assert done, between
        errors = [event["event"] for event in between if event["level"] == "error"]
        assert len(errors) == 1, errors
        (ended,) = [event for event in between if "the replica is damaged" in event["event"]]
        assert ended["damaged_chunks"] == 1
        place.wait_for_status(lambda machine: machine["health"] == "critical")


def _chunks(reason: str) -> list[int]:
    return [int(reason.partition("chunk ")[2].split()[0])]


def _metrics(place: Site) -> dict[str, float]:
    """The figures of the machine that have no label beside its name."""

    async def ask() -> str:
        async with unix_client(place.state_dir / "api.sock") as client:
            return (await client.get("/metrics")).text

    lines = asyncio.run(ask()).splitlines()
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if f'{{vm="{VM}"}}' in line}
