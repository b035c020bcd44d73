"""Passwords from files and programs: what is taken, what is refused, and that nothing is given away or left running."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from replicad.model.errors import ConfigError, ReplicadError, TimedOutError, TransientError
from replicad.service.passwords import from_command, from_file, read_file
from tests.support.processes import file_made, wait_until_dead


def _never(text: str) -> None:
    raise AssertionError(f"nothing to warn of, but: {text}")


def _file(tmp_path: Path, data: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "암호 🙂.pw"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("data", [b"h\xc3\xbcnter 2", b"h\xc3\xbcnter 2\n", b"h\xc3\xbcnter 2\r\n"])
async def test_one_newline_at_the_end_is_no_part_of_the_password(tmp_path: Path, data: bytes) -> None:
    assert await from_file(_file(tmp_path, data), "nas1", _never) == "hünter 2"
    path = _file(tmp_path, data)
    assert await from_command(["cat", str(path)], "nas1") == "hünter 2"


async def test_other_spaces_are_part_of_the_password(tmp_path: Path) -> None:
    assert await from_file(_file(tmp_path, b" pw \t\n"), "nas1", _never) == " pw \t"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\nuser: svc\n", "has more than one line"),
        (b"hunter2\0", "holds a NUL"),
        (b"hunter2\xff", "is not UTF-8"),
        (b"hunter2" * 10_000, "is longer than 64 KiB"),
    ],
)
async def test_what_is_no_password_is_refused_and_not_shown(tmp_path: Path, data: bytes, answer: str) -> None:
    path = _file(tmp_path, data)
    for attempt, where in (
        (from_file(path, "nas1", _never), str(path)),
        (from_command(["cat", str(path)], "nas1"), "the output of cat"),
    ):
        with pytest.raises(ConfigError) as caught:
            await attempt
        assert str(caught.value) == (
            f"cannot read the password for server nas1: {where} {answer}. It must hold the secret and nothing else."
        )
        assert "hunter2" not in repr(caught.value)


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"{path} can't be read \\({reason}\\)"):
            await from_file(path, "nas1", _never)


async def test_a_file_open_to_others_is_warned_of_and_used(tmp_path: Path) -> None:
    warnings: list[str] = []
    path = _file(tmp_path, b"pw\n", 0o640)
    assert await from_file(path, "nas1", warnings.append) == "pw"
    assert warnings == [f"the password file {path} is open to others than its owner (mode 640); run: chmod 600 {path}"]


async def test_a_program_gets_its_arguments_as_they_are_and_no_shell() -> None:
    assert (
        await from_command([sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME; a 'b"], "n")
        == "$HOME; a 'b"
    )


async def test_a_program_has_nothing_on_its_stdin() -> None:
    assert await from_command([sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"], "n") == "''"


async def test_a_program_that_cannot_be_started_or_fails_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/no/such/program can't be started \(No such file or directory\)"):
        await from_command(["/no/such/program", "hunter2"], "nas1")
    with pytest.raises(ConfigError, match=r"/etc can't be started \(Permission denied\)"):
        await from_command(["/etc"], "nas1")
    with pytest.raises(TransientError, match="sh ended with status 3") as caught:
        await from_command(["sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3"], "nas1")
    assert "hunter2" not in str(caught.value) + repr(caught.value)


async def test_a_program_that_prints_for_ever_is_stopped() -> None:
    with pytest.raises(ConfigError, match="the output of yes is longer than 64 KiB"):
        await from_command(["yes"], "nas1")


async def test_a_program_that_does_not_end_is_stopped_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, child, loop = tmp_path / "pid", tmp_path / "child", asyncio.get_running_loop()
    script = f"sleep 600 & echo $! > {child}; echo $$ > {pid}.new; mv {pid}.new {pid}; wait"
    reading = asyncio.ensure_future(from_command(["sh", "-c", script], "nas1", timeout_s=60))
    await file_made(pid)
    monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 60)
    with pytest.raises(TimedOutError, match=r"sh did not end within 60 s"):
        await reading
    wait_until_dead(pid, child)


async def test_a_helper_that_keeps_the_output_open_does_not_hold_us_up(tmp_path: Path) -> None:
    script = f"setsid sleep 600 & echo $! > {tmp_path}/child; echo hunter2"
    began_s = time.monotonic()
    with pytest.raises(ReplicadError):
        await from_command(["sh", "-c", script], "nas1", timeout_s=0.5)
    assert time.monotonic() - began_s < 30
    os.kill(int((tmp_path / "child").read_text()), 9)  # out of our session on purpose, and so not ours to stop


async def test_a_program_ends_when_its_reader_is_cancelled(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 600"
    task = asyncio.ensure_future(from_command(["sh", "-c", script], "nas1"))
    await file_made(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_until_dead(tmp_path / "pid")


# --- who else could read it, or put another one there -----------------------------------------------------------------


async def _warnings(path: Path) -> list[str]:
    warnings: list[str] = []
    assert await from_file(path, "nas1", warnings.append) == "pw"
    return warnings


@pytest.mark.root
async def test_a_file_of_another_user_is_warned_of(tmp_path: Path) -> None:
    path = _file(tmp_path, b"pw\n")
    os.chown(path, 12345, 12345)
    assert await _warnings(path) == [f"the password file {path} belongs to user 12345; run: chown 0 {path}"]


@pytest.mark.root
async def test_a_link_that_another_user_made_is_warned_of(tmp_path: Path) -> None:
    path = _file(tmp_path, b"pw\n")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert await _warnings(link) == []
    os.lchown(link, 12345, 12345)
    assert await _warnings(link) == [
        f"the password file {link} is a link that belongs to user 12345; name the file itself"
    ]


async def test_a_link_does_not_hide_who_can_read_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(_file(tmp_path, b"pw\n", 0o604))
    assert await _warnings(link) == [
        f"the password file {link} is open to others than its owner (mode 604); run: chmod 600 {link}"
    ]


@pytest.mark.parametrize("through_a_link", [False, True])
async def test_a_file_that_others_can_replace_is_warned_of(tmp_path: Path, through_a_link: bool) -> None:
    open_to_all = tmp_path / "offen"
    open_to_all.mkdir()
    path = _file(open_to_all, b"pw\n")
    open_to_all.chmod(0o777)
    if through_a_link:
        link = tmp_path / "link"
        link.symlink_to(path)
        path = link
    assert await _warnings(path) == [
        f"others can replace the password file {path}, because they can write in {open_to_all}; move it"
    ]
    open_to_all.chmod(0o1777)  # as in /tmp: only owners may replace their files
    assert await _warnings(path) == []


# --- pipes -----------------------------------------------------------------------------------------------------------


async def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "pipe", 0o600)

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(b"p")
            pipe.write(b"w\n")

    writing = asyncio.create_task(asyncio.to_thread(write))
    assert await from_file(path, "nas1", _never) == "pw"
    await writing


async def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicad.service.passwords.TIMEOUT_S", 0.2)
    os.mkfifo(path := tmp_path / "pipe", 0o600)
    with pytest.raises(TimedOutError, match=r"nobody wrote to .*pipe within|gave nothing within"):
        await from_file(path, "nas1", _never)
    with pytest.raises(TimedOutError, match=r"nobody wrote to .*pipe within"):
        read_file(path, "nas1", _never)
