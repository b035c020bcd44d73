"""Pruning on a real server: the server copies the old bytes, and what stays is exact."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from replicad.cli.demo.samba import PrivateSamba
from replicad.cli.main import main
from tests.scenario.test_wire_bytes import Replicated, replicated
from tests.support.installation import VM
from tests.support.machine_model import CHUNK, MIB

pytestmark = pytest.mark.samba

_log = logging.getLogger(__name__)

DISK_BYTES = 64 * MIB


def _points(it: Replicated, *options: str) -> list[dict[str, object]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert main(["points", VM, "--config", str(it.installation.config), "--json", *options]) == 0
    points: list[dict[str, object]] = json.loads(out.getvalue())
    return points


def _keep(it: Replicated, **keep: int) -> None:
    document = json.loads(it.installation.config.read_text())
    document["virtual_machines"][VM]["keep"] = keep
    it.installation.config.write_text(json.dumps(document, ensure_ascii=False))


def test_merging_undo_logs_moves_no_old_bytes_over_the_wire(
    room: Path, samba_server: PrivateSamba, record_property: Callable[[str, object], None]
) -> None:
    with replicated(room, samba_server, DISK_BYTES) as it:
        contents = {1: it.disk.read_bytes()}
        for number in range(2, 7):
            it.sync(it.change(Random(number), DISK_BYTES // CHUNK // 20))
            contents[number] = it.disk.read_bytes()
        assert _points(it, "--pin", "1")[0]["kept_by"] == ["latest", "pinned"]
        _keep(it, latest=1)
        planned = it.installation.run("prune", "--dry-run", "--json").facts
        assert [p["number"] for p in planned["points"] if p["why_removed"]] == [2, 3, 4, 5]
        assert len(_points(it)) == 6
        it.relay.reset()
        report = it.installation.run("prune", "--json").facts
        wire_bytes = it.relay.traffic.total_bytes
        assert [p["number"] for p in report["points"] if p["removed"]] == [2, 3, 4, 5]
        assert report["freed_bytes"] > 0
        saved_bytes = sum(a != b for a, b in zip(_chunks(contents[1]), _chunks(contents[6]), strict=True)) * CHUNK
        record_property("wire_bytes", wire_bytes)
        _log.info("merging logs into one of %d bytes: %d bytes on the wire", saved_bytes, wire_bytes)
        assert saved_bytes > 10 * MIB
        assert wire_bytes < 512 * 1024
        assert [(p["number"], p["kept_by"]) for p in _points(it)] == [(1, ["pinned"]), (6, ["latest"])]
        for number in (1, 6):
            target = room / f"되살린 것 {number}"
            it.installation.run("restore", "--point", str(number), "--to", str(target))
            assert (target / it.disk.name).read_bytes() == contents[number]
        it.installation.run("restore", "--point", "3", "--to", str(room / "없음"), expect=10)
        assert it.installation.run("verify", "--json").facts["damages"] == []


def test_cycles_prune_by_themselves_and_each_point_that_stays_is_exact(room: Path, samba_server: PrivateSamba) -> None:
    with replicated(room, samba_server, 8 * MIB) as it:
        _keep(it, latest=3)
        contents = {1: it.disk.read_bytes()}
        for number in range(2, 9):
            it.sync(it.change(Random(number), 16))
            contents[number] = it.disk.read_bytes()
        assert [p["number"] for p in _points(it)] == [6, 7, 8]
        for number in (6, 7, 8):
            target = room / f"되살린 것 {number}"
            it.installation.run("restore", "--point", str(number), "--to", str(target))
            assert (target / it.disk.name).read_bytes() == contents[number]
        assert it.installation.run("verify", "--json").facts["damages"] == []


def _chunks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
