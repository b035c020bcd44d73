"""Running the command of a hook."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from replicad.storage.programs import NotStartedError, environment_for, run_program

from .hook_result import MAX_OUTPUT_BYTES, HookResult


async def run_command(
    arguments: Sequence[str],
    document: bytes,
    variables: Mapping[str, str],
    timeout_s: float,
    environ: Mapping[str, str] = os.environ,
) -> HookResult:
    """Run a program without a shell, with `document` on its stdin and `variables` in its environment.

    It goes well if the program ends with status 0 within `timeout_s`. Stdout and stderr are read to their end, and the
    first 4 KiB kept. It ends with what it has started, as by `run_program`.
    """
    output = bytearray()

    def hear(_: int, data: bytes) -> None:
        output.extend(data[: MAX_OUTPUT_BYTES - len(output)])

    try:
        ended = await run_program(
            arguments, stdin=document, environ=environment_for(variables, environ), timeout_s=timeout_s, hear=hear
        )
    except NotStartedError as error:
        return HookResult(f"it {error}")
    return HookResult(ended.failure, output.decode("utf-8", "replace"))
