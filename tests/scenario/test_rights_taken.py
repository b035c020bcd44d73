"""Rights on the replica that are taken away in the middle of a cycle: one sentence, exit code 12, nothing lost, and the
cycle goes on when they are given back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicad.cli.demo.samba import PrivateSamba
from tests.support.samba import PLAIN
from tests.support.stage import SmallStage, small_stage

pytestmark = [
    pytest.mark.samba,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="smbd can become another user for root only"),
]
Record = Callable[[str, object], None]
UNIX_NAME = "nobody"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to take rights away, and to give them back."""

    take: Callable[[SmallStage], None]
    give_back: Callable[[SmallStage], None]


def _all(stage: SmallStage) -> list[Path]:
    return [stage.share, *stage.share.rglob("*")]


def _chmod(stage: SmallStage, *, writable: bool) -> None:
    for path in _all(stage):
        mode = 0o700 if path.is_dir() else 0o600
        path.chmod(mode if writable else mode & 0o500)


def _chown(stage: SmallStage, *, writable: bool) -> None:
    for path in _all(stage):
        shutil.chown(path, UNIX_NAME if writable else "root")
        path.chmod(0o755 if path.is_dir() else 0o644)


def _acl(stage: SmallStage, *, writable: bool) -> None:
    for path in _all(stage):
        shutil.chown(path, "root")
        path.chmod(0o700 if path.is_dir() else 0o600)
    rights = "rwX" if writable else "rX"
    subprocess.run(["setfacl", "-R", "-m", f"u:{UNIX_NAME}:{rights}", str(stage.share)], check=True)


def _reload(stage: SmallStage, *, writable: bool) -> None:
    """What an administrator does: another configuration, read anew, and the share closed for those who have it open."""
    path = stage.server.configuration_path
    now, then = ("yes", "no") if writable else ("no", "yes")
    text = path.read_text()
    assert f"read only = {now}" in text
    path.write_text(text.replace(f"read only = {now}", f"read only = {then}"))
    for message in (["reload-config"], ["close-share", PLAIN]):
        subprocess.run(["smbcontrol", "-s", str(path), "smbd", *message], check=True, timeout=30)


WAYS = {
    "chmod": Way(lambda stage: _chmod(stage, writable=False), lambda stage: _chmod(stage, writable=True)),
    "chown": Way(lambda stage: _chown(stage, writable=False), lambda stage: _chown(stage, writable=True)),
    "ACL": Way(lambda stage: _acl(stage, writable=False), lambda stage: _acl(stage, writable=True)),
    "reload": Way(lambda stage: _reload(stage, writable=False), lambda stage: _reload(stage, writable=True)),
}


def _somebody(server: PrivateSamba) -> None:
    """Another user than root, whom no rights hold back."""
    server.username, server.password = "아무개", "아무개's password"
    server.add_user(server.username, server.password, unix_name=UNIX_NAME)
    shutil.chown(server.share_directory(PLAIN), UNIX_NAME)
    server.share_directory(PLAIN).chmod(0o700)


def _take_at_moments(room: Path, how: str, parts: int) -> Counter[str]:
    met: Counter[str] = Counter()
    with _staged(room, how) as stage:
        stage.sync()
        stage.model.some_changes()
        usual = stage.sync()
        for part in range(parts):
            stage.model.some_changes()
            at_message = part * usual // parts
            outcome = stage.tried("sync", at_message=at_message, do=lambda: WAYS[how].take(stage))
            if outcome is not None and outcome.code != 0:
                said = outcome.complaint
                assert outcome.code == 12, said
                assert re.search("access is denied|the share is read-only", said), said
                assert re.search(r"Give the user rights|Let the user write", said), said
                met["refused"] += 1
                stage.check_point(stage.troubles.random.choice(sorted(stage.model.history)))
                again = stage.installation.tried("sync")
                assert (again.code, len(again.complaint.splitlines())) == (12, 1), again.stderr
                stage.replica.check_names()
            else:
                met["done all the same"] += 1
            WAYS[how].give_back(stage)
            stage.sync()
        stage.check_all_points()
    return met


def _staged(room: Path, how: str) -> AbstractContextManager[SmallStage]:
    return small_stage(room, f"rights {how}", prepare=_somebody)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["chown", "reload"])
def test_rights_that_are_taken_away_in_a_cycle(how: str, room: Path) -> None:
    assert _take_at_moments(room, how, 4)["refused"] >= 2


@pytest.mark.soak
@pytest.mark.parametrize("how", WAYS)
def test_rights_that_are_taken_away_at_any_moment_of_a_cycle(how: str, room: Path, record_property: Record) -> None:
    for what, count in _take_at_moments(room, how, 60).items():
        record_property(what, count)
