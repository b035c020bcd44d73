"""The frame of the command line: verbs, exit codes, errors as sentences, signals, and a quick start."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from types import ModuleType

import click
import pytest

from replicad import __version__
from replicad.cli.main import VERBS, main
from replicad.model import errors
from tests.support.vhdx_builder import MIB, Spec, build

ROOT = Path(__file__).parents[2]
HEAVY = {
    "aiofiles", "apscheduler", "asyncio", "cryptography", "fastapi", "jinja2", "prometheus_client", "pydantic",
    "pydantic_core", "rich", "ruamel", "smbprotocol", "spnego", "sqlite3", "stamina", "structlog", "uvicorn", "xxhash",
}  # fmt: skip
MAX_START_CPU_S = 0.150


def _run(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from replicad.cli.main import main; sys.exit(main())", *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env={**os.environ, **(environ or {})},
    )  # fmt: skip


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A verb `try` of our own, whose module the test fills."""
    module = ModuleType("replicad_test_verb")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(VERBS, "try", (module.__name__, "Try."))
    monkeypatch.delenv("REPLICAD_DEBUG", raising=False)
    return module


def _fails_with(verb: ModuleType, error: BaseException) -> None:
    @click.command("try")
    def command() -> None:
        raise error

    verb.command = command  # type: ignore[attr-defined]  # a module made for this test


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_there_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = import_module(VERBS[name][0]).command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert main([name, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


def test_help_lists_every_verb_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.partition("Verbs:\n")[2].splitlines() if line.strip()]
    assert [word for word in listed if word in VERBS] == list(VERBS)


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"replicad {__version__}\n"


def _loaded_by(*arguments: str, environ: dict[str, str] | None = None) -> set[str]:
    """The modules that are there after a command has succeeded."""
    script = "import sys; from replicad.cli.main import main; assert main() == 0; print('\\n' + ' '.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT, env={**os.environ, **(environ or {})},
    ).stdout  # fmt: skip
    return set(out.splitlines()[-1].split())


def _with_parents(names: set[str]) -> set[str]:
    return {name.rsplit(".", n)[0] for name in names for n in range(name.count(".") + 1)}


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert _with_parents(_loaded_by(*arguments)) & HEAVY == set()


@pytest.fixture
def local_machine(tmp_path: Path) -> dict[str, str]:
    """The environment of commands about one VM, `웹`, whose disk was replicated once from one directory to another."""
    for name in ("원본", "사본"):
        (tmp_path / name).mkdir()
    build(Spec(virtual_size=16 * MIB)).save(tmp_path / "원본" / "디스크.vhdx")
    config = tmp_path / "replicad.yaml"
    config.write_text(
        f"state_dir: {tmp_path}/state\nvirtual_machines:\n"
        f"  웹: {{source: '{tmp_path}/원본', replica: '{tmp_path}/사본'}}\n"
    )
    assert main(["sync", "웹", "--config", str(config)]) == 0
    return {"REPLICAD_CONFIG": str(config)}


@pytest.mark.parametrize(
    ("arguments", "too_much"),
    [
        (["check-config"], {"asyncio", "replicad.replica", "replicad.storage"}),
        (["status"], {"replicad.replica.recovery", "replicad.replica.view"}),
        (["points", "웹"], {"replicad.replica.recovery", "replicad.replica.view"}),
        (["restore", "웹", "--to", "되살린 것"], {"replicad.replica.cycle"}),
        (["verify", "웹"], {"replicad.replica.disk_update", "replicad.workflows.repair"}),
        (["sync", "웹"], {"replicad.workflows.restore"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_verbs_import_only_what_they_need(
    arguments: list[str], too_much: set[str], local_machine: dict[str, str], tmp_path: Path
) -> None:
    if arguments[0] != "sync":
        too_much = too_much | {"replicad.tracking", "replicad.workflows.replicate"}
    if arguments[0] not in ("sync", "verify"):
        too_much = too_much | {"replicad.vhdx"}
    arguments = [str(tmp_path / word) if word == "되살린 것" else word for word in arguments]
    loaded = _with_parents(_loaded_by(*arguments, environ=local_machine))
    assert loaded & (too_much | {"cryptography", "smbprotocol", "spnego", "rich"}) == set()


def test_verbs_that_do_not_replicate_leave_nothing_on_this_host(local_machine: dict[str, str], tmp_path: Path) -> None:
    rmtree(tmp_path / "state")
    config = local_machine["REPLICAD_CONFIG"]
    for verb in (
        ["status"],
        ["points", "웹"],
        ["verify", "웹"],
        ["restore", "웹", "--to", str(tmp_path / "되살린 것")],
    ):
        assert main([*verb, "--config", config]) == 0
        assert not (tmp_path / "state").exists(), verb


def test_help_starts_quickly() -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert _run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The least of a few: others may use the processor's caches meanwhile.
    assert min(cpu_s() for _ in range(5)) < MAX_START_CPU_S


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.ConfigError("use", "server nas9", "it is not described", "Add it."), 2,
         "replicad: cannot use server nas9: it is not described. Add it.\n"),
        (errors.TimedOutError("read", "x", "no answer"), 5, "replicad: cannot read x: no answer\n"),
        (errors.NotFoundError("read", "x", "gone"), 10, "replicad: cannot read x: gone\n"),
        (errors.LockedError("lock", "x", "held"), 11, "replicad: cannot lock x: held\n"),
        (errors.AccessDeniedError("read", "x", "no"), 12, "replicad: cannot read x: no\n"),
        (errors.IntegrityError("read", "x", "hash"), 3, "replicad: cannot read x: hash\n"),
        (errors.OutOfSpaceError("write", "x\x1b[2J\ny", "full"), 1, "replicad: cannot write x\ufffd[2J\ufffdy: full\n"),
        (KeyboardInterrupt(), 130, "replicad: interrupted\n"),
        (click.Abort(), 130, "replicad: interrupted\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (click.ClickException("no"), 1, "Error: no\n"),
        (ExceptionGroup("a", [errors.BusyError("read", "x", "late"), errors.AccessDeniedError("read", "y", "no")]), 12,
         "replicad: cannot read x: late\nreplicad: cannot read y: no\n"),
        (ExceptionGroup("a", [ExceptionGroup("b", [errors.NotFoundError("read", "x", "gone")] * 2)]), 10,
         "replicad: cannot read x: gone\n"),
        (BaseExceptionGroup("a", [KeyboardInterrupt(), errors.NotFoundError("read", "x", "gone")]), 130,
         "replicad: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_each_error_has_its_sentence_and_exit_code(
    verb: ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    _fails_with(verb, error)
    assert main(["try"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.lstrip("\n")) == ("", said)


def test_a_bug_is_called_one_and_keeps_its_details_for_debug(
    verb: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails_with(verb, KeyError("hunter2"))
    assert main(["try"]) == 1
    assert capsys.readouterr().err == (
        "replicad: unexpected KeyError: this is a bug in replicad, please report it; "
        "'replicad --debug ...' shows where it happened\n"
    )
    assert main(["--debug", "try"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("REPLICAD_DEBUG", "1")
    assert main(["try"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("REPLICAD_DEBUG", "0")
    assert main(["try"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_verb_returns_is_the_exit_code(verb: ModuleType) -> None:
    @click.command("try")
    @click.argument("code", type=int)
    def command(code: int) -> int | None:
        return code or None

    verb.command = command  # type: ignore[attr-defined]  # a module made for this test
    assert (main(["try", "0"]), main(["try", "3"])) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek-config"], "there is no verb 'chek-config'; did you mean 'check-config'?"),
        (["frobnicate"], "there is no verb 'frobnicate'; 'replicad --help' lists the verbs."),
        (["check-config", "--frob"], "No such option"),
        (["check-config", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_told_on_stderr_with_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "verb", [["restore", "--replica", "r/웹", "--to"], ["points", "--replica"], ["probe"]], ids=" ".join
)
@pytest.mark.parametrize(
    ("typed", "said"),
    [("", "it is empty"), (r"\nas2replica", "it begins with a single backslash. Put it in quotes")],
    ids=["nothing", "what a shell leaves of an address without quotes"],
)
def test_what_is_no_directory_is_not_taken_for_one(
    verb: list[str], typed: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main([*verb, typed]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_local_directory_may_be_typed_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["probe", "없음"]) == 10
    assert f"{tmp_path}/없음: there is no such directory" in capsys.readouterr().out


def test_a_good_configuration_is_met_with_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--config", str(ROOT / "config" / "two-sites.yaml")]) == 0
    assert capsys.readouterr() == ("", "")


def test_configuration_errors_are_lines_that_editors_can_jump_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(ROOT / "config" / "invalid" / "unknown-key.yaml")
    line = f"{file}:6: virtual_machines.web01.evry: unknown key; did you mean 'every'?\n"
    assert main(["check-config", "--config", file]) == 2
    assert capsys.readouterr() == ("", line)
    monkeypatch.setenv("REPLICAD_CONFIG", file)
    assert main(["check-config"]) == 2
    assert capsys.readouterr() == ("", line)


def test_configuration_errors_are_told_to_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "config" / "invalid" / "unknown-key.yaml")
    assert main(["check-config", "--json", "--config", file]) == 2
    captured = capsys.readouterr()
    assert captured.err == ""
    problem = {
        "file": file, "line": 6, "key": "virtual_machines.web01.evry",
        "what": "unknown key", "hint": "did you mean 'every'?",
    }  # fmt: skip
    assert json.loads(captured.out) == {"file": file, "good": False, "problems": [problem]}
    good = str(ROOT / "config" / "minimal.yaml")
    assert main(["check-config", "--json", "--config", good]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": good, "good": True, "problems": []}


def test_schema_is_the_file_in_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "config" / "replicad.schema.json").read_text(encoding="utf-8")


def test_a_reader_who_leaves_ends_the_command_quietly() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from replicad.cli.main import main; sys.exit(main())", "schema"],
            stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from replicad.cli.main import main; sys.exit(main())", "schema"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "replicad: cannot write the output: No space left on device\n")


TELLS_OF_GARBAGE = """
import gc, sys, types, click
from replicad.cli.main import VERBS, main
from replicad.cli.run_async import run_async

async def work():
    print("at work", gc.isenabled(), gc.get_freeze_count() > 0)

@click.command("try")
def command():
    print("at the start", gc.isenabled(), gc.get_freeze_count() > 0)
    run_async(work())

sys.modules["verb"] = types.SimpleNamespace(command=command)
VERBS["try"] = ("verb", "Try.")
sys.argv[1:] = ["try"]
main(*ARGUMENTS)
"""


@pytest.mark.parametrize(
    ("called_with", "told"),
    [("[]", "at the start False False\nat work True True\n"),
     ("[['try']]", "at the start True False\nat work True False\n")],
    ids=["as a program", "by a program"],
)  # fmt: skip
def test_garbage_is_collected_only_at_work_when_the_command_is_the_whole_process(called_with: str, told: str) -> None:
    script = TELLS_OF_GARBAGE.replace("ARGUMENTS", called_with)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


WAITS = """
import asyncio, sys, types, click
from replicad.cli.main import VERBS, main
from replicad.cli.run_async import run_async

async def work():
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("cleaned up", flush=True)

@click.command("try")
def command():
    run_async(work())

sys.modules["verb"] = types.SimpleNamespace(command=command)
VERBS["try"] = ("verb", "Try.")
sys.exit(main(["try"]))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_lets_the_work_clean_up_and_ends_with_130(sent: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(sent)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err.lstrip("\n")) == (130, "cleaned up\n", "replicad: interrupted\n")
