"""Two hosts and a file server, each in a network namespace of its own, with a cable between each host and the server.

They have one kernel, one file system and their process numbers in common; name, machine id, addresses and what they see
as the source are each one's own. Root only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from replicad.cli.demo.samba import PrivateSamba
from tests.support.daemon import Daemon, Log
from tests.support.installation import Installation
from tests.support.samba import PLAIN

_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"
_SERVE = """
import json, sys
from pathlib import Path
from replicad.cli.demo.samba import PrivateSamba, SambaShare
directory, shared, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
server = PrivateSamba(directory, {sys.argv[4]: SambaShare(shared)}, settings=settings)
server.start()
try:
    print(json.dumps([server.port, server.password]), flush=True)
    sys.stdin.read()
finally:
    server.stop()
"""
# Each host sees its own source under the name that both have in their configuration.
_ENTER = 'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'


@cache
def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"replicad-{uuid4().hex[:8]}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=30, check=False)
        if made.returncode == 0:
            subprocess.run(["ip", "netns", "delete", name], check=True, timeout=30)
    except FileNotFoundError:
        return "Debian's package 'iproute2' is not installed"
    return made.stderr.strip()


@dataclass(frozen=True, slots=True)
class Host:
    """One host. `source` is what it sees at `seen_as`; `server_address` is where it reaches the server."""

    name: str
    namespace: str
    server_address: str
    source: Path
    seen_as: Path

    def start(self, installation: Installation, verb: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command there."""
        return self._start(installation.arguments(verb, *arguments), subprocess.PIPE, subprocess.PIPE)

    @contextmanager
    def daemon(self, installation: Installation) -> Iterator[Daemon]:
        """Run a daemon there; it is killed in the end."""
        log = installation.base / "daemon.log"
        with log.open("wb") as stderr:
            command = ["run", "--config", str(installation.config), "--log-format", "json"]
            process = self._start(command, subprocess.DEVNULL, stderr)
        made = Daemon(process, Log(log))
        try:
            made.wait_for("ready")
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            made.kill()

    def _start(self, arguments: list[str], stdout: int, stderr: int | IO[bytes]) -> subprocess.Popen[Any]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", _ENTER, "sh", self.name,
             str(self.source), str(self.seen_as), sys.executable, "-c", _PROGRAM, *arguments],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Network:
    """Both hosts and the server; `share` is what that shares, as a directory of this machine."""

    a: Host
    b: Host
    share: Path
    server: PrivateSamba
    server_namespace: str

    def reached_from(self, host: Host) -> PrivateSamba:
        """The server, as that host's configuration describes it."""
        seen = PrivateSamba(Path("/nowhere"), {})
        seen.host, seen.port, seen.password = host.server_address, self.server.port, self.server.password
        return seen

    def cut_cable(self, host: Host) -> None:
        """From now on nothing gets through between that host and the server, and neither is told."""
        _run("ip", "-n", self.server_namespace, "link", "set", f"to-{host.name}", "down")

    def mend_cable(self, host: Host) -> None:
        """As it was before."""
        _run("ip", "-n", self.server_namespace, "link", "set", f"to-{host.name}", "up")


@contextmanager
def network(room: Path, settings: Mapping[str, str]) -> Iterator[Network]:
    """`settings` are further ones of the server. Each host's source is an empty directory below `room`."""
    unique = uuid4().hex[:8]
    with contextlib.ExitStack() as stack:
        server_namespace = stack.enter_context(_namespace(f"replicad-{unique}-server"))
        seen_as = room / "원본"
        seen_as.mkdir()
        hosts = []
        for number, name in enumerate(("host-a", "host-b"), start=1):
            namespace = stack.enter_context(_namespace(f"replicad-{unique}-{name}", machine_id=f"{number:032x}"))
            _connect(server_namespace, f"to-{name}", namespace, number)
            source = room / f"원본 {name}"
            source.mkdir()
            hosts.append(Host(name, namespace, f"10.99.{number}.1", source, seen_as))
        base = Path(tempfile.mkdtemp(prefix="replicad-smb-", dir="/tmp"))
        stack.callback(shutil.rmtree, base)
        base.chmod(0o755)
        share = base / "공유"
        share.mkdir()
        interfaces = {"interfaces": "127.0.0.1/8 10.99.1.1/24 10.99.2.1/24"}
        server = PrivateSamba(base / "smbd", {})
        server.port, server.password = stack.enter_context(
            _serving(server_namespace, base / "smbd", share, {**interfaces, **settings})
        )
        yield Network(hosts[0], hosts[1], share, server, server_namespace)


@contextmanager
def _namespace(name: str, machine_id: str = "") -> Iterator[str]:
    _run("ip", "netns", "add", name)
    # What lies here, `ip netns exec` shows in /etc.
    own = Path("/etc/netns") / name
    try:
        if machine_id:
            own.mkdir(parents=True)
            (own / "machine-id").write_text(machine_id + "\n")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        if machine_id:
            shutil.rmtree(own)
            with contextlib.suppress(OSError):  # another test's
                own.parent.rmdir()
        _run("ip", "netns", "delete", name)


def _connect(server: str, interface: str, host: str, number: int) -> None:
    _run("ip", "-n", server, "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", host)
    for namespace, name, last in ((server, interface, 1), (host, "eth0", 2)):
        _run("ip", "-n", namespace, "address", "add", f"10.99.{number}.{last}/24", "dev", name)
        _run("ip", "-n", namespace, "link", "set", name, "up")


@contextmanager
def _serving(namespace: str, directory: Path, share: Path, settings: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", _SERVE, str(directory), str(share),
         json.dumps(settings), PLAIN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port, password = json.loads(process.stdout.readline())
        yield port, password
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
