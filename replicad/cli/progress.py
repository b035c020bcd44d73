"""Showing how long work goes on: a bar on a terminal, plain lines anywhere else. All of it on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from replicad.model.durations import human_duration
from replicad.model.names import printable
from replicad.model.progress import Advanced, FreezePredicted, Observer, PhaseStarted, ProgressEvent, Said, Warned
from replicad.model.sizes import human_bytes

LINE_INTERVAL_S = 5.0


@contextmanager
def showing_progress(stream: TextIO | None = None) -> Iterator[Observer]:
    """An observer that shows what it is told for as long as the context lasts."""
    stream = stream or sys.stderr
    if stream.isatty() and os.environ.get("TERM", "") != "dumb":
        with _bar(stream) as observe:
            yield observe
    else:
        yield ProgressLines(stream, time.monotonic)


def say_warning(event: ProgressEvent) -> None:
    """An observer for what comes before the work: it tells warnings and nothing else."""
    if isinstance(event, Warned):
        print(f"warning: {printable(event.text)}", file=sys.stderr, flush=True)


class ProgressLines:
    """One line when a phase begins, then at most one every five seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._name = ""
        self._total_bytes: int | None = None
        self._done_bytes = self._sent_bytes = 0
        self._began_s = self._said_s = 0.0

    def __call__(self, event: ProgressEvent) -> None:
        match event:
            case PhaseStarted(name, total_bytes):
                self._name, self._total_bytes = name, total_bytes
                self._done_bytes = self._sent_bytes = 0
                self._began_s = self._said_s = self._clock()
                self._say(name if total_bytes is None else f"{name}: {human_bytes(total_bytes)}")
            case Advanced(done_bytes, sent_bytes):
                self._done_bytes += done_bytes
                self._sent_bytes += sent_bytes
                now_s = self._clock()
                if now_s - self._said_s >= LINE_INTERVAL_S:
                    self._said_s = now_s
                    self._say(self._state(now_s - self._began_s))
            case Warned(text):
                self._say(f"warning: {text}")
            case Said(_, program, line):
                self._say(f"{program}: {line}")
            case FreezePredicted():
                self._say(_freeze(event))

    def _state(self, elapsed_s: float) -> str:
        rate = self._done_bytes / elapsed_s
        sent = f", {human_bytes(self._sent_bytes)} sent" if self._sent_bytes else ""
        if not self._total_bytes:
            return f"{self._name}: {human_bytes(self._done_bytes)}{sent}, {human_bytes(int(rate))}/s"
        left_bytes = max(self._total_bytes - self._done_bytes, 0)
        share = min(self._done_bytes * 100 // self._total_bytes, 100)
        left = f", {human_duration(round(left_bytes / rate))} left" if rate and left_bytes else ""
        return (
            f"{self._name}: {human_bytes(self._done_bytes)} of {human_bytes(self._total_bytes)} ({share} %)"
            f"{sent}, {human_bytes(int(rate))}/s{left}"
        )

    def _say(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


def _freeze(event: FreezePredicted) -> str:
    rounds = "1 round" if event.rounds == 1 else f"{event.rounds} rounds"
    return f"after {rounds} the machine would stand still for {human_duration(event.freeze_s)}"


@contextmanager
def _bar(stream: TextIO) -> Iterator[Observer]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[sent]}"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
    tasks: dict[str, TaskID] = {}
    task: TaskID | None = None
    all_sent_bytes = 0

    def observe(event: ProgressEvent) -> None:
        nonlocal task, all_sent_bytes
        match event:
            case PhaseStarted(name, total_bytes):
                if task is not None:
                    progress.stop_task(task)
                if name in tasks:  # begun again: what was shown of it is no longer true
                    progress.remove_task(tasks[name])
                task, all_sent_bytes = progress.add_task(printable(name), total=total_bytes, sent=""), 0
                tasks[name] = task
            case Advanced(done_bytes, sent_bytes):
                if task is not None:
                    progress.advance(task, done_bytes)
                if task is not None and sent_bytes:
                    all_sent_bytes += sent_bytes
                    progress.update(task, sent=f"{human_bytes(all_sent_bytes)} sent")
            case Warned(text):
                progress.console.print(f"warning: {printable(text)}", markup=False, highlight=False, soft_wrap=True)
            case Said(_, program, line):
                progress.console.print(f"{program}: {line}", markup=False, highlight=False, soft_wrap=True)
            case FreezePredicted():
                progress.console.print(_freeze(event), markup=False, highlight=False, soft_wrap=True)

    with progress:
        yield observe
