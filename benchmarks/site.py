"""A private SMB server, and the programs that use it: each one told in its own way where it is and how to sign in."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from replicad.cli.demo.samba import PrivateSamba, SambaShare

from .measuring import Measurement, cpu_of_group, measure

SIGNED, ENCRYPTED = "signed", "encrypted"
PROTECTIONS = (SIGNED, ENCRYPTED)
r"""Also the names by which replicad's configuration knows the server: in \\signed\share encryption is allowed, in
\\encrypted\share it is required. Everything is signed."""

AGAIN = "again"
"""The server under one more name, signed: replicad takes it for another one, which can't copy from the first."""

_SMBCLIENT_PROTECTION = {SIGNED: "sign", ENCRYPTED: "encrypt"}
_REPLICAD = "import sys; from replicad.cli.main import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Site:
    """`root` holds the programs' configurations; `server` is running."""

    root: Path
    server: PrivateSamba

    def behind(self, share: str, *parts: str) -> Path:
        """A file as the server sees it."""
        return self.server.share_directory(share).joinpath(*parts)

    def replicad(self, *arguments: str) -> tuple[Measurement, Any]:
        """Run a verb with `--json`; what it took and what it said."""
        measured, said = self._measure([sys.executable, "-c", _REPLICAD, *arguments, "--json"])
        return measured, json.loads(said)

    def data_path(self, *arguments: str) -> Measurement:
        """Run `benchmarks.data_path`; what it took once it was signed in. The memory is that of the whole program."""
        measured, said = self._measure([sys.executable, "-m", "benchmarks.data_path", *arguments])
        return replace(measured, **json.loads(said))

    def smbclient(self, share: str, protection: str, command: str, *options: str) -> Measurement:
        """Run one command of smbclient's."""
        return self._measure(self._smbclient_words(share, protection, command, *options))[0]

    def smbclient_pipe(self, share: str, target_share: str, protection: str, name: str) -> Measurement:
        """Copy a file from one share to another by two smbclients and a pipe."""
        source = shlex.join(self._smbclient_words(share, protection, f"get {name} -"))
        target = shlex.join(self._smbclient_words(target_share, protection, f"put - {name}"))
        return self._measure(["bash", "-o", "pipefail", "-c", f"{source} | {target}"])[0]

    def rclone(self, *arguments: str) -> Measurement:
        """Run rclone; `nas:share/path` is the server."""
        return self._measure(["rclone", *arguments])[0]

    def forget_replica(self, share: str, vm: str) -> None:
        """As if nothing had been replicated yet."""
        for path in (self.behind(share, vm), self.root / "state"):
            shutil.rmtree(path, ignore_errors=True)

    def server_cpu_s(self) -> float:
        """What the server and its children have spent until now."""
        return cpu_of_group(self.server.pids()[0])

    def configure(self, machines: Mapping[str, tuple[Path, str]]) -> None:
        """Write the programs' configurations. `machines`: name → (source, replica)."""
        where = f"{self.server.host}:{self.server.port}"
        password = _private_file(self.root / "nas.pw", self.server.password)
        server = f"address: '{where}', username: {self.server.username}, password_file: '{password}'"
        lines = [
            f"state_dir: '{self.root / 'state'}'",
            "servers:",
            f"  {SIGNED}: {{{server}, encryption: allowed}}",
            f"  {AGAIN}: {{{server}, encryption: allowed}}",
            f"  {ENCRYPTED}: {{{server}, encryption: required}}",
            "virtual_machines:",
            *(
                f"  {name}: {{source: '{source}', replica: '{replica}'}}"
                for name, (source, replica) in machines.items()
            ),
        ]
        (self.root / "replicad.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if shutil.which("rclone"):
            self._configure_rclone()

    def _configure_rclone(self) -> None:
        obscured = subprocess.run(
            ["rclone", "obscure", "-"], input=self.server.password, capture_output=True, text=True, timeout=30,
            check=True, env=self._environment(),
        ).stdout.strip()  # fmt: skip
        _private_file(
            self.root / "rclone.conf",
            f"[nas]\ntype = smb\nhost = {self.server.host}\nport = {self.server.port}\n"
            f"user = {self.server.username}\npass = {obscured}\n",
        )

    def _smbclient_words(self, share: str, protection: str, command: str, *options: str) -> list[str]:
        return [
            "smbclient", "-s", "/dev/null", "-p", str(self.server.port),
            f"--client-protection={_SMBCLIENT_PROTECTION[protection]}", *options,
            f"//{self.server.host}/{share}", "-c", command,
        ]  # fmt: skip

    def _measure(self, command: list[str]) -> tuple[Measurement, str]:
        return measure(command, self._environment(), self.server_cpu_s)

    def _environment(self) -> dict[str, str]:
        foreign = ("REPLICAD_", "RCLONE_")
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
            "REPLICAD_CONFIG": str(self.root / "replicad.yaml"),
            "RCLONE_CONFIG": str(self.root / "rclone.conf"),
            "USER": self.server.username,
            "PASSWD": self.server.password,  # smbclient's
        }


@contextmanager
def site(root: Path, shares: Mapping[str, SambaShare]) -> Iterator[Site]:
    """A server with these shares, whose directories are made; `root` is a directory for its own files."""
    for share in shares.values():
        share.directory.mkdir(parents=True, exist_ok=True)
    server = PrivateSamba(root / "smbd", shares)
    try:
        server.start()
        yield Site(root, server)
    finally:
        server.stop()


def protected_shares(root: Path) -> dict[str, SambaShare]:
    """A share for each kind of protection, of that name."""
    return {name: SambaShare(root / name, encryption_required=name == ENCRYPTED) for name in PROTECTIONS}


def _private_file(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path
