"""The state directory of a configuration, found without loading it: the same as loading it gives, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicad.settings import SettingsError, load_settings
from replicad.settings.document import DocumentError, read_document
from replicad.settings.find import default_state_dir
from replicad.settings.state_dir import quick_state_dir, state_dir_of

ROOT = Path(__file__).parents[2]
MACHINES = "virtual_machines:\n  웹 🖥: {source: /srv/원본, replica: /srv/사본, disks: [\"*.vhdx\", 'a b']}\n"

_PIECES = [
    "",
    "state_dir: /a",
    "state_dir: '/b c'",
    'state_dir: "/d"',
    "state_dir: /e # why",
    "state_dir: /f: x",
    "state_dir:",
    "state_dir: |",
    "state_dir: *x",
    "  state_dir: /g",
    " /more",
    "servers: {",
    "servers: {a: b}",
    "}",
    "]",
    "x: [",
    "x: [a, 'b]', \"]\"]",
    'x: [a "]" ]',
    "x: 'it''s'",
    "x: it's",
    "x: 'open",
    'x: "open',
    "'",
    '"',
    " closed'",
    ' closed"',
    "x: &x /h",
    "x: >",
    "  text",
    '  "',
    "<<: *x",
    "<<: {state_dir: /i}",
    "? x",
    "- x",
    "---",
    "...",
    "%YAML 1.1",
    "# it's",
    "x: y # 'z",
    "x: y #'z",
    "\t",
    "x:\ty",
    'x: a\\"b',
    'x: "a\\"b"',
    "x: [a, [b], {c: d}]",
    "x: a[b",
    "x: [it's, that's]",
    "x: [a, #]",
    "x: \u2028state_dir: /j",
    "x: \x85",
    '"state_dir": /k',
    "state_dir : /l",
    "x: {? y}",
    "x: !!str",
    "x: '",
    'x: ["a", \'b',
    "",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=8).map("\n".join), st.sampled_from(["\n", "\r\n", "\r"]))
@example('x: [a "]" ]\nstate_dir: /a\ny: "', "\n")
def test_what_is_found_quickly_is_what_a_reader_of_yaml_finds(text: str, line_end: str) -> None:
    text = text.replace("\n", line_end)
    quick = quick_state_dir(text)
    if quick is None:
        return
    try:
        document = read_document(text)
    except DocumentError:
        return  # no daemon runs by such a file
    if not document.complaints:
        value = document.value or {}
        assert isinstance(value, dict)
        assert value.get("state_dir", "") == quick


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("state_dir: /var/lib/replicad\n" + MACHINES, "/var/lib/replicad"),
        ("---\n# 설정\n\nstate_dir: '/srv/상태 디렉터리'   # here\n" + MACHINES, "/srv/상태 디렉터리"),
        (MACHINES + 'state_dir: "/x"', "/x"),
        (MACHINES.replace("\n", "\r\n") + "state_dir: /x\r\n", "/x"),
        (MACHINES, ""),
        ("", ""),
        (json.dumps({"servers": {}, "state_dir": "/srv/상태"}), "/srv/상태"),
        (json.dumps({"servers": {}}), ""),
        ("evry: 5m\nstate_dir: /x\n", "/x"),
        ("state_dir: /x\n  y\n", None),
        ("state_dir: relative\n", None),
        ("x: [\nstate_dir: /x\n]\n", None),
        ("x: 'a\nstate_dir: /x\n '\n", None),
        ('{"<<": {"state_dir": "/x"}}', None),
        ('{"state_dir": 7}', None),
        ("{state_dir: /x}", None),
    ],
)
def test_files_as_they_are_written_are_understood_and_others_are_not_guessed_at(text: str, found: str | None) -> None:
    assert quick_state_dir(text) == found


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_understood(file: Path) -> None:
    assert quick_state_dir(file.read_text(encoding="utf-8")) is not None
    assert state_dir_of(file, os.environ) == load_settings(file).state_dir


def test_a_file_that_is_not_understood_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "설정.yaml"
    file.write_text("state_dir: &here /srv/상태\n" + MACHINES, encoding="utf-8")
    assert state_dir_of(file, {}) == Path("/srv/상태")
    file.write_text(MACHINES, encoding="utf-8")
    assert state_dir_of(file, os.environ) == default_state_dir(os.environ)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"state_dir: [\n", b"#" * ((1 << 20) + 1)])
def test_a_file_that_cannot_be_used_is_told(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "설정.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError):
        state_dir_of(file, {})
