"""docs/restore_point.py as somebody runs it who has nothing but a replica's directory and Python."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from replicad.model.names import join
from replicad.storage.port import OpenMode, Share
from tests.support.scene import Outcome

SCRIPT = Path(__file__).parents[2] / "docs" / "restore_point.py"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("restore_point", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _loaded()


def run_script(*arguments: str | Path) -> Outcome:
    """Run it as a process that can import nothing but the standard library, without any environment."""
    typed = [sys.executable, "-I", "-S", "-W", "error", str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=60, env={}, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def script_here(*arguments: str | Path) -> Outcome:
    """The same in this process: quicker, for many runs."""
    out, err = io.StringIO(), io.StringIO()
    typed = [str(SCRIPT), *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.object(sys, "argv", typed):
        code = script.main()
    return Outcome(code, out.getvalue(), err.getvalue())


async def copied_out(share: Share, path: str, target: Path) -> Path:
    """Everything below a directory of a share, copied into a new directory as a file manager would."""
    target.mkdir()
    for entry in await share.list(path):
        inner = join(path, entry.name)
        if entry.is_dir:
            await copied_out(share, inner, target / entry.name)
            continue
        async with await share.open(inner, OpenMode.READ) as file:
            buffer = bytearray(entry.size_bytes)
            assert await file.read_into(buffer, 0) == len(buffer)
        (target / entry.name).write_bytes(buffer)
    return target


def files_below(directory: Path) -> dict[str, bytes]:
    """All files below a directory, by path."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}
