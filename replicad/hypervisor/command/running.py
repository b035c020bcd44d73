"""Running the user's own commands of one machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from replicad.hypervisor.thawing import KIND, Undo
from replicad.model.errors import BusyError, ConfigError, IntegrityError, PermanentError
from replicad.model.names import printable
from replicad.model.points import Consistency
from replicad.model.progress import Advanced, Observer, Said
from replicad.storage.programs import MAX_VARIABLE_BYTES, NotStartedError, environment_for, run_program

from .printed import Printed

UNDO_KIND = "command"
"""The kind of what `undo_command` undoes."""
_MAX_SAID_CHARS = 200
_GETS_ON_EVERY_S = 60.0


class Phase(StrEnum):
    """What a command is run for; the values are the keys of the configuration, and `REPLICAD_PHASE`."""

    FREEZE = "freeze"
    THAW = "thaw"
    SNAPSHOT = "snapshot"
    RELEASE = "release"
    SWITCH = "switch"


_VERBS = {
    Phase.FREEZE: "freeze",
    Phase.THAW: "thaw",
    Phase.SNAPSHOT: "take a snapshot of",
    Phase.RELEASE: "release the snapshot of",
    Phase.SWITCH: "switch",
}
_HINTS = {
    Phase.FREEZE: "Run it by hand to see why; the log has what it said.",
    Phase.THAW: "THE MACHINE MAY STILL BE FROZEN: thaw it by hand; the log has what the command said.",
    Phase.SNAPSHOT: "Run it by hand to see why; the log has what it said.",
    Phase.RELEASE: "The snapshot may still be there: remove it by hand; the log has what the command said.",
    Phase.SWITCH: "Run it by hand to see why; the log has what it said.",
}


class CommandNotStartedError(ConfigError):
    """A command of the configuration can't be started, so nothing of what it does can have happened."""


@dataclass(frozen=True, slots=True)
class Call:
    """One command, what it is run for, and what it is told: the paths of the disks, and what is `wanted` of them."""

    vm: str
    phase: Phase
    arguments: tuple[str, ...]
    disks: tuple[str, ...]
    wanted: Consistency
    timeout_s: float
    new_disks: tuple[str, ...] | None = None
    """What the machine is to use in place of each of `disks`, if it is to be switched."""

    def variables(self) -> dict[str, str]:
        """What its environment says of it. PermanentError if that does not fit."""
        told = {
            "REPLICAD_VM": self.vm,
            "REPLICAD_DISKS": "\n".join(self.disks),
            "REPLICAD_PHASE": self.phase.value,
            "REPLICAD_WANTED": self.wanted.value,
        }
        if self.new_disks is not None:
            told["REPLICAD_NEW_DISKS"] = "\n".join(self.new_disks)
        for name, text in told.items():
            if len(text.encode()) > MAX_VARIABLE_BYTES:
                answer = f"the paths of its {len(self.disks)} disks are too long for {name}"
                raise PermanentError(_VERBS[self.phase], self.vm, answer, "Make several machines of it.")
        return told

    def as_how(self) -> dict[str, str]:
        """For the freeze journal."""
        return {
            KIND: UNDO_KIND,
            "phase": self.phase.value,
            "arguments": json.dumps(self.arguments),
            "disks": json.dumps(self.disks),
            "wanted": self.wanted.value,
            "timeout_s": str(self.timeout_s),
        } | ({} if self.new_disks is None else {"new_disks": json.dumps(self.new_disks)})


async def run(call: Call, observe: Observer) -> Printed:
    """Run a command to its end; what it printed.

    What it prints is told to `observe`, line by line. CommandNotStartedError if it can't be started, else BusyError if
    it fails or takes longer than its time. It has ended with all it started, also when this is cancelled.
    """
    program = printable(call.arguments[0])
    named = printable(PurePath(call.arguments[0]).name)

    def say(line: str) -> None:
        observe(Said(call.vm, f"{call.phase} ({named})", line))

    variables = call.variables()
    printed = Printed(say)
    try:
        with _getting_on(observe):
            ended = await run_program(
                call.arguments,
                stdin=b"",
                environ=environment_for(variables),
                timeout_s=call.timeout_s,
                hear=printed.hear,
                stderr_apart=True,
            )
    except NotStartedError as error:
        raise CommandNotStartedError(
            _VERBS[call.phase], call.vm, f"{program} {error}", f"Check 'consistency.{call.phase}' of it."
        ) from None
    finally:
        printed.end()
    if ended.failure is not None:
        said = f" (it said: {printed.last[:_MAX_SAID_CHARS]})" if printed.last else ""
        failure = ended.failure.removeprefix("it ")
        raise BusyError(_VERBS[call.phase], call.vm, f"{program} {failure}{said}", _HINTS[call.phase])
    return printed


@contextmanager
def _getting_on(observe: Observer) -> Iterator[None]:
    """A program may take longer than anything else may stand still: as long as it has time, the work gets on."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def begin() -> None:
        nonlocal timer
        timer = loop.call_later(_GETS_ON_EVERY_S, tell)

    def tell() -> None:
        observe(Advanced(0))
        begin()

    begin()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def consistency_said(printed: Printed) -> Consistency | None:
    """What the last line on stdout says was reached, if it is `application` or `crash`."""
    last = printed.last_on_stdout.lower()
    return next((c for c in (Consistency.APPLICATION, Consistency.CRASH) if last == c.value), None)


def undo_command(observe: Observer) -> Undo:
    """What undoes, for the freeze journal, what a process that died has done by a command."""

    async def undo(vm: str, how: Mapping[str, str]) -> None:
        await run(call_of(vm, how), observe)

    return undo


def call_of(vm: str, how: Mapping[str, str]) -> Call:
    """What `as_how` gave. IntegrityError for what makes no sense."""
    try:
        arguments, disks = (tuple(str(one) for one in json.loads(how[key])) for key in ("arguments", "disks"))
        new_disks = tuple(str(one) for one in json.loads(how["new_disks"])) if "new_disks" in how else None
        call = Call(
            vm, Phase(how["phase"]), arguments, disks, Consistency(how["wanted"]), float(how["timeout_s"]), new_disks
        )  # fmt: skip
    except (KeyError, ValueError, TypeError):
        raise IntegrityError(
            "thaw", vm, "what was written down of how to do it makes no sense", "Thaw it by hand."
        ) from None
    if not call.arguments:
        raise IntegrityError("thaw", vm, "no command was written down for it", "Thaw it by hand.")
    return call
