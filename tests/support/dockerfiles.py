"""Dockerfiles without a container engine: read, and carried out step by step in directories that are systems of their
own. What runs there has a root, mounts and processes of its own, as in a container, and the network of this machine."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As images have it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction, its lines joined."""

    word: str
    text: str


def read_dockerfile(path: Path) -> list[Step]:
    """All instructions of a file."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [Step(*line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]


def health_check(steps: Sequence[Step]) -> list[str]:
    """The command of the HEALTHCHECK."""
    (text,) = [step.text for step in steps if step.word == "HEALTHCHECK"]
    command: list[str] = json.loads(text.partition("CMD ")[2])
    return command


@dataclass(slots=True)
class Image:
    """A directory with a system, and how its program is run."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    directory: str = "/"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def command_line(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> list[str]:
        """`command` in it, as PID 1 of a PID namespace, with the user and the environment that the image says; it is
        killed when whoever runs this is."""
        enter = (
            'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && directory=$1 && user=$2 && shift 2 && '
            'exec chroot --userspec="$user" "$0" /usr/bin/env -i --chdir="$directory" "$@"'
        )
        variables = [f"{name}={value}" for name, value in {**self.environ, **(environ or {})}.items()]
        isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        return [*isolated, "sh", "-c", enter, str(self.root), self.directory, self.user, *variables, *command]

    def run(self, command: Sequence[str], environ: Mapping[str, str] | None = None, timeout_s: float = 600) -> str:
        """Run a command to its end, which must be a good one; what it printed."""
        done = subprocess.run(
            self.command_line(command, environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


def copied(root: Path, to: Path) -> Path:
    """A copy of a system."""
    subprocess.run(["cp", "-a", "--reflink=auto", f"{root}/.", str(to)], check=True, timeout=600)
    return to


def build(
    dockerfile: Path, context: Path, base: Path, room: Path, environ: Mapping[str, str], ignored: Path | None = None
) -> Image:
    """The image of the last stage, in `room`; each stage begins as a copy of `base`, whatever its FROM says.

    `environ` is for RUN alone, as build arguments are. `ignored` is the .dockerignore of the context.
    """
    stages: dict[str, Image] = {}
    image = Image(room)
    for step in read_dockerfile(dockerfile):
        match step.word:
            case "FROM":
                name = step.text.partition(" AS ")[2] or f"stage{len(stages)}"
                (room / name).mkdir(parents=True)
                image = stages[name] = Image(copied(base, room / name), {"PATH": PATH})
            case "RUN":
                image.run(["sh", "-ec", step.text], environ)
            case "COPY":
                _copy(step.text, image, stages, context, _patterns(ignored))
            case "ENV":
                for word in shlex.split(step.text):
                    name, _, value = word.partition("=")
                    image.environ[name] = value.replace("$PATH", image.environ["PATH"])
            case "USER":
                image.user = step.text
            case "WORKDIR":
                image.directory = step.text
                (image.root / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENTRYPOINT":
                image.entry = json.loads(step.text)
            case "CMD":
                image.command = json.loads(step.text)
            case "VOLUME" | "STOPSIGNAL" | "HEALTHCHECK" | "EXPOSE":
                pass  # they say how an engine runs it
            case _:
                raise NotImplementedError(step.word)
    return image


def _patterns(ignored: Path | None) -> list[str]:
    return ignored.read_text(encoding="utf-8").split() if ignored is not None else []


def taken_into_the_context(path: str, patterns: Sequence[str]) -> bool:
    """Whether a .dockerignore leaves a path in: the last pattern that fits it, or a directory around it, decides."""
    taken = True
    parts = path.split("/")
    prefixes = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for pattern in patterns:
        wanted = pattern.removeprefix("!").removeprefix("**/")
        if any(fnmatch.fnmatch(prefix, wanted) for prefix in [*prefixes, *(parts if "**/" in pattern else ())]):
            taken = pattern.startswith("!")
    return taken


def _copy(text: str, image: Image, stages: Mapping[str, Image], context: Path, patterns: Sequence[str]) -> None:
    words = text.split()
    from_stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
    *sources, target = words
    to = image.root / os.path.join(image.directory, target).lstrip("/")  # noqa: PTH118 - as in the image, not here
    for source in sources:
        if from_stage is not None:
            path, ignore = stages[from_stage].root / source.lstrip("/"), _nothing
        else:
            assert taken_into_the_context(source, patterns), f"{source} is not in the context"
            path, ignore = context / source, _not_taken(context, patterns)
        if path.is_dir():
            shutil.copytree(path, to, symlinks=True, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy2(path, to / path.name if target.endswith("/") else to)


def _nothing(directory: str, names: list[str]) -> set[str]:
    return set()


def _not_taken(context: Path, patterns: Sequence[str]) -> Any:
    def ignore(directory: str, names: list[str]) -> set[str]:
        there = Path(directory).relative_to(context)
        return {name for name in names if not taken_into_the_context(str(there / name), patterns)}

    return ignore
