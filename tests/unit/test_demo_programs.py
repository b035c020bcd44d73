"""Signals and programs of the demonstration."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from replicad.cli.demo.programs import Interruption, run_program
from replicad.model.errors import PermanentError


def test_an_interruption_waits_until_what_is_made_is_known_and_comes_once() -> None:
    interruption = Interruption()
    made: list[str] = []

    def make() -> None:
        with interruption.deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            made.append("서버")

    with interruption.installed():
        with pytest.raises(KeyboardInterrupt):
            make()
        signal.raise_signal(signal.SIGINT)  # while it is cleaned up
    assert made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt_until_it_is_cleaned_up_and_are_as_before_in_the_end(number: signal.Signals) -> None:
    found = signal.signal(number, signal.SIG_DFL)  # nohup has it ignored
    try:
        interruption = Interruption()
        with interruption.installed(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        with (other := Interruption()).installed():
            other.ignore()
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, found)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption().installed():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupted_program_is_ended(tmp_path: Path) -> None:
    started = tmp_path / "시작"
    script = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt_once_it_runs() -> None:
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        signal.pthread_kill(main_thread, signal.SIGINT)

    interruption = Interruption()
    with interruption.installed():
        watcher = threading.Thread(target=interrupt_once_it_runs, daemon=True)
        watcher.start()
        with pytest.raises(KeyboardInterrupt):
            run_program([sys.executable, "-c", script, str(started)], interruption, cwd=tmp_path)
        watcher.join()
    assert not Path(f"/proc/{started.read_text()}").exists()


def test_a_program_says_what_it_said_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    done = run_program([sys.executable, "-c", "print('한글 🖥'); raise SystemExit(3)"], Interruption(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "한글 🖥\n", "")
    with pytest.raises(PermanentError, match="cannot start /no/such/program"):
        run_program(["/no/such/program"], Interruption(), cwd=tmp_path)
