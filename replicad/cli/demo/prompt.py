"""Typing commands: each is shown, run as a process of its own, and held against the exit code that it should have."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import replicad
from replicad.model.errors import PermanentError

from .narrator import Narrator
from .programs import run_program
from .stage import Stage, clean_environment

# What the console script does; that may not be on the path.
_PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"


class Prompt:
    """A user at a shell, in the stage's directory, with `$REPLICAD_CONFIG` set."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._narrator = narrator
        self._variables = {"REPLICAD_CONFIG": str(stage.config)}

    def unset_configuration(self) -> None:
        """From here on no configuration is named."""
        self._narrator.command("unset REPLICAD_CONFIG")
        self._variables = {}

    def show(self, text: str) -> None:
        """A command of the shell that is only shown: what it does, this object does for all that follow."""
        self._narrator.command(text)

    def type(self, *arguments: str, exit_code: int = 0) -> str:
        """Run `replicad` as a user would; what it printed. PermanentError if it ends with another exit code."""
        self._narrator.command(shlex.join(["replicad", *arguments]))
        began_s = time.monotonic()
        code, out, err = self._run(arguments)
        taken_s = time.monotonic() - began_s
        self._narrator.output(out)
        if code != exit_code:
            self._narrator.output(err, "red")
            raise self._failed(arguments, f"it ended with exit code {code} instead of {exit_code}")
        for line in err.splitlines():
            if line.startswith("warning:"):
                self._narrator.notice(line)
        self._narrator.aside(f"({taken_s:.1f} s, exit code {code})")
        return out

    def ask(self, *arguments: str) -> Any:
        """What a command says as JSON, without showing it."""
        code, out, err = self._run((*arguments, "--json"))
        if code:
            self._narrator.output(err, "red")
            raise self._failed(arguments, f"it ended with exit code {code} instead of 0")
        return json.loads(out)

    def _run(self, arguments: tuple[str, ...]) -> tuple[int, str, str]:
        # The package that runs now, wherever it came from: installed, or a directory on the path.
        package = str(Path(replicad.__file__).parents[1])
        environment = {
            **clean_environment(),
            **self._variables,
            "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONIOENCODING": "utf-8",
        }
        done = run_program(
            [sys.executable, "-c", _PROGRAM, *arguments],
            self._stage.interruption, cwd=self._stage.root, env=environment,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def _failed(self, arguments: tuple[str, ...], answer: str) -> PermanentError:
        return PermanentError(
            "finish", "the demo", f"'{shlex.join(['replicad', *arguments])}' failed: {answer}",
            "'replicad demo --keep DIR' keeps everything for a look.",
        )  # fmt: skip
