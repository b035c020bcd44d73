"""`replicad check-config`: silent when the configuration is good."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from replicad.settings.problems import SettingsError

from .options import config_option, json_option, load_configuration
from .output import print_json


@click.command("check-config")
@config_option
@json_option
def command(config: Path | None, as_json: bool) -> int:
    """Say what is wrong in the configuration, one line each, and what would be right.

    Prints nothing when it is good. Exit code 2 if anything is wrong.
    """
    if not as_json:
        load_configuration(config)
        return 0
    try:
        settings = load_configuration(config)
    except SettingsError as error:
        problems = [asdict(problem) for problem in error.problems]
        print_json({"file": error.subject, "good": False, "problems": problems})
        return error.exit_code
    print_json({"file": str(settings.file), "good": True, "problems": []})
    return 0
