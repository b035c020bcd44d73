"""`replicad schema`: what editors need to check and complete the configuration."""

from __future__ import annotations

import click

from .output import print_json


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the configuration file.

    Save it beside the file and begin that with the line
    "# yaml-language-server: $schema=replicad.schema.json".
    """
    from replicad.settings import json_schema

    print_json(json_schema())
