"""The files in config/: examples that load, mistakes with the messages they give, and the schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from replicad.model.errors import ConfigError
from replicad.settings import SettingsError, json_schema, load_settings
from replicad.settings.document import read_document
from tests.support.json_schema import complaints

CONFIG = Path(__file__).parents[2] / "config"
EXAMPLES = sorted(CONFIG.glob("*.yaml"))
INVALID = sorted((CONFIG / "invalid").glob("*.yaml"))
# These break rules that a schema can't tell (between groups), or that it leaves to the program.
BEYOND_A_SCHEMA = {
    "alias-bomb", "alias-to-itself", "bad-indentation", "bandwidth-twice", "colon-in-value", "control-character",
    "consistency-keys",
    "cron", "duplicate-keys", "escaped-backslashes", "key-that-is-a-list", "key-without-colon", "merge-of-text",
    "nested-too-deep", "not-utf8", "password-misspelt", "replica-in-replica", "replica-in-source",
    "same-server-by-two-names", "server-not-described", "starts-like-an-alias", "starts-with-percent",
    "tab-after-spaces", "tab-indentation", "tagged-value", "two-documents", "unclosed-bracket", "unclosed-quote",
    "unknown-alias", "unquoted-glob", "user-without-password", "vm-names", "vm-names-by-case",
}  # fmt: skip


def _expected(file: Path) -> list[str]:
    lines = file.read_bytes().decode("utf-8", "replace").splitlines()
    return [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_example_loads(file: Path) -> None:
    settings = load_settings(file)
    assert settings.virtual_machines
    assert settings.file == file


@pytest.mark.parametrize("file", INVALID, ids=lambda f: f.stem)
def test_invalid_file_gives_exactly_the_messages_that_it_says(file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    told = str(caught.value).splitlines()
    assert [line.removeprefix(f"{file}:").lstrip() for line in told] == _expected(file)
    assert told
    assert isinstance(caught.value, ConfigError)
    assert caught.value.exit_code == 2
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_there_are_invalid_files_of_every_kind() -> None:
    assert len(INVALID) >= 30


def test_schema_file_is_what_the_models_give() -> None:
    assert json.loads((CONFIG / "replicad.schema.json").read_text(encoding="utf-8")) == json_schema(), (
        "run: replicad schema > config/replicad.schema.json"
    )


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_schema_takes_the_example(file: Path) -> None:
    assert complaints(read_document(file.read_text(encoding="utf-8")).value, json_schema()) == []


@pytest.mark.parametrize("file", [f for f in INVALID if f.stem not in BEYOND_A_SCHEMA], ids=lambda f: f.stem)
def test_schema_refuses_the_invalid_file(file: Path) -> None:
    assert complaints(read_document(file.read_text(encoding="utf-8")).value, json_schema())


def test_schema_describes_every_key() -> None:
    schema = json_schema()
    for group in [schema, *schema["$defs"].values()]:
        for name, key in group["properties"].items():
            assert key.get("description") or "$ref" in key, name


def test_reference_names_every_key_and_its_examples_load(tmp_path: Path) -> None:
    text = (CONFIG.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    schema = json_schema()
    for group in [schema, *schema["$defs"].values()]:
        for name in group["properties"]:
            assert f"`{name}`" in text, f"docs/configuration.md says nothing of {name}"
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for n, block in enumerate(blocks):
        file = tmp_path / f"{n}.yaml"
        file.write_text(block, encoding="utf-8")
        load_settings(file)
