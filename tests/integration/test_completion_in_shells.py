"""Completion as it is typed: real bash, zsh and fish, with the files that are installed."""

from __future__ import annotations

import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replicad.cli.completion import VARIABLE
from tools.made import COMPLETIONS, SHARE

NAMES = ["web01", "회계 서버", 'it\'s, "q" & $HOME', "db"]
MAX_CPU_S = 0.150
_PATIENCE_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a configuration, and `replicad` on the path."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "replicad"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from replicad.cli.main import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    machines = "".join(f"  '{name.replace(chr(39), 2 * chr(39))}': {{source: /a, replica: /b}}\n" for name in NAMES)
    (tmp_path / "설정.yaml").write_text(f"virtual_machines:\n{machines}", encoding="utf-8")
    return tmp_path


def _environ(home: Path) -> dict[str, str]:
    return {
        "PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8", "TERM": "vt100",
        "REPLICAD_CONFIG": str(home / "설정.yaml"), "HISTFILE": "",
    }  # fmt: skip


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


_SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], "bind 'set enable-bracketed-paste off'; source '{file}'"),
    "zsh": (
        ["-f", "-i"],
        "unset zle_bracketed_paste; fpath=('{directory}' $fpath); autoload -Uz compinit; compinit -u -D",
    ),
}


def _typed(shell: str, home: Path, line: str) -> list[str]:
    """The words that the shell has after somebody typed `line` and TAB: it prints them itself, each in < >."""
    options, setup = _SHELLS[shell]
    file = SHARE / COMPLETIONS[shell]
    keys = [
        setup.format(file=file, directory=file.parent) + "; PS1='rea''dy> '\n",
        # To the beginning of the line, where another command is put before what was completed.
        f"{line}\t\x01printf '<%s>' beg''in \x05 en''d\n",
    ]
    terminal, ours = pty.openpty()
    said = bytearray()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", _program(shell), *options],
        stdin=ours, stdout=ours, stderr=ours, cwd=home, env=_environ(home),
    ) as process:  # fmt: skip
        os.close(ours)
        try:
            for key, answer in zip(keys, (b"ready> ", b"<end>"), strict=True):
                os.write(terminal, key.encode())
                _read_until(terminal, said, answer)
        finally:
            os.close(terminal)  # which ends the shell
            process.wait(_PATIENCE_S)
    words = said.decode().rpartition("<begin>")[2].partition("<end>")[0]
    return words.removeprefix("<").removesuffix(">").split("><")


def _read_until(terminal: int, said: bytearray, answer: bytes) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while answer not in said:
        assert time.monotonic() < deadline_s, said.decode(errors="replace")
        if select.select([terminal], [], [], 1)[0]:
            said += os.read(terminal, 4096)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("replicad che", ["check-config"]),
        ("replicad sync --no-w", ["sync", "--no-wait"]),
        ("replicad pause we", ["pause", "web01"]),
        ("replicad sync 회", ["sync", "회계 서버"]),
        ("replicad status 회", ["status", "회계 서버"]),
        ("replicad sync 회계\\ ", ["sync", "회계 서버"]),
        ('replicad sync "회계 ', ["sync", "회계 서버"]),
        ("replicad resume it", ["resume", NAMES[2]]),
        ("replicad check-config --config 설", ["check-config", "--config", "설정.yaml"]),
    ],
)
def test_what_is_completed_is_one_word_as_it_is_configured(shell: str, line: str, words: list[str], home: Path) -> None:
    assert _typed(shell, home, line) == ["replicad", *words]


def _fish(home: Path, line: str) -> list[str]:
    script = f"source '{SHARE / COMPLETIONS['fish']}'; complete --do-complete '{line}'"
    done = subprocess.run(
        [_program("fish"), "--no-config", "-c", script],
        capture_output=True, text=True, timeout=_PATIENCE_S, check=True, cwd=home, env=_environ(home),
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def test_fish_is_told_the_same(home: Path) -> None:
    assert _fish(home, "replicad che") == ["check-config"]
    assert _fish(home, "replicad sync --no-w") == ["--no-wait"]
    assert sorted(_fish(home, "replicad sync ")) == sorted(NAMES)
    assert _fish(home, "replicad sync 회계\\\\ ") == ["회계 서버"]
    assert _fish(home, "replicad pause it") == [NAMES[2]]
    assert _fish(home, "replicad sync 없") == []


@pytest.mark.parametrize("line", ["replicad ", "replicad sync --", "replicad sync web", "replicad status --config "])
def test_nobody_waits_for_it_even_with_a_thousand_machines(line: str, tmp_path: Path) -> None:
    config = tmp_path / "many.yaml"
    config.write_text(
        "servers: {nas: {}}\nvirtual_machines:\n"
        + "".join(
            f"  web{n:04}:\n    source: \\\\nas\\vms\\{n}\n    replica: \\\\nas\\r\n    every: 5m\n"
            for n in range(1000)
        )
    )
    environ = {
        **os.environ, VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1),
        "REPLICAD_CONFIG": str(config),
    }  # fmt: skip
    program = [sys.executable, "-c", "import sys; from replicad.cli.main import main; sys.exit(main())"]

    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True, env=environ).stdout
        assert out.count("\n") == 1000 if line.endswith("web") else out
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    assert min(cpu_s() for _ in range(5)) < MAX_CPU_S
