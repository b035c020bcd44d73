"""Options that several verbs take, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from replicad.model.names import printable

if TYPE_CHECKING:
    from replicad.model.timetable import Timetable
    from replicad.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration file (else $REPLICAD_CONFIG, /etc/replicad/replicad.yaml, the user's XDG directory).",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout, and nothing else there."
)
standalone_option = click.option(
    "--standalone", is_flag=True, help="Do the work in this process, even if a daemon runs."
)
replica_option = click.option(
    "--replica", metavar="SHARE/VM", help="The replica's own directory, in place of a configuration."
)


def _timetable(context: click.Context, parameter: click.Parameter, value: str | None) -> Timetable | None:
    from replicad.settings.problems import WrongError
    from replicad.settings.timetable import parse_timetable

    try:
        return None if value is None else parse_timetable(value)
    except WrongError as error:
        raise click.BadParameter(str(error), context, parameter) from None


bandwidth_option = click.option(
    "--bandwidth",
    metavar="RATE",
    callback=_timetable,
    help="The most to read or send, beside the configuration's limits: 50M, or a timetable as in the configuration.",
)


@dataclass(frozen=True, slots=True)
class SignIn:
    """What was typed about how to sign in; None where nothing was."""

    username: str | None = None
    password_file: Path | None = None
    encryption_required: bool | None = None
    port: int | None = None


def sign_in_options(function: F) -> F:
    """Add `--username`, `--password-file`, `--encryption` and `--port`, given to the function as `sign_in: SignIn`.

    There is no option for a password: a process's arguments are there for all to read.
    """

    @wraps(function)
    def with_sign_in(
        *args: Any,
        username: str | None,
        password_file: Path | None,
        encryption: str | None,
        port: int | None,
        **kwargs: Any,
    ) -> Any:
        required = None if encryption is None else encryption == "required"
        return function(*args, sign_in=SignIn(username, password_file, required, port), **kwargs)

    options = [
        click.option(
            "--username",
            metavar="USER",
            help=r"Sign in as user, DOMAIN\user or user@REALM ($REPLICAD_USERNAME); else Kerberos.",
        ),
        click.option(
            "--password-file",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="The file with the password ($REPLICAD_PASSWORD_FILE, $REPLICAD_PASSWORD); else it is asked for.",
        ),
        click.option(
            "--encryption",
            type=click.Choice(["required", "allowed"]),
            help="Whether to go on where the server does not encrypt.",
        ),
        click.option("--port", type=click.IntRange(1, 65_535), help="The server's port, if not 445."),
    ]
    result: Any = with_sign_in
    for option in reversed(options):
        result = option(result)
    return result  # type: ignore[no-any-return]  # click's decorators give back what they were given


def load_configuration(config: Path | None) -> Settings:
    """The configuration that `--config` or its defaults name. Raises ConfigError."""
    from replicad.settings import find_config, load_settings

    return _where_machines_are(load_settings(find_config(config, os.environ)))


def load_configuration_if_any(config: Path | None) -> Settings | None:
    """The same; None if no configuration was named and none is in its usual places."""
    from replicad.model.errors import ConfigError
    from replicad.settings import find_config, load_settings

    try:
        path = find_config(config, os.environ)
    except ConfigError:
        return None
    return _where_machines_are(load_settings(path))


def _where_machines_are(settings: Settings) -> Settings:
    """With the sources of those that were moved, which is told."""
    if not os.path.exists(settings.state_dir / "catalog.sqlite"):  # noqa: PTH110  False where this user may not look
        return settings  # as on hosts without a daemon, and nothing has to be imported for that
    from sqlite3 import Error

    from replicad.catalog.moved_sources import moved_sources_in
    from replicad.catalog.rows import SenselessRowError
    from replicad.service.moving.following import followed, what_to_change

    try:
        moved = moved_sources_in(settings.state_dir / "catalog.sqlite")
    except (Error, OSError, SenselessRowError) as error:
        click.echo(f"warning: where machines were moved to can't be read, and is left out: {error}", err=True)
        return settings
    settings = followed(settings, moved) if moved else settings
    for sentence in what_to_change(settings).values():
        click.echo(f"warning: {printable(sentence)}", err=True)
    return settings


def complete_vm(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of virtual machines that begin so, for the shell's completion; none where there is no configuration."""
    from replicad.model.errors import ConfigError
    from replicad.settings.find import find_config
    from replicad.settings.machine_names import machine_names

    try:
        names = machine_names(find_config(context.params.get("config"), os.environ))
    except ConfigError:
        return []
    return [name for name in names if name.startswith(incomplete)]
