"""Other programs, run to their end."""

from __future__ import annotations

import subprocess


def run(*command: str, timeout_s: float = 120) -> str:
    """What it printed; asserts that it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
