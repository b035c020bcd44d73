"""Where the story is played: a directory, two sites with an SMB server each, and their end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from replicad.model.errors import ConfigError, PermanentError, ReplicadError

from .narrator import Narrator
from .programs import Interruption
from .samba import PrivateSamba, SambaShare

VM = "web01"


@dataclass(frozen=True, slots=True)
class Site:
    """A place with a share; `server` is None where a local directory stands in for it."""

    name: str
    share: str
    directory: Path
    server: PrivateSamba | None

    @property
    def address(self) -> str:
        """How replicad is told of the share."""
        return str(self.directory) if self.server is None else rf"\\{self.name}\{self.share}"


@dataclass(frozen=True, slots=True)
class Stage:
    """`root` holds everything that is shown; `scratch` is for the making of the disks."""

    root: Path
    scratch: Path
    source: Site
    replica: Site
    interruption: Interruption

    @property
    def config(self) -> Path:
        return self.root / "replicad.yaml"

    @property
    def lost(self) -> Path:
        """Where things go that the story loses."""
        return self.root / "lost"

    @property
    def machine_directory(self) -> Path:
        """What is behind the share where the machine lives."""
        return self.source.directory / VM

    @property
    def replica_directory(self) -> Path:
        """What is behind the share where its replica is."""
        return self.replica.directory / VM


@contextmanager
def stage(keep: Path | None, narrator: Narrator) -> Iterator[Stage]:
    """A stage with its servers running. Whatever happens, the servers end and (without `keep`) every file goes.

    SIGTERM and SIGHUP end the story as Ctrl-C does. Raises ConfigError if `keep` is in use already.
    """
    interruption = Interruption()
    with interruption.installed(), ExitStack() as stack:
        try:
            with interruption.deferred():
                private = stack.enter_context(_temporary_directory())
            root = _kept_directory(keep) if keep else private
            scratch = private / "scratch"
            scratch.mkdir()
            with interruption.deferred():
                sites = _with_servers(root, private, stack, narrator)
            yield Stage(root, scratch, *sites, interruption)
        finally:
            interruption.ignore()


def _with_servers(root: Path, private: Path, stack: ExitStack, narrator: Narrator) -> tuple[Site, Site]:
    servers: list[PrivateSamba] = []
    sites: list[Site] = []
    for name, share in (("site-a", "vms"), ("site-b", "replicas")):
        directory = root / name / share
        directory.mkdir(parents=True)
        server = PrivateSamba(private / f"smbd-{name}", {share: SambaShare(directory, encryption_required=True)})
        stack.callback(server.stop)
        servers.append(server)
        sites.append(Site(name, share, directory, server))
    try:
        for server in servers:
            server.start()
    except ReplicadError as error:
        narrator.notice(f"No SMB server: {error}")
        narrator.notice("Two local directories stand in for the servers; all the rest is the same.")
        for server in servers:
            server.stop()
        sites = [Site(site.name, site.share, site.directory, None) for site in sites]
    return sites[0], sites[1]


def _kept_directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError("keep the demo in", str(path), "there is something in it", "Name a new directory.")
    except OSError as error:
        raise PermanentError("keep the demo in", str(path), error.strerror or type(error).__name__) from None
    return path.resolve()


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    """A directory of our own, below /tmp where TMPDIR is too long for smbd's sockets; removed in the end."""
    usual = tempfile.gettempdir()
    parent = usual if len(usual) <= 40 else "/tmp"  # noqa: S108 - mkdtemp makes a name that nobody can foresee
    path = Path(tempfile.mkdtemp(prefix="replicad-demo-", dir=parent)).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def clean_environment() -> dict[str, str]:
    """This process's environment without what would tell replicad of another configuration."""
    return {key: value for key, value in os.environ.items() if not key.startswith("REPLICAD_")}


def move_away(paths: list[Path], lost: Path) -> None:
    """Lose what there is of `paths`, in a way that it can still be looked at."""
    lost.mkdir(exist_ok=True)
    for path in paths:
        with suppress(FileNotFoundError):
            path.rename(lost / path.name)
