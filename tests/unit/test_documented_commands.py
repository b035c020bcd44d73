"""What the guides tell users to type must be what the command line takes, and their links must lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from replicad.cli.main import VERBS, group
from replicad.model.errors import ReplicadError
from replicad.model.health import Health, State

_CHECKOUT = Path(__file__).parents[2]
_PAGES = ("README.md", "docs/command-line.md", "docs/dashboard.md", "docs/operating.md", "docker/README.md")


def _commands() -> Iterator[tuple[str, str]]:
    for page in _PAGES:
        text = (_CHECKOUT / page).read_text(encoding="utf-8")
        fenced = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        shown = re.findall(r"^ *(?:\$ )?(replicad [a-z-].*[^:\n])$", fenced, re.MULTILINE)
        shown += re.findall(r"^    (replicad [a-z-].*)$", text, re.MULTILINE)
        inline = re.findall(r"`(replicad [a-z][a-z-]+[^`]*)`", text)
        for command in (*shown, *inline):
            yield page, command


@pytest.mark.parametrize(("page", "command"), sorted(set(_commands())))
def test_commands_of_the_guides_are_understood(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    if words in (["--debug"], ["--version"]):
        return
    verb, *arguments = words
    context = click.Context(group, obj={"debug": False})
    found = group.get_command(context, verb)
    assert found is not None, f"{page}: there is no verb {verb!r}"
    if "`" + command + "`" in (_CHECKOUT / page).read_text(encoding="utf-8") and not arguments:
        return  # the name of a verb in a sentence
    found.make_context(verb, arguments, parent=context)


def test_every_verb_is_told_of() -> None:
    told = " ".join((_CHECKOUT / page).read_text(encoding="utf-8") for page in _PAGES)
    assert [verb for verb in VERBS if f"replicad {verb}" not in told and f"`{verb}`" not in told] == []


_ALL_PAGES = sorted(
    {"README.md", *(str(p.relative_to(_CHECKOUT)) for d in ("docs", "docker") for p in (_CHECKOUT / d).rglob("*.md"))}
)


@pytest.mark.parametrize("page", _ALL_PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    path = _CHECKOUT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{page} links to {link}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, link


def test_the_operating_guide_knows_every_state_and_health() -> None:
    text = (_CHECKOUT / "docs/operating.md").read_text(encoding="utf-8")
    part = text[text.index("## Reading `status`") : text.index("## When only the replica is left")]
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", part, re.MULTILINE))
    not_yet = set(re.findall(r"`([a-z-]+)`", part[part.index("`disabled`") : part.index("are the names of states")]))
    assert rows == ({state.value for state in State} - not_yet) | {health.value for health in Health}
    assert not_yet <= {state.value for state in State}


def test_the_operating_guide_knows_every_exit_code() -> None:
    text = (_CHECKOUT / "docs/operating.md").read_text(encoding="utf-8")
    table = text[text.index("## Exit codes") : text.index("## What to do about errors")]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert told == {0, 130} | {error.exit_code for error in _all_errors(ReplicadError)}


def _all_errors(error: type[ReplicadError]) -> Iterator[type[ReplicadError]]:
    yield error
    for child in error.__subclasses__():
        yield from _all_errors(child)
