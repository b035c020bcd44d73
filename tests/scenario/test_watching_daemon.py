"""The daemon begins a cycle when a source changes: a local one, and one on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import site
from tests.support.installation import Server, described_server
from tests.support.relay import relay_to
from tests.support.samba import PLAIN, running_samba
from tests.support.scene import change, make_vhdx

pytestmark = pytest.mark.samba

LOCAL, REMOTE = "로컬 🖥", "원격 서버"
DISK = "디스크 1.vhdx"


@pytest.mark.timeout(240)
def test_changes_of_local_and_remote_sources_begin_cycles_and_reload_ends_that(tmp_path: Path) -> None:
    with running_samba() as server, relay_to(server.port) as relay, site(tmp_path / "설치") as place:
        data = server.share_directory(PLAIN)
        sources = {LOCAL: tmp_path / "원본", REMOTE: data / "원본"}
        for number, source in enumerate(sources.values()):
            source.mkdir()
            make_vhdx(source / DISK, number)
        (data / "사본").mkdir()
        servers = {"nas": described_server(place.base, "nas", Server(server, relay.port))}
        addresses = {LOCAL: str(sources[LOCAL]), REMOTE: rf"\\nas\{PLAIN}\원본"}
        machines: dict[str, dict[str, Any]] = {
            vm: {
                "source": address, "replica": rf"\\nas\{PLAIN}\사본", "every": "1h",
                "watch": {"quiet": "1s", "at_most_every": "1s"},
            }
            for vm, address in addresses.items()
        }  # fmt: skip
        place.write(servers, machines)
        daemon = place.ready()
        for vm in machines:
            daemon.wait_for("cycle done", vm=vm)
        for number, (vm, source) in enumerate(sources.items()):
            mark = daemon.mark()
            change(source / DISK, 7 + number)
            assert daemon.wait_for("cycle began", mark, vm=vm)["trigger"] == "request"
            done = daemon.wait_for("cycle done", mark, vm=vm)
            assert done["changed_bytes"] > 0
        machines[LOCAL]["watch"] = False
        place.write(servers, machines)
        mark = daemon.mark()
        daemon.hang_up()
        daemon.wait_for("configuration taken", mark)
        mark = daemon.mark()
        change(sources[LOCAL] / DISK, 20)
        change(sources[REMOTE] / DISK, 21)
        daemon.wait_for("cycle done", mark, vm=REMOTE)
        assert not [event for event in daemon.log.events()[mark:] if event.get("vm") == LOCAL]
        relay.freeze()
        code, took_s = daemon.terminate()
        relay.thaw()
        assert (code, took_s < 5) == (0, True)
        assert place.complaints() == []
