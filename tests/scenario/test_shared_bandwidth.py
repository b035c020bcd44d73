"""Moves that run at once share what bandwidth there is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random

import pytest

from replicad.cli.demo.samba import SambaShare
from replicad.model.moves import MovePhase
from replicad.service.bandwidth import BandwidthLimits
from replicad.settings import Settings, load_settings
from tests.support.cold_moves import ColdMoves
from tests.support.samba import running_samba

pytestmark = pytest.mark.samba

_MIB = 1 << 20
_RATE_BYTES_PER_S = 24 * _MIB
_MACHINE_BYTES = 48 * _MIB
_LATE_S = 0.3


def _machine(directory: Path, files: int) -> None:
    directory.mkdir(parents=True)
    random = Random(files)
    for number in range(files):
        (directory / f"디스크 {number} 💽.vhd").write_bytes(random.randbytes(_MACHINE_BYTES // files))


def _settings(root: Path, address: str, user: str, password: str) -> Settings:
    secret = root / "pw"
    secret.touch(mode=0o600)
    secret.write_text(password)
    file = root / "replicad.yaml"
    file.write_text(
        f"state_dir: {root}/state\n"
        f"bandwidth: {_RATE_BYTES_PER_S // _MIB}M\n"
        f"servers: {{nas: {{address: '{address}', username: {user}, password_file: {secret}}}}}\n",
        encoding="utf-8",
    )
    return load_settings(file)


async def test_two_moves_at_once_get_the_same_share_of_a_limit_however_their_disks_are_cut(tmp_path: Path) -> None:
    """One has all in a single file, the other one in six: equal, but for one part in ten, when the first one ends."""
    share = tmp_path / "공유"
    with running_samba({"vms": SambaShare(share)}) as nas:
        settings = _settings(tmp_path, f"127.0.0.1:{nas.port}", nas.username, nas.password)
        limits = BandwidthLimits(settings)
        ended_s: dict[str, float] = {}

        async def one(vm: str, files: int) -> None:
            _machine(tmp_path / vm, files)
            moves = ColdMoves(settings, vm=vm, limits=limits)
            plan = await moves.plan(str(tmp_path / vm), rf"\\nas\vms\{vm}")
            started.add(vm)
            if len(started) == 2:
                both.set()
            await both.wait()
            assert (await moves.run(plan.record)).phase is MovePhase.DONE
            ended_s[vm] = time.monotonic()

        started: set[str] = set()
        both = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(one("한 파일", 1))
            group.create_task(one("여러 파일", 6))
    # What the second one still had to send when the first one was through.
    behind_bytes = (max(ended_s.values()) - min(ended_s.values()) - _LATE_S) * _RATE_BYTES_PER_S
    assert behind_bytes <= 2 * _MACHINE_BYTES / 10
