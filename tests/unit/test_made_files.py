"""What is made from the program: manual pages and completion files are those of this program, and well-formed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from replicad.cli.main import VERBS, group
from replicad.settings import json_schema
from tools.made import SHARE, made
from tools.manual import ENVIRONMENT
from tools.roff import escaped, running

PAGES = ["man/man1/replicad.1", "man/man5/replicad.yaml.5"]
_CODE = Path(__file__).parents[2] / "replicad"


def test_the_files_are_what_the_program_gives() -> None:
    found = {str(path.relative_to(SHARE)): path for path in SHARE.rglob("*") if path.is_file()}
    expected = made()
    assert found.keys() == expected.keys()
    for name, text in expected.items():
        assert found[name].read_text(encoding="utf-8") == text, f"{name} is old; run: make reference"


def _rendered(page: str) -> str:
    """A page as it is read, in one line."""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-rLL=200n", str(SHARE / page)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return " ".join(done.stdout.decode().replace("‐\n", "").replace("−", "-").split())


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_taken_without_a_word(page: str) -> None:
    for command in (["mandoc", "-Tlint", "-Wwarning"], ["groff", "-man", "-Tutf8", "-ww", "-z"]):
        done = subprocess.run([*command, str(SHARE / page)], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_verb_and_option_is_in_the_page() -> None:
    text = _rendered(PAGES[0])
    context = click.Context(group, obj={"debug": False})
    for verb in VERBS:
        assert f"replicad {verb}" in text
        command = group.get_command(context, verb)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[-1] in text, f"{verb} {option.opts}"
                assert " ".join((option.help or "").split()) in text, f"{verb} {option.opts}"


def test_every_key_and_its_words_are_in_the_page() -> None:
    text, schema = _rendered(PAGES[1]), json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, key in part["properties"].items():
            assert f" {name} " in text
            first = " ".join(key.get("description", "").partition("\n\n")[0].replace("`", "").split())
            assert first in text


def test_the_page_tells_of_every_variable_that_the_program_reads() -> None:
    read = set()
    for path in _CODE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"""environ(?:\.get\(|\[)"(REPLICAD_[A-Z_]+)""", text))
    assert {"REPLICAD_CONFIG", "REPLICAD_PASSWORD"} <= read
    assert read == set(ENVIRONMENT)


@pytest.mark.parametrize("text", ["\\\\nas1\\vms\\web01", ".TH x", "'quoted'", "--a -b", "^~`", "잔액 × … 🖥"])
def test_no_text_is_taken_for_a_request(text: str, tmp_path: Path) -> None:
    page = tmp_path / "x.7"
    page.write_text(f".TH x 7 2026-11-23\n.SH NAME\n{running(text) if '`' not in text else escaped(text)}\n")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou", str(page)], capture_output=True, timeout=60, check=True
    )
    assert done.stderr == b""
    assert text in done.stdout.decode()
