"""The restore script's own XXH3-128, with the xxhash library as the judge."""

from __future__ import annotations

import ast
import sys
from random import Random

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.restore_script import SCRIPT, script

SEEDS = [0, 1, 2**32 - 1, 2**63, 2**64 - 1, 0x9E3779B185EBCA87]
LONG = [1023, 1024, 1025, 1087, 1088, 1089, 2048, 2049, 65_535, 65_536, 65_537, 100_000, 1 << 20]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_length_where_the_algorithm_changes_and_all_short_ones(seed: int) -> None:
    data = Random(1).randbytes(max(LONG))
    for length in [*range(420), *LONG]:
        part = data[:length]
        assert script.xxh3_128(part, seed) == xxhash.xxh3_128_digest(part, seed=seed), length


@given(st.binary(max_size=3000), st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=5_000)
def test_any_bytes_with_any_seed(data: bytes, seed: int) -> None:
    assert script.xxh3_128(data, seed) == xxhash.xxh3_128_digest(data, seed=seed)


def test_the_script_is_for_python_3_9_and_imports_the_standard_library_only() -> None:
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 9))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
