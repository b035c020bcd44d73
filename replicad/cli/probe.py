"""`replicad probe`: whether a share is fit to keep disks on, and what to do where it is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicad.model.address import SmbAddress
from replicad.model.names import printable
from replicad.model.progress import ProgressEvent, Warned

from .options import SignIn, config_option, json_option, load_configuration_if_any, sign_in_options
from .output import print_json, print_line
from .replica_target import locate_replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicad.model.address import Address
    from replicad.service.compose import Shares
    from replicad.workflows.probe import StepResult

_MARKS = {"passed": "✓", "failed": "✗", "skipped": "–"}
_STEP_WIDTH = 16


@click.command("probe")
@click.argument("share", metavar="SHARE")
@config_option
@json_option
@sign_in_options
def command(share: str, config: Path | None, as_json: bool, sign_in: SignIn) -> int:
    r"""Try everything that is needed of SHARE, step by step, and say what to do where a step fails.

    SHARE is \\server\share\directory, smb://server/share/directory or a local directory. Everything is tried in a
    new directory in it, with about 64 MiB, which is removed again. A share that is only read from, such as the
    source of a replication, need not pass the steps that write.

    The exit code is that of the first step that failed: 5 not reachable, 12 sign-in or access refused, 10 no such
    share, 3 the share took something and did not keep to it, else 1.
    """
    from replicad.service.compose import Shares
    from replicad.workflows.probe import exit_code

    from .credentials import one_off_credentials
    from .run_async import run_async

    address = locate_replica(share)
    settings = load_configuration_if_any(config) if config or isinstance(address, SmbAddress) else None
    credentials = one_off_credentials(address, settings, sign_in, os.environ, _warn)
    report: Callable[[StepResult], None] = _keep_silent if as_json else _print
    results = run_async(_probe(Shares(settings, credentials, _warn), address, report))
    if as_json:
        code = exit_code(results)
        print_json({"share": str(address), "fit": code == 0, "steps": [_facts(one) for one in results]})
    return exit_code(results)


async def _probe(shares: Shares, address: Address, report: Callable[[StepResult], None]) -> list[StepResult]:
    from replicad.service.probing import probe_means, way_to
    from replicad.workflows.probe import probe

    async with way_to(shares, address) as way, probe_means() as means:
        return await probe(way, means, report)


def _print(result: StepResult) -> None:
    print_line(f"{_MARKS[result.outcome]} {result.step:<{_STEP_WIDTH}} {printable(result.text)}")
    indent = " " * (_STEP_WIDTH + 3)
    if result.hint:
        print_line(f"{indent}→ {printable(result.hint)}")
    for warning in result.warnings:
        print_line(f"{indent}! {printable(warning)}")


def _keep_silent(result: StepResult) -> None:
    """With --json everything is printed at once in the end."""


def _facts(result: StepResult) -> dict[str, Any]:
    return {
        "step": result.step,
        "outcome": result.outcome,
        "text": result.text,
        "hint": result.hint,
        "warnings": list(result.warnings),
        "facts": dict(result.facts),
    }


def _warn(event: ProgressEvent) -> None:
    if isinstance(event, Warned):
        click.echo(printable(f"warning: {event.text}"), err=True)
