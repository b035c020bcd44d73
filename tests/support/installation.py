"""replicad as its users have it: a configuration file, a state directory, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicad.cli.demo.samba import PrivateSamba
from replicad.cli.main import main

VM = "웹 서버 🖥"
PATTERNS = ("*.vhdx", "*.vhd", "*.img")

_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
_MEASURED_PROGRAM = """
import sys
from pathlib import Path
from replicad.cli.main import main
code = main(sys.argv[2:])
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
Path(sys.argv[1]).write_text(status["VmHWM"].split()[0])
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def facts(self) -> Any:
        """What it printed as JSON."""
        return json.loads(self.stdout)

    @property
    def complaint(self) -> str:
        """The one sentence in which it says what went wrong."""
        said = [line for line in self.stderr.splitlines() if line.startswith("replicad: ")]
        assert len(said) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return said[0]


@dataclass(frozen=True, slots=True)
class Server:
    """An SMB server for the configuration: which one, and the port if not its own (that of a relay)."""

    samba: PrivateSamba
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Installation:
    """One configured virtual machine, `VM`; `base` holds the configuration and the state directory."""

    base: Path

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.base / "replicad.yaml"

    @property
    def state_dir(self) -> Path:
        """Where it keeps its cache."""
        return self.base / "state"

    def arguments(self, verb: str, *arguments: str) -> list[str]:
        """A command line about the virtual machine."""
        return [verb, VM, "--config", str(self.config), "--standalone", *arguments]

    def run(self, verb: str, *arguments: str, expect: int = 0) -> Outcome:
        """Run a command in this process (no event loop may run); asserts its exit code."""
        outcome = self.tried(verb, *arguments)
        assert outcome.code == expect, f"{verb} {' '.join(arguments)} ended with {outcome.code}: {outcome.stderr}"
        return outcome

    def tried(self, verb: str, *arguments: str) -> Outcome:
        """The same, however it ends."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = main(self.arguments(verb, *arguments))
        return Outcome(code, stdout.getvalue(), stderr.getvalue())

    def start(self, verb: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return _start("-c", _PROGRAM, *self.arguments(verb, *arguments))

    def measured(self, verb: str, *arguments: str, timeout_s: float = 600) -> tuple[Outcome, int]:
        """Run a command as a process of its own; how it ended, and the most memory that it held, in bytes."""
        peak = self.base / "peak"
        with _start("-c", _MEASURED_PROGRAM, str(peak), *self.arguments(verb, *arguments)) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        return Outcome(process.returncode, stdout, stderr), int(peak.read_text()) * 1024


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def described_server(base: Path, name: str, server: Server) -> dict[str, Any]:
    """What a configuration says of a server; its password is put into a file in `base`."""
    password = base / f"{name}.pw"
    password.touch(0o600)
    password.write_text(server.samba.password)
    return {
        "address": server.samba.host,
        "port": server.port or server.samba.port,
        "username": server.samba.username,
        "password_file": str(password),
    }


def install(
    base: Path,
    source: str,
    replica: str,
    servers: Mapping[str, Server],
    *,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Installation:
    """Write the configuration. `options` are further keys of the virtual machine, `settings` of the whole."""
    base.mkdir(parents=True, exist_ok=True)
    described = {name: described_server(base, name, server) for name, server in servers.items()}
    machine = {
        "source": source, "replica": replica, "disks": list(PATTERNS),
        "keep": {"latest": 10_000},  # what is asked is whether every point that was made is exact
        **(options or {}),
    }  # fmt: skip
    made = Installation(base)
    # JSON is YAML, and escapes are the same in both.
    made.config.write_text(
        json.dumps(
            {
                "state_dir": str(made.state_dir),
                "servers": described,
                "virtual_machines": {VM: machine},
                **(settings or {}),
            },
            ensure_ascii=False,
            indent=2,
        )
    )
    return made
