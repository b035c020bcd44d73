"""The names of a configuration's machines, found without loading it: the same as loading it gives, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicad.settings import load_settings
from replicad.settings.document import DocumentError, read_document
from replicad.settings.machine_names import machine_names, quick_names

CONFIG = Path(__file__).parents[2] / "config"

_PIECES = [
    "virtual_machines:", "virtual_machines:  # all of them", "virtual_machines: {a: b}", "virtual_machines: *x",
    "virtual_machines : ", "'virtual_machines':", "servers:", "servers: {a: b}", "x: y", "x: |", "x: &x", "  <<: *x",
    "  web01:", "  웹 서버: {source: /a}", "  'it''s':", '  "q, r":', "  a:b:", "  a b : c", "  - x", "  ? x", "  *x :",
    "  &x y:", "  web01", "  # no", "# no", "", "    source: /a", "    text: |", "      web09:", " web02:", "   web03:",
    "    source: 'open", "    disks: [a,", "\tx:", "---", "...", "  1: x", "  ~: x", "  web04: # why", "  web#5: x",
]  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES), max_size=9).map("\n".join), st.sampled_from(["\n", "\r\n"]))
@example("virtual_machines:\n  a b : c\n  'it''s':\nx: y", "\n")
def test_what_is_found_quickly_is_what_a_reader_of_yaml_finds(text: str, line_end: str) -> None:
    quick = quick_names(text.replace("\n", line_end))
    if quick is None:
        return
    try:
        document = read_document(text)
    except DocumentError:
        return
    if document.complaints:
        return
    machines = document.value.get("virtual_machines") if isinstance(document.value, dict) else None
    assert quick == (list(machines) if isinstance(machines, dict) else [])


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_understood(file: Path) -> None:
    assert quick_names(file.read_text(encoding="utf-8")) is not None
    assert machine_names(file) == list(load_settings(file).virtual_machines)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("virtual_machines: {web01: {source: /a}, '회계 서버': {}}", ["web01", "회계 서버"]),
        ("virtual_machines:\n  web01: {sorce: /a}\n  회계 서버:\nevry: 5m\n", ["web01", "회계 서버"]),
        (json.dumps({"virtual_machines": {"웹": {}}}), ["웹"]),
        ("virtual_machines: [\n", []),
        ("[1]", []),
        ("", []),
        (b"\xff\xfe", []),
        (b"#" * ((1 << 20) + 1), []),
        (None, []),
    ],
)
def test_names_are_found_in_files_with_mistakes_and_none_where_there_are_none(
    content: str | bytes | None, names: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "설정.yaml"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert machine_names(file) == names
