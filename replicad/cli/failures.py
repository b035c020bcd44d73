"""What is said when a command fails, and the exit code that goes with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from replicad.model.errors import ReplicadError
from replicad.model.names import printable
from replicad.settings.problems import SettingsError

INTERRUPTED = 130


def tell(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what went wrong, in sentences; the exit code. Never a traceback, unless `debug` asks for one."""
    if debug and not isinstance(error, (SystemExit, click.ClickException, click.Abort)):
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(printable(line), err=True)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    parts = list(_parts(error))
    if any(_is_interruption(part) for part in parts):
        click.echo("replicad: interrupted", err=True)
        return INTERRUPTED
    codes: list[int] = []
    said: set[str] = set()
    for part in parts:
        text, code = _sentence(part)
        codes.append(code)
        if text not in said:
            click.echo(text, err=True)
        said.add(text)
    # Of several failures the one that a person must act on says more than "try again".
    return min(codes, key=lambda code: (code == 5, codes.index(code)))


def _parts(error: BaseException) -> Iterator[BaseException]:
    """What tasks that ran at once failed with, one by one."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _parts(part)
    else:
        yield error


def _is_interruption(error: BaseException) -> bool:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return True
    asyncio = sys.modules.get("asyncio")  # not imported here: verbs that need no loop start faster without it
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _sentence(error: BaseException) -> tuple[str, int]:
    """What to say of one error (nothing in it can steer the terminal), and its exit code."""
    if isinstance(error, SettingsError):
        # Each line names the file, as compilers do.
        return "\n".join(printable(str(problem)) for problem in error.problems), error.exit_code
    if isinstance(error, ReplicadError):
        if getattr(error, "kind", "") == SettingsError.__name__:  # a daemon's
            return "\n".join(printable(line) for line in str(error).splitlines()), error.exit_code
        return f"replicad: {printable(str(error))}", error.exit_code
    return (
        f"replicad: unexpected {type(error).__name__}: this is a bug in replicad, please report it; "
        "'replicad --debug ...' shows where it happened",
        1,
    )
