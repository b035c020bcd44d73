"""`replicad inspect`: what a virtual disk says of itself, and whether it is damaged."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.address import Address, LocalAddress, SmbAddress, parse_address
from replicad.model.errors import ConfigError, IntegrityError
from replicad.model.names import last_part, parent, printable
from replicad.model.progress import ProgressEvent, Warned
from replicad.model.sizes import human_bytes

from .options import SignIn, config_option, json_option, load_configuration_if_any, sign_in_options
from .output import print_json, print_line

if TYPE_CHECKING:
    from replicad.service.compose import Shares
    from replicad.vhdx import BatFacts, LogFacts, NotVhdx, VhdxFacts
    from replicad.workflows.inspect import Inspection


@click.command("inspect")
@click.argument("file", metavar="FILE")
@config_option
@json_option
@sign_in_options
def command(file: str, config: Path | None, as_json: bool, sign_in: SignIn) -> int:
    r"""Say what the virtual disk FILE is, and check its structures. FILE is only read, and may be in use.

    FILE is a local path, \\server\share\dir\disk.vhdx or smb://server/share/dir/disk.vhdx.

    Exit code 1 if it is damaged or not a VHDX. What is checked, and what is not, is told in docs/vhdx.md.
    """
    from replicad.service.compose import Shares

    from .credentials import one_off_credentials
    from .run_async import run_async

    directory, name = locate(file)
    settings = load_configuration_if_any(config) if config or isinstance(directory, SmbAddress) else None
    credentials = one_off_credentials(directory, settings, sign_in, os.environ, _warn)
    try:
        result = run_async(_inspect(Shares(settings, credentials, _warn), directory, name))
    except IntegrityError as damage:
        if as_json:
            print_json({"file": file, "format": "vhdx", "damaged": True, "reason": damage.answer})
        _say(f"replicad: {damage}")
        return 1
    return _print_json(file, result.facts) if as_json else _print(file, result.facts)


def locate(text: str) -> tuple[Address, str]:
    """The directory and the name of a file that somebody typed. Raises ConfigError."""
    if not text or re.match(r"[\\/]{2}|smb://", text, re.IGNORECASE):
        address = parse_address(text)
        if isinstance(address, LocalAddress) or not address.path:
            raise ConfigError("inspect", f"{text!r}", "it names no file", r"Write \\server\share\directory\disk.vhdx.")
        return SmbAddress(address.server, address.share, parent(address.path)), last_part(address.path)
    path = Path(os.path.realpath(text))  # who names a link means what it leads to
    return LocalAddress(str(path.parent)), path.name


async def _inspect(shares: Shares, directory: Address, name: str) -> Inspection:
    from replicad.storage.port import OpenMode
    from replicad.workflows.inspect import inspect

    async with shares:
        share = await shares.open(directory)
        async with await share.open(name, OpenMode.READ) as file:
            return await inspect(file)


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


def _warn(event: ProgressEvent) -> None:
    if isinstance(event, Warned):
        _say(f"warning: {event.text}")


def _refuse(name: str, facts: NotVhdx) -> int:
    _say(f"replicad: {name} is not a VHDX: {facts.reason}; replicad treats it as plain bytes")
    return 1


def _print_json(name: str, facts: VhdxFacts | NotVhdx) -> int:
    from replicad.vhdx import NotVhdx

    if isinstance(facts, NotVhdx):
        kind = "vhd" if facts.vhd else None
        print_json({"file": name, "format": kind, "damaged": False, **_plain(asdict(facts))})
        return _refuse(name, facts)
    fields = _plain(asdict(facts))
    fields["parent_locator"] = dict(facts.parent_locator)
    print_json({"file": name, "format": "vhdx", "damaged": False, **fields})
    return 0


def _plain(value: Any) -> Any:
    """`value` with enumerations replaced by their values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _print(name: str, facts: VhdxFacts | NotVhdx) -> int:
    from replicad.vhdx import NotVhdx

    if isinstance(facts, NotVhdx):
        rows = [("file", name), ("file size", _size(facts.file_size_bytes))]
        if facts.vhd:
            rows += [
                ("format", f"VHD, {facts.vhd.kind.value}"),
                ("virtual size", _size(facts.vhd.virtual_size_bytes)),
                ("footer checksum", "right" if facts.vhd.checksum_valid else "wrong"),
            ]
        _print_rows(rows)
        return _refuse(name, facts)
    header = facts.header
    _print_rows(
        [
            ("file", name),
            ("format", f"VHDX, {facts.kind.value}"),
            ("made by", facts.creator or "(it does not say)"),
            ("virtual size", _size(facts.virtual_size_bytes)),
            ("file size", _size(facts.file_size_bytes)),
            ("block size", _size(facts.block_size_bytes)),
            ("sector size", f"{facts.logical_sector_bytes} B logical, {facts.physical_sector_bytes} B physical"),
            ("disk id", facts.disk_id),
            ("headers", f"{_copies(facts.header_copies_valid)}; sequence number {header.sequence_number}"),
            ("file write GUID", header.file_write_guid),
            ("data write GUID", header.data_write_guid),
            ("region tables", _copies(facts.region_tables_valid)),
            ("log", _log(facts.log, header.log_guid)),
            *(_blocks(facts.bat) if facts.bat else []),
            *_parent(facts),
            *(("warning", warning) for warning in facts.warnings),
        ]
    )
    return 0


def _print_rows(rows: list[tuple[str, str]]) -> None:
    wide = max(len(label) for label, _ in rows)
    for label, text in rows:
        print_line(f"{printable(label):<{wide}}  {printable(text)}")


def _size(count: int) -> str:
    return human_bytes(count) if count < 1024 else f"{human_bytes(count)} ({count:,} bytes)"


def _copies(valid: tuple[bool, bool]) -> str:
    return "both copies valid" if all(valid) else f"copy {2 if valid[0] else 1} is damaged, the other one is used"


def _log(log: LogFacts, guid: str | None) -> str:
    if not log.entries:
        return log.state.value
    count = f"{log.entries} {'entry' if log.entries == 1 else 'entries'}"
    return f"{log.state.value}: {count} ({log.first_sequence_number} to {log.last_sequence_number}) of log {guid}"


def _parent(facts: VhdxFacts) -> list[tuple[str, str]]:
    return [
        ("parent linkage", value) if key == "parent_linkage" else ("parent path", f"{value} ({key})")
        for key, value in facts.parent_locator
        if key == "parent_linkage" or value in facts.parent_paths
    ]


def _blocks(bat: BatFacts) -> list[tuple[str, str]]:
    states = {
        "present": bat.fully_present,
        "partially present": bat.partially_present,
        "zero": bat.zero,
        "unmapped": bat.unmapped,
        "undefined": bat.undefined,
        "not present": bat.not_present,
    }
    counts = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
    return [("blocks", counts or "none"), ("allocated", _size(bat.allocated_bytes))]
