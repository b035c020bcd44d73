"""How to sign in where no configuration says it: options, then the environment, then a question on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicad.model.address import Address, SmbAddress
from replicad.model.errors import ConfigError
from replicad.model.progress import Observer, Warned

from .options import SignIn

if TYPE_CHECKING:
    from replicad.service.compose import OneOffCredentials
    from replicad.settings import Settings

Ask = Callable[[str], str]

_PASSWORD_VARIABLES = ("REPLICAD_PASSWORD_FILE", "REPLICAD_PASSWORD")


def one_off_credentials(
    address: Address,
    settings: Settings | None,
    sign_in: SignIn,
    environ: Mapping[str, str],
    observe: Observer,
    ask: Ask | None = None,
) -> OneOffCredentials | None:
    """What `Shares` needs beside the configuration to open `address`; None if that is nothing.

    For a server that is configured only what was typed counts; for another one also the environment. May read the
    password's file or ask for it (by `ask`; by default on the terminal, if there is one), so call it before the event
    loop runs. Raises ConfigError if a user has no password.
    """
    from replicad.service.compose import OneOffCredentials

    if not isinstance(address, SmbAddress):
        return None
    configured = settings is not None and settings.server(address.server) is not None
    if configured and sign_in == SignIn():
        return None
    username = sign_in.username or (None if configured else environ.get("REPLICAD_USERNAME")) or None
    from_environment = not configured and any(environ.get(name) for name in _PASSWORD_VARIABLES)
    if username is None and (sign_in.password_file is not None or from_environment):
        raise ConfigError(
            "sign in to", f"server {address.server}", "there is a password and no user", "Add --username USER."
        )
    if username is not None:
        _as_text(username, address.server, "the user name")
    password = _password(address.server, username, sign_in, environ, observe, ask) if username else None
    return OneOffCredentials(username, password, sign_in.encryption_required, sign_in.port, address.server)


def _password(
    server: str, username: str, sign_in: SignIn, environ: Mapping[str, str], observe: Observer, ask: Ask | None
) -> str:
    from replicad.service.passwords import Secret, read_file

    if path := sign_in.password_file or environ.get("REPLICAD_PASSWORD_FILE"):
        return read_file(Path(path), server, lambda text: observe(Warned(text)))
    if password := environ.get("REPLICAD_PASSWORD"):
        return Secret(_as_text(password, server, "$REPLICAD_PASSWORD"))
    if ask is None and sys.stdin is not None and sys.stdin.isatty():
        ask = _ask_on_terminal
    if ask is None:
        raise ConfigError(
            "sign in to",
            f"server {server}",
            f"there is no password for {username}, and no terminal to ask on",
            "Give --password-file PATH, or set REPLICAD_PASSWORD_FILE.",
        )
    return Secret(_as_text(ask(f"Password for {username} on {server}"), server, "what was typed"))


def _as_text(given: str, server: str, where: str) -> str:
    """`given`; ConfigError if it is not text, as bytes from a terminal or the environment may be."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "sign in to", f"server {server}", f"{where} is not UTF-8", "Set a UTF-8 locale, such as C.UTF-8."
        ) from None
    return given


def _ask_on_terminal(question: str) -> str:
    answer: str = click.prompt(question, hide_input=True, err=True)
    return answer
