"""The log: one event a line whatever is in it, nothing secret, and nobody waits for its reader."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog

from replicad.service.logs import LEVELS, LogFormat, is_journal, logging_to
from replicad.service.passwords import Secret

_NASTY = "웹 서버 🙂\n2026-01-01 forged=1\r\x1b[2J\x7f\x85\u2028\u202e\x00end"


@contextmanager
def _to_file(path: Path, **options: Any) -> Iterator[Any]:
    with path.open("w") as stream, logging_to(stream, environ={}, **options):
        yield structlog.get_logger("room")


def _lines(path: Path) -> list[str]:
    text = path.read_bytes().decode()
    assert text.endswith("\n") or not text
    return text.split("\n")[:-1]


def _objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(path)]


@contextmanager
def _terminal() -> Iterator[tuple[TextIO, int]]:
    ours, theirs = os.openpty()
    try:
        with open(theirs, "w", closefd=True) as stream:  # noqa: PTH123 - a descriptor
            yield stream, ours
    finally:
        os.close(ours)


@pytest.mark.parametrize("log_format", [LogFormat.TEXT, LogFormat.JSON])
def test_no_value_ends_a_line_or_reaches_a_terminal_as_a_control_character(
    tmp_path: Path, log_format: LogFormat
) -> None:
    with _to_file(tmp_path / "log", log_format=log_format) as log:
        log.info(_NASTY, vm=_NASTY, disks=[_NASTY], group={_NASTY: _NASTY}, error=OSError(_NASTY), **{_NASTY: 1})
        try:
            raise ValueError(_NASTY)
        except ValueError:
            log.exception("failed")
        logging.getLogger("library").error("%s", _NASTY)
    lines = _lines(tmp_path / "log")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert all("웹 서버 🙂" in line for line in lines)


def test_json_gives_values_back_as_they_were(tmp_path: Path) -> None:
    with _to_file(tmp_path / "log", log_format=LogFormat.JSON) as log:
        log.warning("did it", vm=_NASTY, count=3, share=0.5, odd=float("nan"), none=None, yes=True, path=Path("/a b"))
    (event,) = _objects(tmp_path / "log")
    assert list(event)[:4] == ["timestamp", "level", "logger", "event"]
    assert event["timestamp"].endswith("Z")
    assert {key: event[key] for key in list(event)[1:]} == {
        "level": "warning", "logger": "room", "event": "did it", "vm": _NASTY, "count": 3, "share": 0.5, "odd": "nan",
        "none": None, "yes": True, "path": "/a b",
    }  # fmt: skip


def test_text_is_plain_where_nobody_sees_colours(tmp_path: Path) -> None:
    with _to_file(tmp_path / "log") as log:
        log.info("a cycle is done", vm="web01", name="웹 서버", point=7)
    (line,) = _lines(tmp_path / "log")
    assert line.partition(" ")[2] == 'info     room: a cycle is done vm=web01 name="웹 서버" point=7'


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_unless_they_are_not_wanted(environ: dict[str, str], coloured: bool) -> None:
    with _terminal() as (stream, other):
        with logging_to(stream, environ=environ):
            structlog.get_logger("room").error("이런")
        said = os.read(other, 4096).decode()
    assert "이런" in said
    assert ("\x1b[31m" in said) is coloured


def test_the_journal_gets_json_with_its_priorities_in_front(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(stream, environ)
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_journal(stream, {})
        with logging_to(stream, environ=environ, level="debug"):
            for level in LEVELS:
                getattr(structlog.get_logger("room"), level)("said")
    lines = _lines(path)
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert [json.loads(line[3:])["level"] for line in lines] == list(LEVELS)


def test_secrets_are_hidden_at_any_depth(tmp_path: Path) -> None:
    with _to_file(tmp_path / "log", log_format=LogFormat.JSON) as log:
        log.info(
            "signs in", password="hunter2", api_token="hunter2", clientSecret="hunter2",
            headers={"Authorization": "Bearer hunter2", b"Proxy-Authorization": b"hunter2", "Host": "nas1"},
            servers=[{"name": "nas1", "Password": ["hunter2"]}], value=Secret("hunter2"), seen=[Secret("hunter2")],
            password_file="/etc/nas1.pw",
        )  # fmt: skip
        structlog.contextvars.bind_contextvars(token="hunter2")
        log.info("goes on")
        structlog.contextvars.clear_contextvars()
    assert "hunter2" not in (tmp_path / "log").read_text()
    event = _objects(tmp_path / "log")[0]
    assert event["password_file"] == "/etc/nas1.pw"
    assert event["headers"]["Host"] == event["servers"][0]["name"] == "nas1"


def test_events_below_the_level_are_left_out(tmp_path: Path) -> None:
    with _to_file(tmp_path / "log", level="warning", log_format=LogFormat.JSON) as log:
        log.info("no")
        log.warning("yes")
    assert [event["event"] for event in _objects(tmp_path / "log")] == ["yes"]
    with pytest.raises(ValueError, match="'loud' is no level"), logging_to(level="loud"):
        pass


def test_level_and_form_can_be_changed_while_loggers_are_there(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream, logging_to(stream, environ={}) as log:
        ours, library = structlog.get_logger("room"), logging.getLogger("library")
        ours.info("text")
        library.warning("text")
        log.apply("error", LogFormat.JSON)
        ours.info("no")
        library.warning("no")
        ours.error("json", vm="웹")
        library.error("json")
        with pytest.raises(ValueError, match="'loud' is no level"):
            log.apply("loud", LogFormat.TEXT)
        log.apply("debug", LogFormat.JSON)
        ours.debug("again")
    text, more, *objects = _lines(tmp_path / "log")
    assert text.endswith("room: text")
    assert more.endswith("library: text")
    assert [(one["logger"], one["event"]) for one in map(json.loads, objects)] == [
        ("room", "json"), ("library", "json"), ("room", "again"),
    ]  # fmt: skip


def test_libraries_are_heard_from_warnings_up_and_their_access_lines_never(tmp_path: Path) -> None:
    before = logging.getLogger().handlers[:]
    with _to_file(tmp_path / "log", level="debug", log_format=LogFormat.JSON):
        for name in ("asyncio", "uvicorn.error", "other"):
            logging.getLogger(name).info("quiet")
            logging.getLogger(name).warning("heard %d", 1)
        logging.getLogger("uvicorn.access").critical("GET /")
        logging.getLogger("other").warning("does not %d fit", "x")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    events = _objects(tmp_path / "log")
    assert [(event["logger"], event["event"]) for event in events[:3]] == [
        ("asyncio", "heard 1"), ("uvicorn.error", "heard 1"), ("other", "heard 1"),
    ]  # fmt: skip
    assert "does not %d fit" in events[3]["event"]
    assert "old ways" in events[4]["event"]
    assert len(events) == 5
    assert logging.getLogger().handlers == before
    assert not logging.getLogger("uvicorn.access").disabled


def test_nobody_waits_for_a_slow_reader_and_what_was_dropped_is_told() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as stream:  # noqa: PTH123 - descriptors
        with logging_to(stream, log_format=LogFormat.JSON, environ={}, max_waiting=10) as writer:
            log = structlog.get_logger("room")
            began_s = time.monotonic()
            count = 0
            while writer.dropped < 5:  # the pipe is full, and then the queue
                log.info("x" * 1_000, number=count)
                count += 1
            assert time.monotonic() - began_s < 30
            said = bytearray()
            draining = threading.Thread(target=lambda: said.extend(_all_of(reader)))
            draining.start()
        stream.close()
        draining.join(30)
    events = [json.loads(line) for line in said.decode().splitlines()]
    expected = 0
    for event in events:  # each count stands where its lines would have been
        if "dropped" in event:
            expected += event["dropped"]
        else:
            assert event["number"] == expected
            expected += 1
    assert expected == count
    assert sum(event.get("dropped", 0) for event in events) == writer.dropped == 5


def _all_of(reader: Any) -> bytes:
    return b"".join(iter(lambda: reader.read(1 << 16), b""))


def test_a_reader_that_never_reads_does_not_keep_the_end() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0), open(writing, "w") as stream:  # noqa: PTH123 - descriptors
        began_s = time.monotonic()
        with logging_to(stream, environ={}, max_waiting=200) as writer:
            for _ in range(200):
                structlog.get_logger("room").info("x" * 1_000)
        assert time.monotonic() - began_s < 30
        assert writer.dropped
    # The thread that still waited finds its reader gone, and ends.


def test_a_reader_that_is_gone_stops_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream, logging_to(stream, environ={}) as writer:  # noqa: PTH123 - a descriptor
        structlog.get_logger("room").info("to nobody")
    assert writer.dropped == 1


def test_a_line_never_grows_beyond_what_the_journal_takes_whole(tmp_path: Path) -> None:
    with _to_file(tmp_path / "log", log_format=LogFormat.JSON) as log:
        log.info("long", text="가" * 100_000)
        log.info("many", **{f"value{n}": "가" * 8_000 for n in range(9)})
    long, many = _objects(tmp_path / "log")
    assert long["text"] == "가" * 8_000 + "… (100000 characters)"
    assert many["event"] == "many"
    assert many["left_out"] == "9 values, too long together"


def test_a_value_that_cannot_be_shown_is_no_failure(tmp_path: Path) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    loop: list[object] = []
    loop.append(loop)
    with _to_file(tmp_path / "log", log_format=LogFormat.JSON) as log:
        log.info("odd", value=Broken(), loop=loop, name="x\udcff")
    (event,) = _objects(tmp_path / "log")
    assert event["value"] == "<Broken that can't be shown: RuntimeError>"
    assert event["name"] == "x\udcff"
