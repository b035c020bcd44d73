"""The manual pages, from the command line's own parser and the configuration's own schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from replicad import __version__
from replicad.cli.main import VERBS, group
from replicad.settings import json_schema

from .roff import bold, entry, escaped, italic, literal, page, paragraphs, running

CHECKOUT = Path(__file__).parents[1]
REVISED = "2026-11-23"
"""When what is written here by hand was changed last; pages should be the same whenever they are made."""
ENVIRONMENT = {
    "REPLICAD_CONFIG": "The configuration file, where `--config` is not given.",
    "REPLICAD_USERNAME": "Who signs in to a server that no configuration describes.",
    "REPLICAD_PASSWORD_FILE": "The file with the password of that user.",
    "REPLICAD_PASSWORD": "The password itself. A file is better: an environment can be read by other processes.",
    "REPLICAD_DEBUG": "If it is neither empty nor 0: tracebacks of errors, and core files when the process crashes.",
}
_FILES = {
    "/etc/replicad/replicad.yaml": "The configuration; see `replicad.yaml`(5).",
    "/var/lib/replicad": "What this host remembers: `state_dir` of root. Nothing in it is needed to recover.",
    "api.sock": "In `state_dir`: the socket on which the daemon answers, which only its own user and root can open.",
    "triggers/": "In `state_dir`: a file with the name of a virtual machine asks the daemon for a cycle of it.",
}
_SIGNALS = {
    "SIGHUP": "The daemon reads its configuration again: all of it is taken, or nothing.",
    "SIGTERM": "The daemon stops cycles where they are, writes that down, and ends; the next start goes on with them. "
    "A second one waits for nothing, and loses no point either.",
}
_JSON = (
    "Results go to stdout, as JSON with `--json`; what is said to a person goes to stderr. "
    "Each failure is one sentence there."
)
_Schema = dict[str, Any]


def command_page() -> str:
    """replicad(1)."""
    lines = [".SH NAME", "replicad \\- " + escaped("replicas of virtual-machine disks on SMB 3 shares")]
    lines += [
        ".SH SYNOPSIS",
        ".SY replicad",
        "[" + bold("--debug") + "]",
        italic("VERB"),
        "[" + italic("ARGS") + "...]",
    ]
    lines += [".YS", ".SH DESCRIPTION", *paragraphs((group.help or "").partition("Exit codes:")[0])]
    lines += [".PP", running(_JSON)]
    lines += [".SH OPTIONS", *_options(group, click.Context(group, info_name="replicad"))]
    lines += [".SH VERBS"]
    for verb in VERBS:
        lines += _verb(verb)
    lines += [".SH EXIT STATUS"]
    for code, meaning in exit_codes():
        lines += entry(bold(code), [f"{meaning[0].upper()}{meaning[1:]}."])
    lines += [".SH SIGNALS"]
    for name, text in _SIGNALS.items():
        lines += entry(bold(name), [text])
    lines += [".SH ENVIRONMENT"]
    for name, text in ENVIRONMENT.items():
        lines += entry(bold(name), [text])
    lines += [".SH FILES"]
    for name, text in _FILES.items():
        lines += entry(bold(name), [text])
    lines += [".SH SEE ALSO", ".BR replicad.yaml (5),", ".BR systemctl (1),", ".BR journalctl (1),", ".BR smb.conf (5)"]
    return page("replicad", 1, REVISED, f"replicad {__version__}", "User commands", lines)


def _verb(verb: str) -> list[str]:
    context = click.Context(group, info_name="replicad", obj={"debug": False})
    command = group.get_command(context, verb)
    if command is None:
        raise LookupError(verb)
    return _command(verb, command, context)


def _command(name: str, command: click.Command, context: click.Context) -> list[str]:
    """What one verb does, then what those do that belong to it."""
    own = click.Context(command, info_name=name, parent=context)
    pieces = command.collect_usage_pieces(own)
    usage = " ".join([bold(f"replicad {name}"), *(italic(piece) for piece in pieces)])
    lines = [f".SS {escaped(name)}", usage, ".PP", *paragraphs(command.help or ""), *_options(command, own)]
    if isinstance(command, click.Group):
        for verb in command.list_commands(own):
            below = command.get_command(own, verb)
            if below is not None:
                lines += _command(f"{name} {verb}", below, context)
    return lines


def _options(command: click.Command, context: click.Context) -> list[str]:
    lines = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if not isinstance(parameter, click.Option) or record is None or "--help" in parameter.opts:
            continue
        name, text = record
        lines += entry(_spelling(name), [text])
    return lines


def _spelling(text: str) -> str:
    """Options in bold, what stands for something in italics."""
    words = re.split(r"([ /,|\[\]]+)", text)
    return "".join(
        bold(word) if word.startswith("-") else escaped(word) if n % 2 or word.islower() else italic(word)
        for n, word in enumerate(words)
        if word
    )


def exit_codes() -> list[tuple[str, str]]:
    """Code and meaning, as the operating guide has them."""
    text = (CHECKOUT / "docs" / "operating.md").read_text(encoding="utf-8")
    table = text[text.index("## Exit codes") : text.index("## What to do about errors")]
    return re.findall(r"^\| (\d+) \| (.*?) \|", table, re.MULTILINE)


def configuration_page() -> str:
    """replicad.yaml(5)."""
    schema = json_schema()
    lines = [".SH NAME", "replicad.yaml \\- " + escaped("the configuration of replicad")]
    lines += [".SH DESCRIPTION"]
    lines += paragraphs(
        "YAML 1.2 in UTF-8. It is the first of these that applies: the file that `--config` names, the one that "
        "`$REPLICAD_CONFIG` names, `/etc/replicad/replicad.yaml`, `replicad/replicad.yaml` in `$XDG_CONFIG_HOME`.\n\n"
        "`replicad check-config` says all that is wrong in it, with the lines; `replicad schema` prints a JSON Schema "
        "for editors; `replicad reload` has a daemon take it anew.\n\n"
        "A duration is days, hours, minutes and seconds, as 30s, 5m, 1h30m or 7d. A rate is bytes per second in steps "
        "of 1024, as 512K or 100M. An address is \\\\server\\share\\directory, smb://server/share/directory or an "
        "absolute local path. Write backslashes without quotes or in single quotes."
    )
    for title, path, part in _groups(schema, "", schema):
        heading = "TOP LEVEL" if not path else title.upper() if path.count(".") == 0 else title
        lines += [f".SH {escaped(heading)}" if path.count(".") == 0 else f".SS {escaped(heading)}"]
        if path:
            lines += paragraphs(part.get("description", ""))
        for name, key in part["properties"].items():
            lines += _key(schema, name, key, required=name in part.get("required", ()))
    lines += [".SH EXAMPLE", *literal((CHECKOUT / "config" / "minimal.yaml").read_text(encoding="utf-8"))]
    lines += [".SH SEE ALSO", ".BR replicad (1)"]
    return page("replicad.yaml", 5, REVISED, f"replicad {__version__}", "File formats", lines)


def _groups(schema: _Schema, path: str, part: _Schema) -> list[tuple[str, str, _Schema]]:
    """A group and all that are in it: how it is called in the page, its path, its schema."""
    found = [(path, path, part)]
    for name, key in part["properties"].items():
        below = f"{path}.{name}" if path else name
        if (inner := _referred(schema, key)) is not None:
            found += _groups(schema, below, inner)
        elif (inner := _referred(schema, key.get("additionalProperties", {}))) is not None:
            found += [(f"{below}.NAME", below, inner), *_groups(schema, f"{below}.NAME", inner)[1:]]
    return found


def _referred(schema: _Schema, key: object) -> _Schema | None:
    if not isinstance(key, dict) or "$ref" not in key:
        return None
    found: _Schema = schema["$defs"][key["$ref"].rpartition("/")[2]]
    return found


def _key(schema: _Schema, name: str, key: _Schema, *, required: bool) -> list[str]:
    group_of_keys = _referred(schema, key)
    text = key.get("description") or (group_of_keys or {}).get("description", "")
    body = [text.split("\n\n")[0]]
    about = ["Required."] if required else []
    if "additionalProperties" in key or group_of_keys is not None:
        about.append("A group of keys: see below.")
    if "enum" in key:
        about.append("One of " + ", ".join(f"`{_shown(one)}`" for one in key["enum"]) + ".")
    if "minimum" in key:
        about.append(f"From {key['minimum']} to {key['maximum']}.")
    if "default" in key:
        about.append(f"Default: `{_shown(key['default'])}`.")
    if "examples" in key:
        about.append("Examples: " + "; ".join(f"`{_shown(one)}`" for one in key["examples"]) + ".")
    return entry(bold(name), [*body, *([" ".join(about)] if about else [])])


def _shown(value: object) -> str:
    """As it is written in the file."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return "[" + ", ".join(f'"{one}"' if "*" in str(one) else str(one) for one in value) + "]"
    return str(value)
