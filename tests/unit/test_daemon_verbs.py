"""Verbs that ask the daemon: what they print, how they end, and what they do where none runs."""

from __future__ import annotations

import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from replicad.cli import status_watch
from replicad.cli.main import main
from replicad.model.errors import LockedError
from tests.support.api_server import Api, api_on, machine, run_ended, run_under_way
from tests.support.processes import other_process
from tests.support.vhdx_builder import MIB, Spec, build
from tests.unit.test_cli_frame import HEAVY, MAX_START_CPU_S

ROOT = Path(__file__).parents[2]
VM = "웹 서버 🖥"
PROGRAM = "import sys; from replicad.cli.main import main; sys.exit(main())"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of one machine, whose disk lies in a directory."""
    for name in ("원본", "사본"):
        (tmp_path / name).mkdir()
    build(Spec(virtual_size=16 * MIB)).save(tmp_path / "원본" / "디스크.vhdx")
    path = tmp_path / "설정.yaml"
    path.write_text(
        f"state_dir: '{tmp_path}/상태'\nvirtual_machines:\n"
        f"  {VM}: {{source: '{tmp_path}/원본', replica: '{tmp_path}/사본'}}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("REPLICAD_CONFIG", str(path))
    return path


@pytest.fixture
def api(config: Path, tmp_path: Path) -> Iterator[Api]:
    with api_on(tmp_path / "상태", VM) as api:
        yield api


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_status_is_what_the_daemon_says(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.machines["장부"] = machine(
        "장부", state="paused", health="warning", reasons=["replication has been paused for 3 min"], last_point=None,
        lag_s=None, rpo_s=None, next_run=None, paused_since="2026-11-23T18:00:00Z",
    )  # fmt: skip
    api.machines[VM]["progress"] = {
        "phase": "delta", "done_bytes": MIB, "sent_bytes": 1024, "total_bytes": 4 * MIB
    }  # fmt: skip
    api.machines[VM]["run"] = run_under_way()
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == list(api.machines.values())
    assert main(["status", VM, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [api.machines[VM]]
    assert main(["status"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split("  ")[-2:] == ["under way", "next cycle"] or lines[0].endswith("next cycle")
    assert "delta 25 %, 1 KiB sent" in lines[1]
    assert "in 4" in lines[1] or "in 3m" in lines[1]
    assert lines[2].split() == ["장부", "paused", "warning", "-", "-", "-", "-", "paused"]
    assert lines[3] == "장부: replication has been paused for 3 min"
    assert err == ""
    assert main(["status", "없음"]) == 10
    assert "the daemon keeps: " in capsys.readouterr().err


def test_without_a_daemon_the_replicas_are_looked_at(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["state"] == "initial"
    assert err == ""


def test_standalone_asks_no_daemon(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--standalone", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "initial"
    assert main(["sync", VM, "--standalone"]) == 0
    assert "no daemon" not in capsys.readouterr().err
    assert api.asked == []


def test_status_of_a_daemon_loads_nothing_heavy_and_starts_quickly(api: Api) -> None:
    script = "import sys; from replicad.cli.main import main; assert main() == 0; print('\\n' + ' '.join(sys.modules))"
    arguments = [sys.executable, "-c", script, "status", "--json"]
    out = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout
    loaded = {name.rsplit(".", n)[0] for name in out.splitlines()[-1].split() for n in range(name.count(".") + 1)}
    assert loaded & HEAVY == set()
    assert "replicad.settings.model" not in loaded

    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", PROGRAM, "status", "--json"], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(5)) < MAX_START_CPU_S


PROGRESS: list[tuple[str, Any]] = [
    ("waiting", {"behind": None}),
    ("progress", {"phase": "delta", "done_bytes": 0, "sent_bytes": 0, "total_bytes": 64 * MIB}),
    ("warning", {"text": "the clock went\nbackwards"}),
    ("progress", {"phase": "delta", "done_bytes": 64 * MIB, "sent_bytes": 2 * MIB, "total_bytes": 64 * MIB}),
]


def test_sync_follows_the_daemons_cycle_and_reports_as_ever(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.story = [*PROGRESS, ("ended", run_ended(VM))]
    assert main(["sync", VM]) == 0
    out, err = capsys.readouterr()
    assert out == f"{VM}: point 8 (delta, cold) committed in 2.5 s: 64 MiB read, 3 MiB changed, 2 MiB sent\n"
    assert err.splitlines() == ["waiting for a place", "delta: 64 MiB", "warning: the clock went\ufffdbackwards"]
    assert main(["sync", VM, "--resync", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "vm": VM, "point": 8, "kind": "delta", "consistency": "cold", "time": "2026-11-23T18:00:00+00:00",
        "scanned_bytes": 64 * MIB, "changed_bytes": 3 * MIB, "sent_bytes": 2 * MIB, "undo_bytes": MIB,
        "duration_s": 2.5, "provenance": "full-scan", "resumed": False, "attempts": 1,
        "tracking": ["full-scan: why"], "warnings": ["the clock went\nbackwards"],
    }  # fmt: skip
    orders = [body for request, body in api.asked if request.startswith("POST")]
    assert orders == [{"resync": False}, {"resync": True}]


def test_both_ways_of_sync_tell_the_same_facts(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", VM, "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    with api_on(tmp_path / "상태", VM) as api:
        api.story = [("ended", run_ended(VM))]
        assert main(["sync", VM, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(here)


@pytest.mark.parametrize(
    ("error", "code"),
    [("LockedError", 11), ("SignInError", 12), ("UnreachableError", 5), ("NeedsResyncError", 3), ("KeyError", 1)],
)
def test_a_cycle_that_fails_ends_the_command_as_it_would_here(
    error: str, code: int, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = {"text": "cannot do it: so", "error": error, "severity": "transient", "at": "2026-11-23T18:00:00Z"}
    api.story = [("ended", run_ended(VM, "failed", failure=failure, kind=None, point=None))]
    assert main(["sync", VM]) == code
    assert capsys.readouterr() == ("", "replicad: cannot do it: so\n")


@pytest.mark.parametrize(
    ("story", "said"),
    [
        ([("ended", run_ended(VM, "interrupted", kind=None, point=None))],
         f"cannot finish the cycle of {VM}: it was stopped before its end. The next one goes on with it."),
        ([("cancelled", {"text": "the machine was paused: the cycle does not begin now"})],
         f"cannot follow the cycle of {VM}: the machine was paused: the cycle does not begin now"),
        ([None], f"cannot follow the cycle of {VM}: the daemon ended the connection before the cycle had ended"),
    ],
    ids=["stopped", "cancelled", "lost"],
)  # fmt: skip
def test_a_cycle_that_does_not_end_is_to_be_tried_again(
    story: list[tuple[str, Any] | None], said: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.story = story
    assert main(["sync", VM]) == 5
    assert said in capsys.readouterr().err


def test_sync_may_only_ask(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", VM, "--no-wait"]) == 0
    assert "a cycle was asked for" in capsys.readouterr().out
    assert main(["sync", VM, "--no-wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requested_at"]
    api.refuse(f"POST /vms/{VM}/sync", 409, "BusyError", "cannot begin a cycle: paused", 5)
    assert main(["sync", VM]) == 5
    assert capsys.readouterr().err == "replicad: cannot begin a cycle: paused\n"
    for other in ("--dry-run", "--standalone"):
        assert main(["sync", VM, "--no-wait", other]) == 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_who_stops_following_is_told_that_the_cycle_goes_on(sent: signal.Signals, api: Api) -> None:
    api.story = list(PROGRESS[:2])
    with _start("sync", VM) as process:
        try:
            assert process.stderr is not None
            assert [process.stderr.readline() for _ in range(2)] == ["waiting for a place\n", "delta: 64 MiB\n"]
            process.send_signal(sent)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    goes_on = f"replicad: the cycle of {VM} goes on in the daemon; 'replicad status {VM}' tells how far it is\n"
    assert (process.returncode, out, err.replace("\n\n", "\n")) == (130, "", goes_on + "replicad: interrupted\n")


def _end(**facts: Any) -> dict[str, Any]:
    """How a verification ended, as the daemon tells it."""
    return {
        "vm": VM, "at": "2026-11-23T18:00:00Z", "outcome": "clean", "text": None, "error": None, "points": [1, 2],
        "damaged_points": [], "read_bytes": 5 << 20, "damages": [], "leftovers": [], **facts,
    }  # fmt: skip


DAMAGE = {
    "part": "disk", "file": f"{VM}/disks/디스크.vhdx", "reason": "chunk 3 does not match the manifest",
    "affects": "디스크.vhdx of point 2", "points": [1, 2], "chunks": [3], "repaired": False, "not_repaired": None,
}  # fmt: skip


def test_verify_follows_the_daemons_verification_and_reports_as_ever(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = {"phase": "verifying", "done_bytes": 1 << 20, "sent_bytes": 0, "total_bytes": 5 << 20}
    api.story = [
        ("waiting", {"behind": None}), ("progress", progress), ("warning", {"text": "조심"}), ("ended", _end()),
    ]  # fmt: skip
    assert main(["verify", VM]) == 0
    out, err = capsys.readouterr()
    assert out == f"{VM}: 2 points, 5 MiB read back: sound\n"
    assert "조심" in err
    assert api.asked[-1] == (f"POST /vms/{VM}/verify", {"repair": False})
    api.story = [("ended", _end(outcome="damaged", text="…", damages=[DAMAGE], damaged_points=[1, 2]))]
    assert main(["verify", VM, "--repair", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["damages"], found["damaged_points"]) == ([DAMAGE], [1, 2])
    assert api.asked[-1] == (f"POST /vms/{VM}/verify", {"repair": True})


def test_both_ways_of_verify_tell_the_same_facts(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", VM, "--standalone"]) == 0
    capsys.readouterr()
    assert main(["verify", VM, "--standalone", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    api.story = [("ended", _end())]
    assert main(["verify", VM, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(here)


GONE = {"kind": "UnreachableError", "exit_code": 5}


@pytest.mark.parametrize(
    ("story", "code", "text"),
    [
        ([("ended", _end(outcome="failed", text="nas is gone", error=GONE))], 5, "nas is gone"),
        ([("cancelled", {"text": "the machine was paused"})], 5, "the machine was paused"),
        ([None], 5, "the daemon ended the connection before it had ended"),
    ],
    ids=["failed", "cancelled", "lost"],
)  # fmt: skip
def test_a_verification_that_is_not_done_ends_the_command_as_it_would_here(
    story: list[tuple[str, Any] | None], code: int, text: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.story = story
    assert main(["verify", VM]) == code
    assert text in capsys.readouterr().err


def test_verify_may_only_ask(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", VM, "--no-wait"]) == 0
    out, _ = capsys.readouterr()
    assert out == f"{VM}: a verification was asked for; 'replicad status {VM}' tells what it found\n"
    for option in (["--standalone"], ["--point", "1"], ["--bandwidth", "1M"]):
        assert main(["verify", VM, "--no-wait", *option]) == 2


def test_status_tells_when_a_replica_was_found_sound(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    at = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    api.machines[VM]["verification"] = {"at": at, "outcome": "clean", "text": "1 damage was found and repaired"}
    assert main(["status"]) == 0
    assert f"{VM}: verified 2h ago: sound (1 damage was found and repaired)\n" in capsys.readouterr().out


def test_a_trackers_mistake_is_acknowledged(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["acknowledge", VM]) == 0
    assert capsys.readouterr().out == f"{VM}: acknowledged; health: normal\n"
    assert [request for request, _ in api.asked] == [f"POST /vms/{VM}/acknowledge"]


def test_status_of_one_machine_tells_how_changes_became_known(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.machines[VM]["tracking"] = ["extents; 16 of 65,536 unchanged chunks checked, all as they were"]
    line = f"{VM}: tracking: extents; 16 of 65,536 unchanged chunks checked, all as they were\n"
    assert main(["status", VM]) == 0
    assert line in capsys.readouterr().out
    assert main(["status"]) == 0
    assert line not in capsys.readouterr().out


def test_status_of_one_machine_tells_what_its_kept_clones_take(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", VM]) == 0
    assert "clones" not in capsys.readouterr().out, "there can be none, or it is not known"
    api.machines[VM]["kept_clones"] = {"bytes": 80 << 20, "at": "2026-11-23T14:11:31Z"}
    assert main(["status", VM]) == 0
    assert f"{VM}: clones kept at the source take 80 MiB of their own\n" in capsys.readouterr().out


def test_pause_resume_and_reload(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", VM]) == 0
    assert capsys.readouterr().out == f"{VM}: paused; no cycle begins until 'replicad resume {VM}'\n"
    assert main(["resume", VM]) == 0
    assert capsys.readouterr().out.startswith(f"{VM}: resumed; next cycle: in ")
    assert main(["reload"]) == 0
    assert capsys.readouterr().out == "taken: 1 virtual machine\n"
    assert [request for request, _ in api.asked] == [f"POST /vms/{VM}/pause", f"POST /vms/{VM}/resume", "POST /reload"]
    for verb in (["pause", VM], ["resume", VM], ["acknowledge", VM]):
        assert main([*verb, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == api.machines[VM]
    assert main(["reload", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"machines": 1}


def test_what_is_wrong_in_a_configuration_is_told_line_by_line(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "/etc/설정.yaml:3: evry: unknown key\n/etc/설정.yaml:7: x: \x1b[2J"
    api.refuse("POST /reload", 400, "SettingsError", lines, 2)
    assert main(["reload"]) == 2
    assert capsys.readouterr() == ("", lines.replace("\x1b", "\ufffd") + "\n")


@pytest.mark.parametrize(
    "verb",
    [["pause", VM], ["resume", VM], ["acknowledge", VM], ["reload"], ["status", "--watch"], ["sync", VM, "--no-wait"]],
)
def test_what_only_a_daemon_can_do_needs_one(verb: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "no daemon runs for this configuration (nobody listens on " in err
    assert err.endswith("Start it with 'replicad run', or 'systemctl start replicad'.\n")


def test_verbs_that_work_here_say_that_a_daemon_is_beside_them(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", VM, "--standalone"]) == 0
    capsys.readouterr()
    for verb in (
        ["verify", VM, "--point", "1"],
        ["prune", VM],
        ["restore", VM, "--to", str(tmp_path / "복원")],
        ["sync", VM, "--dry-run"],
    ):
        assert main(verb) == 0
        assert "replicad: working in this process, beside the daemon\n" in capsys.readouterr().err


HOLDS = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from replicad.replica.layout import Layout
from replicad.service.this_host import this_process_holder
from replicad.storage.local import LocalShare

async def hold():
    share = LocalShare(sys.argv[1])
    async with await share.lock(Layout(sys.argv[2]).lock, this_process_holder(datetime.now(UTC))):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(hold())
"""


@pytest.mark.parametrize(
    "verb", [["prune", VM], ["verify", VM, "--point", "1"], ["points", VM, "--pin", "1"]], ids=" ".join
)
def test_who_meets_the_daemons_cycle_is_told_what_to_do(
    verb: Sequence[str], api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", VM, "--standalone"]) == 0
    with other_process(HOLDS, str(tmp_path / "사본"), VM) as holder:
        assert holder.line() == "held"
        capsys.readouterr()
        assert main(verb) == LockedError.exit_code
        assert "The daemon has" not in capsys.readouterr().err
        api.machines[VM]["run"] = run_under_way()
        assert main(verb) == LockedError.exit_code
        err = capsys.readouterr().err
    assert "it is held by host " in err
    assert (
        f"The daemon has a cycle of it under way: try again when that has ended, or run 'replicad pause {VM}' before "
        f"and 'replicad resume {VM}' after." in err
    )


def _lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What it prints, without the times, up to a line with this in it."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n").split(" ", 2)[2])
        if text in line:
            return lines
    raise AssertionError(lines)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_watching_tells_line_by_line_what_happens_and_waits_for_a_daemon_that_restarts(
    sent: signal.Signals, config: Path, tmp_path: Path
) -> None:
    with api_on(tmp_path / "상태", VM, "장부") as api:
        process = _start("status", "--watch")
        try:
            assert _lines_until(process, "장부") == [f"{VM}: replicating, normal", "장부: replicating, normal"]
            api.machines[VM] = machine(VM, run=run_under_way(), last_point=api.machines[VM]["last_point"])
            assert _lines_until(process, "began") == [f"{VM}: a cycle began (request)"]
            del api.machines["장부"]
            assert _lines_until(process, "장부") == ["장부: no longer in the configuration"]
        except BaseException:
            process.kill()
            raise
    with process:
        try:
            assert _lines_until(process, "waiting") == ["the daemon does not answer; waiting for it"]
            with api_on(tmp_path / "상태", VM) as api:
                point = {"number": 8, "time": "2026-11-23T18:00:00Z", "consistency": "cold"}
                api.machines[VM] = machine(VM, last_point=point, health="warning", reasons=["it is late"])
                assert _lines_until(process, "late") == [
                    "the daemon is back",
                    f"{VM}: point 8 (cold, 2026-11-23 18:00:00) committed",
                    f"{VM}: replicating, warning: it is late",
                ]
            process.send_signal(sent)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert out in ("", out[:20] + "the daemon does not answer; waiting for it\n")


def test_watching_on_a_terminal_redraws_a_table_and_leaves_the_terminal_as_it_was(api: Api) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    environ = {**os.environ, "TERM": "xterm-256color"}
    environ.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "status", "--watch"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT,
        env=environ,
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            drawn = _drawn(ours, "Ctrl-C ends this")
            assert VM in drawn
            assert "\x1b[?25l" in drawn  # the cursor is hidden
            api.machines[VM]["state"] = "paused"
            _drawn(ours, "paused")
            process.send_signal(signal.SIGTERM)
            _drawn(ours, "\x1b[?25h")  # and shown again
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(ours)


def _drawn(terminal: int, text: str) -> str:
    """What a program draws on a terminal until it has drawn this."""
    drawn = b""
    while text.encode() not in drawn:
        drawn += os.read(terminal, 65_536)
    return drawn.decode("utf-8", "replace")


def test_a_picture_fits_on_the_screen_and_shows_the_worst_first() -> None:
    now = datetime.now(UTC)
    machines = [machine(f"vm{n:03}") for n in range(100)]
    machines[70].update(health="critical", reasons=["it failed\x1b[2J"])
    machines[80]["run"] = run_under_way()
    drawn = _rendered(machines, now, "", 20)
    assert len(drawn) <= 19
    assert [line.split()[0] for line in drawn[:4]] == ["vm", "vm070", "vm080", "vm000"]
    assert drawn[-2].startswith("and 86 more")
    drawn = _rendered(machines[69:72], now, "the daemon has not answered", 20)
    assert [line.split()[0] for line in drawn[1:5]] == ["vm069", "vm070", "vm071", "vm070:"]
    assert drawn[4].rstrip() == "vm070: it failed\ufffd[2J"
    assert drawn[5].rstrip() == "the daemon has not answered"


def _rendered(machines: list[dict[str, Any]], now: datetime, note: str, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(status_watch.picture(machines, now, note, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("option", ["--json", "--standalone"])
def test_watching_goes_with_nothing_else(option: str, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--watch", option]) == 2
    assert f"give --watch or {option}, not both" in capsys.readouterr().err


def test_watching_a_machine_that_is_not_there_ends_at_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "없음", "--watch"]) == 10


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("replicad sta", ["plain,status"]), ("replicad re", ["plain,resume", "plain,reload", "plain,restore"]),
     ("replicad pause 웹", [f"plain,{VM}"]), ("replicad sync --no-w", ["plain,--no-wait"]),
     ("replicad verify 없", [])],
)  # fmt: skip
def test_bash_completes_verbs_options_and_machines(typed: str, completed: list[str], config: Path) -> None:
    environ = {
        **os.environ, "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1),
        "_REPLICAD_COMPLETE": "bash_complete",
    }  # fmt: skip
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT, env=environ
    ).stdout
    assert sorted(out.split("\n")) == sorted([*completed, ""]) or (out, completed) == ("\n", [])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    environ = {**os.environ, "_REPLICAD_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT, env=environ
    )
    assert f"_REPLICAD_COMPLETE={shell}_complete" in done.stdout
    assert done.stderr == ""
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, timeout=60, check=True)
