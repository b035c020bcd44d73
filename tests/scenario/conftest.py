"""What the scenarios run on: a common SMB server, and room on disk that is given back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.samba import samba as samba
from tests.support.samba import samba_server as samba_server


@pytest.fixture
def room() -> Iterator[Path]:
    """An empty directory for large files, removed in the end (pytest keeps those of `tmp_path` for a while)."""
    with tempfile.TemporaryDirectory(prefix="replicad-시험 ", dir="/tmp") as directory:
        yield Path(directory)
