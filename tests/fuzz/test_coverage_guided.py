"""A minute of coverage-guided fuzzing for each target, where atheris is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.property.test_fuzz import SOUND
from tests.support.fuzz_targets import TARGETS

SECONDS = 60


@pytest.mark.soak
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (pip install -e '.[fuzz]')")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_a_reader(name: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(SOUND[name]):
        (corpus / str(number)).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, str(corpus), f"-max_total_time={SECONDS}", "-max_len=120000",
         "-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True, timeout=SECONDS * 3, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
