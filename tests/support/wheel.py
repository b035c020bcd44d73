"""replicad as its users install it: the wheel, in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def installed(room: Path) -> Path:
    """Build the wheel and install it below `room`; the virtual environment.

    Only the packages that it needs are not its own, but those that the tests run with: to install them takes long.
    """
    wheels, environment = room / "dist", room / "opt"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(CHECKOUT))
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = environment / "bin" / "python"
    (wheel,) = wheels.glob("replicad-*.whl")
    _run(*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    site_packages = next(environment.glob("lib/python*/site-packages"))
    (site_packages / "what-the-tests-run-with.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = _run(str(python), "-P", "-c", "import replicad; print(replicad.__file__)").strip()
    assert Path(where).is_relative_to(environment), where
    return environment


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
