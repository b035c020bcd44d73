"""The virtual machine of the story: two disks and a configuration file, made by QEMU's and ext4's own tools."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replicad.model.errors import PermanentError

from .programs import Interruption, run_program

SYSTEM = "web01"
DATA = "회계 데이터 📒"
LEDGER = "/srv/회계/장부 2026 📒.txt"
LEDGER_BEFORE = "잔액 Balance: 1,000,000 KRW\n"
LEDGER_AFTER = "잔액 Balance: 0 KRW (overwritten by mistake)\n"

_MIB = 1 << 20
_PAGE_BYTES = 4096
_SYSTEM_BYTES = 96 * _MIB
_PHOTOS_BYTES = 24 * _MIB
_DATA_BYTES = 128 * _MIB
_RECORDS = ((0, 12 * _MIB), (96 * _MIB, 4 * _MIB))
_CHANGED_RECORDS = ((1 * _MIB, 64 << 10), (7 * _MIB, 64 << 10), (97 * _MIB, 64 << 10))
_DOMAIN = """<domain type='kvm'>
  <name>web01</name>
  <description>웹 서버 🖥</description>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that are here: without QEMU's disks are plain bytes, without ext4's they hold no file system."""

    qemu_img: str | None
    qemu_io: str | None
    mke2fs: str | None
    debugfs: str | None

    @property
    def vhdx(self) -> bool:
        return self.qemu_img is not None and self.qemu_io is not None

    @property
    def file_system(self) -> bool:
        return self.mke2fs is not None and self.debugfs is not None


def find_tools() -> Tools:
    """Administrators' programs are often not on the path of ordinary users."""

    def find(name: str) -> str | None:
        return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")

    return Tools(find("qemu-img"), find("qemu-io"), find("mke2fs"), find("debugfs"))


@dataclass(frozen=True, slots=True)
class Machine:
    """Its disks are in `directory`; `scratch` holds what they are made from. Methods raise PermanentError if a tool
    fails and TimedOutError if one does not end."""

    directory: Path
    scratch: Path
    tools: Tools
    interruption: Interruption

    @property
    def suffix(self) -> str:
        return ".vhdx" if self.tools.vhdx else ".img"

    @property
    def disks(self) -> tuple[Path, Path]:
        """The system disk and the data disk."""
        return self.directory / f"{SYSTEM}{self.suffix}", self.directory / f"{DATA}{self.suffix}"

    def build(self) -> None:
        """Make the disks and the configuration file."""
        self.directory.mkdir()
        system, data = self.disks
        raw = self.scratch / "system.raw"
        self._make_system(raw)
        if self.tools.vhdx:
            self._qemu_img("convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", raw, system)
            self._qemu_img("create", "-q", "-f", "vhdx", "-o", "block_size=1M", data, str(_DATA_BYTES))
        else:
            shutil.copyfile(raw, system)
            data.touch()
            os.truncate(data, _DATA_BYTES)
        self._write(data, [(offset, os.urandom(length)) for offset, length in _RECORDS])
        (self.directory / f"{SYSTEM}.xml").write_text(_DOMAIN, encoding="utf-8")

    def change(self) -> int:
        """Overwrite the ledger, add a file, and change some records of the data disk; how many bytes were written."""
        system, data = self.disks
        old, new = self.scratch / "system.raw", self.scratch / "system-changed.raw"
        shutil.copyfile(old, new)
        if self.tools.file_system:
            self._put_file(new, LEDGER, LEDGER_AFTER.encode(), replace=True)
            self._put_file(new, "/srv/회계/메모.bin", os.urandom(300_000))
        else:
            _overwrite(new, [(40 * _MIB, os.urandom(300_000))])
        pieces = _differences(old, new)
        self._write(system, pieces)
        records = [(offset, os.urandom(length)) for offset, length in _CHANGED_RECORDS]
        self._write(data, records)
        return sum(len(data) for _, data in (*pieces, *records))

    def ledger(self, disk: Path) -> str | None:
        """What the ledger says in the file system on a disk that was restored; None where there is no file system."""
        if not self.tools.file_system:
            return None
        raw = disk
        if self.tools.vhdx:
            raw = self.scratch / "looked-at.raw"
            self._qemu_img("convert", "-f", "vhdx", "-O", "raw", disk, raw)
        return self._run([str(self.tools.debugfs), "-R", f'cat "{LEDGER}"', str(raw)])

    def compare(self, one: Path, other: Path) -> str:
        """Let QEMU compare what guests would read of two disks; what it says. PermanentError if that differs."""
        return self._qemu_img("compare", "-f", "vhdx", "-F", "vhdx", one, other)

    def _make_system(self, raw: Path) -> None:
        raw.touch()
        os.truncate(raw, _SYSTEM_BYTES)
        if not self.tools.file_system:
            _overwrite(raw, [(_MIB, os.urandom(_PHOTOS_BYTES))])
            return
        files = self.scratch / "files"
        ledger = files / LEDGER.lstrip("/")
        ledger.parent.mkdir(parents=True)
        ledger.write_text(LEDGER_BEFORE, encoding="utf-8")
        photos = files / "srv" / "사진 🏞"
        photos.mkdir()
        for number in range(6):
            (photos / f"바다 {number}.jpg").write_bytes(os.urandom(_PHOTOS_BYTES // 6))
        self._run([str(self.tools.mke2fs), "-q", "-F", "-t", "ext4", "-d", str(files), str(raw)])

    def _put_file(self, raw: Path, path: str, content: bytes, *, replace: bool = False) -> None:
        (self.scratch / "put").write_bytes(content)
        directory, _, name = path.rpartition("/")
        requests = [f'cd "{directory}"', *([f'rm "{name}"'] if replace else []), f'write put "{name}"']
        (self.scratch / "requests").write_text("\n".join(requests) + "\n", encoding="utf-8")
        self._run([str(self.tools.debugfs), "-w", "-f", "requests", str(raw)])

    def _write(self, disk: Path, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Write to a disk as a guest would: through QEMU, in place."""
        if not self.tools.vhdx:
            _overwrite(disk, pieces)
            return
        command = [str(self.tools.qemu_io), "-f", "vhdx"]
        for number, (offset, data) in enumerate(pieces):
            (self.scratch / f"piece-{number}").write_bytes(data)
            command += ["-c", f"write -q -s piece-{number} {offset} {len(data)}"]
        self._run([*command, str(disk)])

    def _qemu_img(self, *arguments: str | Path) -> str:
        return self._run([str(self.tools.qemu_img), *map(str, arguments)])

    def _run(self, command: Sequence[str]) -> str:
        done = run_program(command, self.interruption, cwd=self.scratch)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            name = Path(command[0]).name
            raise PermanentError("make", "the virtual machine", f"{name} ended with status {done.returncode}: {said}")
        return done.stdout


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _overwrite(path: Path, pieces: Sequence[tuple[int, bytes]]) -> None:
    with path.open("r+b") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)


def _differences(old: Path, new: Path) -> list[tuple[int, bytes]]:
    """The pieces of `new` that are not so in `old`, at whole pages, neighbours joined."""
    before, after = old.read_bytes(), new.read_bytes()
    pieces: list[tuple[int, bytearray]] = []
    for offset in range(0, len(after), _PAGE_BYTES):
        page = after[offset : offset + _PAGE_BYTES]
        if page == before[offset : offset + _PAGE_BYTES]:
            continue
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == offset:
            pieces[-1][1].extend(page)
        else:
            pieces.append((offset, bytearray(page)))
    return [(offset, bytes(data)) for offset, data in pieces]
