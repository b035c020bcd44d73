"""What `make setup` looks for and installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="installs Debian packages")
def test_where_no_package_is_missing_none_is_installed_and_no_rights_are_needed(tmp_path: Path) -> None:
    called = tmp_path / "called"
    for name in ("apt-get", "sudo", "tee", "chmod"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> "{called}"\nexit 1\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", ".ci/debian-packages", sys.executable], cwd=_CHECKOUT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not called.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs make")
def test_packages_are_looked_for_also_where_the_environment_is_there() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/.installed", "setup"],
        env={name: text for name, text in os.environ.items() if not name.startswith("MAKE")},  # `make test` runs us
        cwd=_CHECKOUT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip().startswith("bash .ci/debian-packages")
    assert "pip" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="installs Debian packages")
def test_a_package_that_is_asked_for_besides_is_named_where_it_cannot_be_installed(tmp_path: Path) -> None:
    for name in ("bash", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["bash", ".ci/debian-packages", sys.executable, f"측정기={tmp_path / 'missing'}", "bash=/usr/bin/bash"],
        cwd=_CHECKOUT, capture_output=True, text=True, timeout=60, env={"PATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("setup: missing 측정기, and this system has no apt-get;")


def test_what_is_released_as_source_has_all_that_make_needs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)],
        cwd=_CHECKOUT, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as released:
        held = {name.partition("/")[2] for name in released.getnames()}
    named = re.findall(r"[.\w/-]+", (_CHECKOUT / "Makefile").read_text(encoding="utf-8"))
    wanted = {name for name in named if name[0] != "/" and (_CHECKOUT / name).is_file()}
    assert ".ci/debian-packages" in wanted
    assert wanted <= held
