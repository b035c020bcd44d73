"""Where the measurements take place: one disk, one private SMB server, all of it in memory."""

from __future__ import annotations

import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicad.cli.demo.samba import PrivateSamba, SambaShare

from .harness import Measurement, measure

VM = "disks"
DISK = "디스크.vhdx"
CHUNK_BYTES = 64 << 10
PROTECTIONS = {"encrypted": ("required", "encrypt"), "signed": ("allowed", "sign")}
"""Share name: replicad's `encryption` and smbclient's `--client-protection`."""

_FIRST_PAYLOAD_BYTES = 8 << 20
_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Lab:
    """The disk is `source/디스크.vhdx`; each share shows a directory of its own."""

    root: Path
    server: PrivateSamba
    protection: str
    rng: random.Random

    @property
    def disk(self) -> Path:
        return self.root / "source" / DISK

    @property
    def share_directory(self) -> Path:
        """What is behind the share that is measured now."""
        return self.server.share_directory(self.protection)

    @property
    def target(self) -> Path:
        """A local directory to restore to."""
        return self.root / "restored"

    def replicad(self, *arguments: str) -> tuple[Measurement, Any]:
        """Run a verb with `--json`; what it took and what it said. Its warnings and phases are dropped."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REPLICAD_")}
        environment["REPLICAD_CONFIG"] = str(self._write_configuration())
        measured, text = measure([sys.executable, "-c", _PROGRAM, *arguments, "--json"], environment)
        return measured, json.loads(text[text.index("\n{") :])

    def smbclient(self, command: str) -> Measurement:
        """Run one command of smbclient's."""
        protection = PROTECTIONS[self.protection][1]
        service = f"//{self.server.host}/{self.protection}"
        environment = {**os.environ, "USER": self.server.username, "PASSWD": self.server.password}
        return measure(
            ["smbclient", "-s", "/dev/null", "-p", str(self.server.port), f"--client-protection={protection}", service,
             "-c", command],
            environment,
        )[0]  # fmt: skip

    def forget_replica(self) -> None:
        """As if nothing had been replicated yet."""
        for path in (self.share_directory / VM, self.root / "state"):
            shutil.rmtree(path, ignore_errors=True)

    def change_one_percent(self) -> None:
        """Overwrite one in a hundred of the disk's chunks, anywhere."""
        chunks = self.disk.stat().st_size // CHUNK_BYTES
        first = _FIRST_PAYLOAD_BYTES // CHUNK_BYTES
        with self.disk.open("r+b") as file:
            for index in self.rng.sample(range(first, chunks), max(1, chunks // 100)):
                file.seek(index * CHUNK_BYTES)
                file.write(self.rng.randbytes(CHUNK_BYTES))

    def check_same(self, copy: Path) -> None:
        """AssertionError if a copy is not what the disk is."""
        assert filecmp.cmp(self.disk, copy, shallow=False), f"{copy} is not equal to the disk"

    def _write_configuration(self) -> Path:
        password = self.root / "nas.pw"
        password.touch(mode=0o600)
        password.write_text(self.server.password)
        file = self.root / "replicad.yaml"
        file.write_text(
            f"state_dir: {self.root / 'state'}\n"
            "servers:\n"
            f"  nas: {{address: '{self.server.host}:{self.server.port}', username: {self.server.username},"
            f" password_file: {password}, encryption: {PROTECTIONS[self.protection][0]}}}\n"
            "virtual_machines:\n"
            f"  {VM}: {{source: {self.disk.parent}, replica: '\\\\nas\\{self.protection}'}}\n",
            encoding="utf-8",
        )
        return file


@contextmanager
def labs(directory: Path, size_bytes: int, seed: int) -> Iterator[list[Lab]]:
    """A lab for each kind of protection, on one server and one disk of `size_bytes` that can't be compressed."""
    root = Path(tempfile.mkdtemp(prefix="replicad-bench-", dir=directory))
    try:
        rng = random.Random(seed)
        _make_disk(root / "source" / DISK, size_bytes)
        shares = {
            name: SambaShare(root / name, encryption_required=name == "encrypted") for name in PROTECTIONS
        }  # fmt: skip
        for share in shares.values():
            share.directory.mkdir()
        server = PrivateSamba(root / "smbd", shares)
        try:
            server.start()
            yield [Lab(root, server, name, rng) for name in PROTECTIONS]
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)


def _make_disk(path: Path, size_bytes: int) -> None:
    path.parent.mkdir()
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(os.urandom(1 << 20))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", raw, path],
        check=True, timeout=600, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    raw.unlink()
