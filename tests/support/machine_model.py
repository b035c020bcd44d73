"""A virtual machine's files in a directory, changed at random by QEMU and by hand, and what they were at each point."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.support.installation import Installation
from tests.support.programs import run

CHUNK = 64 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileState:
    """Size and SHA-256 of a file."""

    size_bytes: int
    sha256: str


def file_state(path: Path) -> FileState:
    """What a file holds now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileState(file.tell(), digest)


def tree_state(directory: Path) -> dict[str, FileState]:
    """All files below a directory, by path."""
    return {str(p.relative_to(directory)): file_state(p) for p in sorted(directory.rglob("*")) if p.is_file()}


@dataclass
class MachineModel:
    """`directory` is the source; `history` says what it held at each point, and `kept` keeps copies, if given."""

    directory: Path
    random: Random
    kept: Path | None = None
    most_raw_bytes: int = 6 * MIB
    virtual_mib: int = 64
    most_disks: int = 6
    history: dict[int, dict[str, FileState]] = field(default_factory=dict)
    made: int = 0

    def begin(self) -> None:
        """Make the first disks and a configuration file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.new_vhdx()
        self.new_raw()
        (self.directory / "웹 서버.xml").write_text("<machine generation='0'/>")

    # What can happen to a virtual machine between two cycles.

    def in_place(self) -> None:
        """Overwrite, zero and punch holes here and there, without a change of size; and write into a VHDX."""
        for path in self._some(self._raws()):
            self._overwrite(path)
        for path in self._some(self._vhdxs()):
            self._write_in_vhdx(path)
        (self.directory / "웹 서버.xml").write_text(f"<machine generation='{self.random.random()}'/>")

    def growth(self) -> None:
        """Append to a raw disk, by data or by a hole; let a dynamic VHDX allocate blocks."""
        path = self.random.choice(self._raws())
        room = max(0, self.most_raw_bytes - path.stat().st_size)
        more = min(room, self.random.choice([1, 511, CHUNK, CHUNK + 1, 5 * CHUNK, MIB]))
        with path.open("r+b") as file:
            if self.random.random() < 0.5:
                file.truncate(path.stat().st_size + more)
            else:
                file.seek(0, 2)
                file.write(self.random.randbytes(more))
        for disk in self._some(self._vhdxs()):
            self._write_in_vhdx(disk)

    def shrink(self) -> None:
        """Cut a raw disk; compact a VHDX into a new file that takes its place."""
        path = self.random.choice(self._raws())
        size_bytes = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(self.random.choice([size_bytes // 2, max(0, size_bytes - 1), size_bytes // CHUNK * CHUNK]))
        if vhdxs := self._vhdxs():
            disk = self.random.choice(vhdxs)
            compact = disk.with_suffix(".compact")
            run("qemu-img", "convert", "-f", "vhdx", "-O", "vhdx", "-o", "block_size=1M", str(disk), str(compact))
            compact.replace(disk)

    def new_disk(self) -> None:
        """One more disk, in place of another if there are many."""
        if len(self._raws()) + len(self._vhdxs()) >= self.most_disks:
            self.removed_disk()
        self.random.choice([self.new_vhdx, self.new_raw])()

    def removed_disk(self) -> None:
        """One disk fewer, if there is one to spare of its kind."""
        spare = [paths for paths in (self._raws(), self._vhdxs()) if len(paths) > 1]
        if not spare:
            self.new_raw()
            spare = [self._raws()]
        self.random.choice(self.random.choice(spare)).unlink()

    def replaced_disk(self) -> None:
        """Another disk under the same name."""
        path = self.random.choice(self._raws())
        path.unlink()
        self._fill(path)

    @property
    def changes(self) -> list[Callable[[], None]]:
        """Each kind of change that the issue names."""
        return [self.in_place, self.growth, self.shrink, self.new_disk, self.removed_disk]

    def some_changes(self) -> None:
        """A few changes of any kind."""
        for change in self.random.choices([*self.changes, self.replaced_disk], [6, 3, 1, 1, 1, 1], k=2):
            change()

    def new_vhdx(self) -> None:
        """A new VHDX, dynamic or fixed, with something written in it."""
        path = self._new_path("디스크 {} 💾.vhdx")
        fixed = self.random.random() < 0.3
        options = "subformat=fixed,block_size=1M" if fixed else "subformat=dynamic,block_size=1M"
        run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, str(path), f"{4 if fixed else self.virtual_mib}M")
        self._write_in_vhdx(path)

    def new_raw(self) -> None:
        """A new disk of plain bytes."""
        name = self.random.choice(["raw {}.vhd", "raw {}.img", "하위 폴더/raw {}.img"])
        self._fill(self._new_path(name))

    # What was, and what it is held against.

    def state(self) -> dict[str, FileState]:
        """What the source holds now."""
        return tree_state(self.directory)

    def remember(self, point: int, state: dict[str, FileState] | None = None) -> None:
        """The source as it is now is what `point` must restore; a copy of it is kept."""
        assert point not in self.history
        self.history[point] = state or self.state()
        if self.kept is not None:
            target = self.kept / str(point)
            target.parent.mkdir(parents=True, exist_ok=True)
            run("cp", "-r", "--sparse=always", str(self.directory), str(target))

    def check_point(self, point: int, installation: Installation, scratch: Path) -> None:
        """Restore a point by the command line: the same files, the same bytes, and the same to QEMU."""
        scratch.mkdir()
        installation.run("restore", "--to", str(scratch), "--point", str(point))
        assert tree_state(scratch) == self.history[point], f"point {point} is not what it was"
        if self.kept is not None:
            for path in scratch.rglob("*.vhdx"):
                kept = self.kept / str(point) / path.relative_to(scratch)
                run("qemu-img", "compare", "-s", "-f", "vhdx", "-F", "vhdx", str(kept), str(path))
        shutil.rmtree(scratch)

    def _raws(self) -> list[Path]:
        return sorted(p for p in self.directory.rglob("raw *") if p.is_file())

    def _vhdxs(self) -> list[Path]:
        return sorted(self.directory.rglob("*.vhdx"))

    def _some(self, paths: list[Path]) -> list[Path]:
        return self.random.sample(paths, min(len(paths), self.random.randint(1, 2)))

    def _new_path(self, template: str) -> Path:
        self.made += 1
        path = self.directory / template.format(self.made)
        path.parent.mkdir(exist_ok=True)
        return path

    def _fill(self, path: Path) -> None:
        with path.open("wb") as file:
            for _ in range(self.random.randint(1, 4)):
                file.write(self.random.randbytes(self.random.choice([1, 4097, CHUNK, 4 * CHUNK, MIB])))
                file.seek(self.random.choice([0, 0, 2 * CHUNK, MIB]), 1)
            file.truncate(min(self.most_raw_bytes, file.tell()))

    def _overwrite(self, path: Path) -> None:
        size_bytes = path.stat().st_size
        with path.open("r+b") as file:
            for _ in range(self.random.randint(1, 6)):
                start = self.random.randint(0, size_bytes)
                length = min(size_bytes - start, self.random.choice([1, 512, 4096, CHUNK, 3 * CHUNK, MIB]))
                if length > 0 and self.random.random() < 0.2:
                    run("fallocate", "-p", "-o", str(start), "-l", str(length), str(path))
                else:
                    file.seek(start)
                    file.write(self.random.randbytes(length))
                    file.flush()

    def _write_in_vhdx(self, path: Path) -> None:
        virtual_bytes = _virtual_size(path)
        commands: list[str] = []
        for _ in range(self.random.randint(1, 5)):
            length = self.random.choice([512, 4096, 64 * 1024, MIB])
            offset = self.random.randrange(0, (virtual_bytes - length) // 512 + 1) * 512
            kind = self.random.choice(["write -P {}", "write -P {}", "write -P {}", "write -P 0"])
            commands += ["-c", f"{kind.format(self.random.randint(1, 255))} {offset} {length}"]
        run("qemu-io", "-f", "vhdx", *commands, str(path))


def _virtual_size(path: Path) -> int:
    return int(json.loads(run("qemu-img", "info", "--output=json", "-f", "vhdx", str(path)))["virtual-size"])
