"""The user's own freeze and thaw: whatever they do, thaw is run once, and exactly when something may be frozen."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from replicad.hypervisor.command import running
from replicad.hypervisor.command.printed import MAX_LINE_CHARS, MAX_LOGGED_LINES, Printed
from replicad.hypervisor.command.running import CommandNotStartedError, consistency_said
from replicad.model.errors import BusyError, IntegrityError, PermanentError, ReplicadError
from replicad.model.points import Consistency
from replicad.service.watch import Watch
from tests.support.cancelling import cancelled_at
from tests.support.commands import VM, Stage, command_stage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts of a POSIX shell")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with command_stage(tmp_path) as stage:
        yield stage


async def _freeze(stage: Stage, freeze: str, thaw: str = "", *, application: bool = True) -> Consistency:
    async with stage.freezer(freeze, thaw).frozen(application=application) as reached:
        assert stage.log == ["freeze"]
        return reached


async def test_commands_are_told_the_machine_its_disks_the_phase_and_what_is_wanted_and_no_secret_of_ours(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICAD_PASSWORD", "hunter2")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    script = 'env -0 > "$1/$REPLICAD_PHASE"'
    await _freeze(stage, script, script, application=False)
    for phase in ("freeze", "thaw"):
        pairs = dict(pair.partition("=")[::2] for pair in (stage.root / phase).read_text().split("\0"))
        assert {name: text for name, text in pairs.items() if name.startswith("REPLICAD_")} == {
            "REPLICAD_VM": VM, "REPLICAD_DISKS": "/vms/웹 하나.vhdx\n/vms/sub/둘.vhdx", "REPLICAD_PHASE": phase,
            "REPLICAD_WANTED": "crash",
        }  # fmt: skip
        assert not {"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"} & set(pairs)
        assert pairs["PATH"] == os.environ["PATH"]
    assert stage.log == ["freeze", "thaw"]
    assert stage.left() == []


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        ("", Consistency.CRASH),
        ("echo application", Consistency.APPLICATION),
        ("echo ' Application '; echo; echo crash >&2", Consistency.APPLICATION),
        ("echo application; echo crash", Consistency.CRASH),
        ("echo application; echo done", Consistency.CRASH),
        ("echo application >&2", Consistency.CRASH),
        ("echo cold", Consistency.CRASH),
        ("head -c 3000 /dev/urandom", Consistency.CRASH),
        ("yes 웹 | head -c 10000000; echo; echo application", Consistency.APPLICATION),
    ],
)
async def test_what_was_reached_is_what_freeze_says_and_not_what_was_wanted(
    stage: Stage, said: str, reached: Consistency
) -> None:
    assert await _freeze(stage, said, application=reached is Consistency.CRASH) is reached
    assert stage.log == ["freeze", "thaw"]


async def test_what_commands_print_is_told_line_by_line_and_printable(stage: Stage) -> None:
    await _freeze(stage, r"printf 'one\033[31m\r\n'; echo 둘 🙂 >&2")
    assert sorted(stage.said) == ["one\ufffd[31m", "둘 🙂"]
    assert not [line for line in stage.said if "$ecret" in line]


async def test_of_what_commands_print_without_end_the_beginning_is_told(stage: Stage) -> None:
    await _freeze(stage, r"yes three | head -c 10000000; head -c 100000 /dev/zero | tr '\0' x")
    assert stage.said[0] == "three"
    assert len(stage.said) == MAX_LOGGED_LINES + 1
    assert stage.said[-1].endswith("more lines are left out)")
    assert max(len(line) for line in stage.said) <= MAX_LINE_CHARS + 1


def test_pieces_are_joined_to_lines_wherever_they_are_cut() -> None:
    data = "하나\r\n\n둘\0\n".encode() + b"x" * 9_000 + b"\nlast"
    for size in (1, 2, 3, 4_096):
        lines: list[str] = []
        printed = Printed(lines.append)
        for start in range(0, len(data), size):
            printed.hear(1, data[start : start + size])
        printed.end()
        assert lines == ["하나", "둘", "x" * MAX_LINE_CHARS + "…", "last"]
        assert (printed.last, printed.last_on_stdout, consistency_said(printed)) == ("last", "last", None)


@pytest.mark.parametrize(
    ("freeze", "answer"),
    [
        ("echo 'no agent' >&2; exit 3", "sh ended with status 3 (it said: no agent)"),
        ("kill -9 $$", "sh was ended by signal 9"),
        ("kill -9 -$$", "sh was ended by signal 9"),
        ("head -c 100 /dev/urandom; exit 1", "sh ended with status 1"),
    ],
)
async def test_after_a_freeze_that_fails_thaw_is_run_and_the_cycle_tried_again_later(
    stage: Stage, freeze: str, answer: str
) -> None:
    with pytest.raises(BusyError) as failed:
        await _freeze(stage, freeze)
    assert f"cannot freeze {VM}: {answer}" in str(failed.value)
    assert "$ecret" not in str(failed.value)
    assert stage.log == ["freeze", "thaw"]
    assert stage.left() == []


async def test_a_freeze_that_hangs_is_ended_with_all_it_started_and_thawed(stage: Stage) -> None:
    stage.timeout_s = 0.5
    script = "trap '' TERM INT; sleep 600 & echo $! > \"$1/child\"; echo began; wait; wait"
    with pytest.raises(BusyError, match=r"did not end within 0\.5 s, and was ended \(it said: began\)"):
        await _freeze(stage, script)
    assert stage.log == ["freeze", "thaw"]
    assert not _lives(int((stage.root / "child").read_text()))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("program", ["/no/such/program", "/etc"])
async def test_a_freeze_that_can_not_be_started_has_frozen_nothing(stage: Stage, program: str) -> None:
    with pytest.raises(CommandNotStartedError, match=rf"{program} can't be started .*Check 'consistency.freeze'"):
        async with stage.freezer((program, "--password=$ecret")).frozen(application=True):
            pytest.fail("it was frozen")
    assert stage.log == []
    assert stage.left() == []


async def test_a_program_that_takes_its_time_is_no_work_that_stands_still(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_GETS_ON_EVERY_S", 0.05)
    watch = Watch(0.0)
    freezer = replace(stage.freezer("sleep 0.5"), observe=watch.hear)
    async with freezer.frozen(application=True):
        assert watch.stands_still_s(2_000.0) == 0.0
        assert watch.stands_still_s(3_000.0) == 1_000.0


async def test_an_error_while_it_is_frozen_is_the_one_that_is_raised(stage: Stage) -> None:
    with pytest.raises(IntegrityError, match="clone"):
        async with stage.freezer().frozen(application=True):
            raise IntegrityError("clone", "disk", "no")
    assert stage.log == ["freeze", "thaw"]


@pytest.mark.parametrize("thaw", ["exit 4", "kill -9 $$", "sleep 600"])
async def test_a_thaw_that_fails_is_loud_and_runs_again_before_the_next_freeze(stage: Stage, thaw: str) -> None:
    stage.timeout_s = 0.5 if "sleep" in thaw else 20.0
    with pytest.raises(BusyError, match="THE MACHINE MAY STILL BE FROZEN"):
        await _freeze(stage, "", f'[ -e "$1/mended" ] && exit 0; {thaw}')
    assert "THE MACHINE MAY STILL BE FROZEN" in stage.warnings
    assert "$ecret" not in stage.warnings
    [page] = stage.left()
    assert page.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BusyError, match="THE MACHINE MAY STILL BE FROZEN"):
        async with stage.freezer("exit 9").frozen(application=True):
            pytest.fail("it was frozen")
    assert stage.log == ["freeze", "thaw", "thaw"]
    (stage.root / "mended").touch()
    await stage.journal().undo_left(VM)
    assert stage.log == ["freeze", "thaw", "thaw", "thaw"]
    assert stage.left() == []


async def test_cancelled_in_mid_freeze_the_command_is_ended_and_thawed(stage: Stage) -> None:
    async def cycle() -> None:
        async with stage.freezer("sleep 600", "sleep 0.2").frozen(application=True):
            pytest.fail("it was frozen")

    task = asyncio.create_task(cycle())
    await _begun(stage, "freeze")
    task.cancel()
    await _begun(stage, "thaw")
    task.cancel()  # in the middle of the thaw, which goes on to its end
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.log == ["freeze", "thaw"]
    assert stage.left() == []


async def _begun(stage: Stage, phase: str) -> None:
    async with asyncio.timeout(30):
        while phase not in stage.log:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)


async def test_cancelled_at_any_await_thaw_is_run_once_whenever_freeze_was_started(tmp_path: Path) -> None:
    for number in range(1, 100):
        root = tmp_path / str(number)
        root.mkdir()
        async with command_stage(root) as stage:

            async def cycle(stage: Stage = stage) -> None:
                async with stage.freezer().frozen(application=True):
                    await asyncio.sleep(0)

            cancelled = await cancelled_at(number, cycle)
            # Without `freeze` its process was ended before it wrote anything down, or there was none.
            assert stage.log in ([], ["freeze", "thaw"], ["thaw"])
            assert stage.left() == []
            if not cancelled:
                assert stage.log == ["freeze", "thaw"]
                assert number > 15
                return
    pytest.fail("it never ended")


async def test_paths_that_do_not_fit_are_refused_before_anything_is_frozen(stage: Stage) -> None:
    freezer = stage.freezer()
    with pytest.raises(PermanentError, match="too long for REPLICAD_DISKS"):
        async with stage.journal().of(VM) as page, freezer.frozen_on(page, ["/" + "웹" * 20_000], application=True):
            pytest.fail("it was frozen")
    assert "freeze" not in stage.log


@pytest.mark.parametrize(
    "wrong", [{"arguments": "[]"}, {"arguments": "{"}, {"phase": "x"}, {"wanted": ""}, {"disks": "1"}]
)
async def test_a_journal_that_makes_no_sense_is_said(stage: Stage, wrong: dict[str, str]) -> None:
    how = {
        "kind": "command",
        "phase": "thaw",
        "arguments": '["true"]',
        "disks": "[]",
        "wanted": "crash",
        "timeout_s": "9",
    }
    async with stage.journal().of(VM) as page:
        await page.freezing("thaw", {**how, **wrong})
    with pytest.raises(ReplicadError, match="Thaw it by hand"):
        await stage.journal().undo_left(VM)
    assert len(stage.left()) == 1


async def test_nobody_can_tell_whether_it_runs(stage: Stage) -> None:
    assert await stage.freezer().is_running()
