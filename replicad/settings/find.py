"""Where the configuration file is, and where this host keeps what it remembers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from replicad.model.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/replicad/replicad.yaml")
MAX_FILE_BYTES = 1 << 20


def find_config(explicit: Path | None, environ: Mapping[str, str], system: Path = SYSTEM_CONFIG) -> Path:
    """The file named by `--config`, else by $REPLICAD_CONFIG, else the system's, else the user's (XDG).

    What was named is returned whether it exists or not, as reading it says more. Raises ConfigError if nothing was
    named and neither of the others is there.
    """
    if explicit is not None:
        return explicit
    if named := environ.get("REPLICAD_CONFIG"):
        return Path(named)
    user = user_directory(environ, "XDG_CONFIG_HOME", ".config") / "replicad" / "replicad.yaml"
    for path in (system, user):
        if _is_there(path):
            return path
    raise ConfigError(
        "find", "a configuration", f"there is neither {system} nor {user}", "Write one of them, or give --config PATH."
    )


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """`/var/lib/replicad` for root, the user's own state directory (XDG) for others; on Windows under %PROGRAMDATA%."""
    if os.name == "nt":
        return Path(environ.get("PROGRAMDATA", r"C:\ProgramData")) / "replicad"
    if os.geteuid() == 0:
        return Path("/var/lib/replicad")
    return user_directory(environ, "XDG_STATE_HOME", ".local/state") / "replicad"


def user_directory(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """The directory that an XDG variable names, or its default. Raises ConfigError where there is no home."""
    base = environ.get(variable, "")
    if base.startswith("/"):  # the XDG specification says that a relative one is to be ignored
        return Path(base)
    if home := environ.get("HOME"):
        return Path(home) / below_home
    try:
        return Path.home() / below_home
    except RuntimeError:
        raise ConfigError(
            "find", "this user's home directory", "the system knows none", f"Set HOME or {variable}."
        ) from None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        # It may well be there, and reading it then tells why it can't be used.
        return True
