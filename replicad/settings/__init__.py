"""The configuration: `load_settings` gives frozen values that are already checked, or says all that is wrong.

Importing this costs little: pydantic and ruamel.yaml are loaded by the functions that need them, and the values, which
take as long as all else of a command that only asks the daemon, with the first name that is one of theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .find import find_config
from .problems import Problem, SettingsError

if TYPE_CHECKING:
    from replicad.model.retention import Keep

    from .model import (
        Consistency,
        Hook,
        HookCommand,
        Hooks,
        HookUrl,
        LogSettings,
        Server,
        Settings,
        TcpAccess,
        VirtualMachine,
    )

__all__ = [
    "Consistency",
    "Hook",
    "HookCommand",
    "HookUrl",
    "Hooks",
    "Keep",
    "LogSettings",
    "Problem",
    "Server",
    "Settings",
    "SettingsError",
    "TcpAccess",
    "VirtualMachine",
    "find_config",
    "json_schema",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import model

    value = globals()[name] = getattr(model, name)
    return value


def load_settings(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check the configuration file `path`; `environ` gives the XDG directories.

    Raises SettingsError, which is a ConfigError: one line for each thing that is wrong.
    """
    from .load import load

    return load(path, environ)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, draft 2020-12."""
    from .schema import generate

    return generate()
