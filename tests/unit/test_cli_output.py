"""Figures for people, tables, and progress where there is no terminal and where there is one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from replicad.cli.output import print_json, print_line, print_table, width
from replicad.cli.progress import ProgressLines, showing_progress
from replicad.model.progress import Advanced, PhaseStarted, Warned
from replicad.model.sizes import human_bytes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KiB"), (1536, "1.5 KiB"), (MIB - 1, "1 MiB"),
     (12 * MIB + MIB // 2, "12.5 MiB"), (640 << 30, "640 GiB"), (1023 << 30, "1 TiB"),
     (64 << 40, "64 TiB"), (5000 << 50, "5000 PiB")],
)  # fmt: skip
def test_bytes_are_told_in_three_digits(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_columns_line_up_with_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["VM", "SIZE"], [["회계 서버", "1 B"], ["web\x1b[2J", "12 KiB"], ["🙂", ""]], right=[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["VM           SIZE", "회계 서버     1 B", "web\ufffd[2J    12 KiB", "🙂"]
    assert len({width(line) for line in lines[:3]}) == 1


def test_json_is_readable_in_any_script(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"vm": "회계"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"vm": "회계"}
    assert "회계" in out


def test_nothing_that_is_printed_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[2J\x07\x9b31m\u202eb\u2028\ud800\U000e0041 회계 🖥"
    print_line(text)
    print_table([text], [[text]])
    shown = capsys.readouterr().out
    assert shown.splitlines() == [shown.splitlines()[0]] * 3
    assert shown.isprintable() or all(line.isprintable() for line in shown.splitlines())
    print_json({text: [text]})
    written = capsys.readouterr().out
    assert json.loads(written) == {text: [text]}
    assert all(line.isprintable() for line in written.splitlines())
    assert "회계 🖥" in written


def test_lines_come_once_a_phase_and_at_most_every_five_seconds() -> None:
    now_s = 100.0
    out = io.StringIO()
    observe = ProgressLines(out, lambda: now_s)
    observe(PhaseStarted("initial copy", 100 * MIB))
    for _ in range(12):
        now_s += 1.0
        observe(Advanced(5 * MIB))
    observe(PhaseStarted("reading\x1b[2J"))
    now_s += 6.0
    observe(Advanced(12 * MIB))
    observe(Warned("clock went\nbackwards"))
    assert out.getvalue().splitlines() == [
        "initial copy: 100 MiB",
        "initial copy: 25 MiB of 100 MiB (25 %), 5 MiB/s, 15.0 s left",
        "initial copy: 50 MiB of 100 MiB (50 %), 5 MiB/s, 10.0 s left",
        "reading\ufffd[2J",
        "reading\ufffd[2J: 12 MiB, 2 MiB/s",
        "warning: clock went\ufffdbackwards",
    ]


def test_what_was_sent_is_told_beside_what_was_read() -> None:
    """Under a bandwidth limit the one may be done long before the other."""
    now_s = 0.0
    out = io.StringIO()
    observe = ProgressLines(out, lambda: now_s)
    observe(PhaseStarted("delta", 100 * MIB))
    observe(Advanced(100 * MIB))
    observe(Advanced(0, 16 * MIB))
    now_s = 10.0
    observe(Advanced(0, 16 * MIB))
    observe(PhaseStarted("reading"))
    now_s += 5.0
    observe(Advanced(5 * MIB, MIB))
    now_s += 5.0
    observe(PhaseStarted("comparing"))
    now_s += 5.0
    observe(Advanced(MIB))
    assert out.getvalue().splitlines() == [
        "delta: 100 MiB",
        "delta: 100 MiB of 100 MiB (100 %), 32 MiB sent, 10 MiB/s",
        "reading",
        "reading: 5 MiB, 1 MiB sent, 1 MiB/s",
        "comparing",
        "comparing: 1 MiB, 205 KiB/s",
    ]


def test_more_than_announced_is_no_more_than_all() -> None:
    now_s = 0.0
    out = io.StringIO()
    observe = ProgressLines(out, lambda: now_s)
    observe(PhaseStarted("copy", MIB))
    now_s = 10.0
    observe(Advanced(2 * MIB))
    assert out.getvalue().splitlines()[-1] == "copy: 2 MiB of 1 MiB (100 %), 205 KiB/s"


def test_plain_lines_are_used_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with showing_progress(out) as observe:
        observe(PhaseStarted("copy", MIB))
        observe(Advanced(MIB))
    assert out.getvalue() == "copy: 1 MiB\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = _Terminal()
    with showing_progress(out) as observe:
        observe(Advanced(1))  # before any phase: nothing to show it on
        observe(PhaseStarted("initial [bold]copy", 10 * MIB))
        observe(Advanced(10 * MIB, 3 * MIB))
        observe(PhaseStarted("reading"))
        observe(Warned("the clock of \\\\nas1\\[red] is 3 s ahead"))
    text = out.getvalue()
    assert "initial [bold]copy" in text
    assert "10.0/10.0 MiB" in text
    assert "3 MiB sent" in text
    assert "warning: the clock of \\\\nas1\\[red] is 3 s ahead" in text


def test_a_phase_that_is_begun_again_has_one_bar_that_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = _Terminal()
    with showing_progress(out) as observe:
        for done_bytes in (7, 10):
            observe(PhaseStarted("locking"))
            observe(PhaseStarted("initial", 10 * MIB))
            observe(Advanced(done_bytes * MIB))
    shown_last = out.getvalue().rpartition("\x1b[2K")[2]  # what is drawn after the last line was erased
    assert (shown_last.count("locking"), shown_last.count("initial")) == (1, 1)
    assert "10.0/10.0 MiB" in shown_last


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_the_question_for_a_password_stands_alone_on_its_line() -> None:
    script = "import sys; from replicad.cli.main import main; sys.exit(main(sys.argv[1:]))"
    typed = ["--replica", r"\\127.0.0.1\r\웹", "--port", "1", "--username", "svc"]
    ours, theirs = os.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "REPLICAD_CONFIG": "", "HOME": "/nonexistent"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, "points", *typed], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    try:
        seen = b""
        while not seen.endswith(b": "):
            seen += os.read(ours, 1000)
        # Nothing that moves the cursor or is drawn again and again, or the question would be erased.
        assert seen == b"Password for svc on 127.0.0.1: "
        os.write(ours, b"hunter2\n")
        assert process.wait(60) == 5  # nobody listens there
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_a_terminal_that_can_do_nothing_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = _Terminal()
    with showing_progress(out) as observe:
        observe(PhaseStarted("copy", MIB))
    assert out.getvalue() == "copy: 1 MiB\n"
