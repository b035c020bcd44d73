"""A whole installation in one directory, driven as its administrator drives it: a configuration, a source, a replica,
and `replicad` as a process of its own. For scenarios that ask what is said and done when something is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replicad.cli.main import main
from tests.support.samba import ENCRYPTED, SambaDirectory
from tests.support.vhdx_builder import MIB, Block, Spec, build

VM = "웹 서버 🖥"
BLOCK_AT = 4 * MIB
"""Where the first block of `make_vhdx` lies in its file."""
_PROGRESS = re.compile(
    r"locking the replica|holding the source|committing|pruning|repairing"
    r"|(initial|delta|resynchronisation|comparing|restoring|verifying( point \d+)?|reading the replica of .+): .+"
    r"|warning: .+"
)
_SENTENCE = re.compile(r"replicad: cannot \S.*: \S.*[^.]\. [A-Z'].+[^.\s]\.?")
_COMMAND = [sys.executable, "-c", "import sys; from replicad.cli.main import main; sys.exit(main())"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of `replicad` ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """What stderr says beside progress and warnings."""
        return [line for line in self.err.splitlines() if not _PROGRESS.fullmatch(line)]

    @property
    def warnings(self) -> list[str]:
        """The warnings on stderr."""
        return [line.removeprefix("warning: ") for line in self.err.splitlines() if line.startswith("warning: ")]

    def done(self) -> Outcome:
        """Assert that it went well, and that nothing but progress and warnings was said on stderr."""
        assert (self.code, self.complaints) == (0, []), self
        return self

    def json(self) -> Any:
        """What stdout holds, all of it one JSON document."""
        return json.loads(self.out)

    def refused(self, code: int, *parts: str) -> Outcome:
        """Assert the exit code, one sentence with a hint that holds all the parts, and nothing on stdout."""
        assert self.code == code, self
        assert self.out == "", self
        assert len(self.complaints) == 1, self
        assert _SENTENCE.fullmatch(self.complaints[0]), self.complaints[0]
        for part in parts:
            assert part in self.complaints[0], f"{part!r} is not in {self.complaints[0]!r}"
        return self


def tree_of(top: Path) -> dict[str, str]:
    """Everything below a directory but lock files: what it is, and a digest of its content."""
    found: dict[str, str] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "directory"
        elif path.name != "replica.lock":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def make_vhdx(path: Path, seed: int, blocks: int = 1) -> Path:
    """A small dynamic VHDX; its blocks hold 256 KiB of random bytes each."""
    data = random.Random(seed)
    spec = Spec(virtual_size=16 * MIB, blocks={n: Block(data=data.randbytes(256 * 1024)) for n in range(blocks)})
    return build(spec).save(path)


def change(path: Path, seed: int, at: int = BLOCK_AT, length: int = 64 * 1024) -> None:
    """Overwrite bytes of a file, as a guest would."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(seed).randbytes(length))


def flip_bit(path: Path, at: int) -> None:
    """Turn one bit of a file over; `at` counts from its end if it is negative."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


@dataclass
class Scene:
    """`base` has the configuration and what belongs to it. `machine` and `servers` are YAML values by key; a change
    of them takes effect at the next run. `history` is what the source held at each point."""

    base: Path
    source: Path
    replica_share: Path
    machine: dict[str, str] = field(default_factory=dict)
    servers: dict[str, dict[str, str]] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    history: dict[int, dict[str, bytes]] = field(default_factory=dict)
    vm: str = VM

    @property
    def replica(self) -> Path:
        """The VM's own directory on the replica's share."""
        return self.replica_share / self.vm

    @property
    def config(self) -> Path:
        """Where the configuration is."""
        return self.base / "replicad.yaml"

    def configure(self) -> None:
        """Write the configuration."""
        lines = [f"state_dir: {_quoted(str(self.base / 'state'))}"]
        if self.servers:
            lines.append("servers:")
            for name, keys in self.servers.items():
                lines += [f"  {name}:", *(f"    {key}: {value}" for key, value in keys.items())]
        keys = {"disks": '["*.vhdx"]', "consistency": "{wait: 1s}", **self.machine}
        lines += ["virtual_machines:", f"  {_quoted(self.vm)}:", *(f"    {key}: {keys[key]}" for key in keys)]
        self.config.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Outcome:
        """`replicad` with these arguments and this scene's configuration; it never shows a secret or a traceback."""
        process = self.start(*arguments, environ=environ)
        out, err = process.communicate(timeout=60)
        return self.checked(Outcome(process.returncode, out, err))

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """The same, without waiting for it."""
        self.configure()
        return subprocess.Popen(
            [*_COMMAND, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=self.base,
            env={**os.environ, "REPLICAD_CONFIG": str(self.config), "PYTHONPATH": str(Path.cwd()), **(environ or {})},
        )  # fmt: skip

    def checked(self, outcome: Outcome) -> Outcome:
        """Assert what no run may ever say."""
        for secret in self.secrets:
            assert secret not in outcome.out + outcome.err
        assert "Traceback" not in outcome.err, outcome.err
        return outcome

    def here(self, *arguments: str) -> Outcome:
        """The same as `run` in this process: quicker, for what comes before and after the scenario itself."""
        self.configure()
        return self.as_configured(*arguments)

    def as_configured(self, *arguments: str) -> Outcome:
        """The same, with the configuration file as it is."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments[:1], "--config", str(self.config), *arguments[1:]])
        return self.checked(Outcome(code, out.getvalue(), err.getvalue()))

    def sync(self, *options: str) -> int:
        """A cycle that goes well; the number of its point."""
        number: int = self.here("sync", self.vm, "--standalone", "--json", *options).done().json()["point"]
        self.history[number] = contents(self.source)
        return number

    @contextlib.contextmanager
    def untouched(self, but: str | None = None) -> Iterator[None]:
        """Assert that the source and the replica's share stay as they are, but for paths that `but` is a part of."""
        tops = (self.source, self.replica_share)
        before = [_without(tree_of(top), but) for top in tops]
        yield
        assert [_without(tree_of(top), but) for top in tops] == before

    def check_points(self) -> None:
        """Every point restores to what the source held at it."""
        for number, wanted in self.history.items():
            target = self.base / f"restored {number}"
            self.here("restore", self.vm, "--standalone", "--point", str(number), "--to", str(target)).done()
            assert contents(target) == wanted, f"point {number} is not what it was"
            for path in target.iterdir():
                path.unlink()


def _without(tree: dict[str, str], part: str | None) -> dict[str, str]:
    return {name: what for name, what in tree.items() if part is None or part not in name}


def contents(directory: Path) -> dict[str, bytes]:
    """The files in a directory, without links."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and not p.is_symlink()}


def local_scene(base: Path) -> Scene:
    """Source and replica are local directories; the source has one small VHDX, `디스크 1.vhdx`."""
    source, replica = base / "원본 1", base / "복제 2"
    for directory in (source, replica):
        directory.mkdir()
    make_vhdx(source / "디스크 1.vhdx", 1)
    return Scene(base, source, replica, {"source": _quoted(str(source)), "replica": _quoted(str(replica))})


def scene_with_three_points(base: Path, disk: str) -> Scene:
    """A local scene with three points, between which this disk changed; its source stays as it is at the third."""
    made = local_scene(base)
    made.sync()
    for seed in (2, 3):
        change(made.source / disk, seed)
        made.sync()
    return made


def smb_scene(base: Path, directory: SambaDirectory, share: str = ENCRYPTED) -> Scene:
    """The same with both in a fresh directory of the common server, reached through one of its shares."""
    server, scene = directory.server, local_scene(directory.path)
    scene.base = base
    passwords = base / "비밀번호"
    passwords.write_text(server.password + "\n")
    passwords.chmod(0o600)
    scene.servers["nas"] = {
        "address": f"{server.host}:{server.port}", "username": server.username,
        "password_file": _quoted(str(passwords)),
    }  # fmt: skip
    scene.secrets.append(server.password)
    for key, path in (("source", scene.source), ("replica", scene.replica_share)):
        scene.machine[key] = smb(share, directory.path.name, path.name)
    return scene


def smb(*parts: str) -> str:
    r"""The YAML value of an address below `\\nas`."""
    return _quoted("\\\\" + "\\".join(["nas", *parts]))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
