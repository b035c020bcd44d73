"""Asking a daemon: that it is found, what it answers, and every way in which it does not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicad.cli import daemon_client
from replicad.cli.daemon_client import Daemon, ServerEvent, ToldError, daemon_of, needed_daemon, path_of, running_daemon
from replicad.model.errors import AccessDeniedError, PermanentError, ReplicadError, TimedOutError, UnreachableError
from tests.support.api_server import Api, api_on

VM = "웹 서버 🖥 #%20"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration in which only the state directory is right."""
    path = tmp_path / "설정.yaml"
    path.write_text(f"state_dir: '{tmp_path}/상태'\nvirtual_machines: {{웹: {{sorce: /x}}}}\n", encoding="utf-8")
    return path


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with api_on(tmp_path / "상태", VM) as api:
        yield api


def test_a_daemon_is_found_by_the_state_directory_alone(config: Path, api: Api) -> None:
    daemon = running_daemon(config)
    assert daemon is not None
    assert daemon.path == api.path
    assert daemon.get(path_of(VM)) == api.machines[VM]
    assert daemon.post(path_of(VM, "sync"), {"resync": True})["vm"] == VM
    assert api.asked == [(f"GET /vms/{VM}", None), (f"POST /vms/{VM}/sync", {"resync": True})]


def test_none_runs_where_nobody_listens(config: Path, tmp_path: Path) -> None:
    assert running_daemon(config) is None
    with api_on(tmp_path / "상태"):
        assert running_daemon(config) is not None
    assert running_daemon(config) is None
    with socket.socket(socket.AF_UNIX) as left:  # by one that was killed
        left.bind(str(tmp_path / "상태" / "api.sock"))
    assert running_daemon(config) is None
    (tmp_path / "상태" / "api.sock").unlink()
    (tmp_path / "상태" / "api.sock").write_text("")
    assert running_daemon(config) is None
    assert not Daemon(tmp_path / ("가" * 60) / "api.sock").is_there()
    assert not Daemon(config / "api.sock").is_there()
    with pytest.raises(UnreachableError, match="cannot pause 웹: no daemon runs for this configuration") as caught:
        needed_daemon(config, "pause", "웹")
    assert caught.value.exit_code == 5


def test_who_may_not_ask_is_told_so(config: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")  # root is never refused

    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(AccessDeniedError, match="may not open its socket"):
        running_daemon(config)


def test_what_it_refuses_has_its_sentence_and_exit_code(api: Api) -> None:
    api.refuse(f"POST /vms/{VM}/sync", 409, "BusyError", "cannot begin a cycle of 웹: it has been paused", 5)
    with pytest.raises(ToldError) as caught:
        Daemon(api.path).post(path_of(VM, "sync"))
    assert (str(caught.value), caught.value.kind, caught.value.exit_code) == (
        "cannot begin a cycle of 웹: it has been paused", "BusyError", 5
    )  # fmt: skip
    with pytest.raises(ToldError, match="cannot find virtual machine"):
        Daemon(api.path).get(path_of("없음"))


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"", b"\xff", {"detail": "Not Found"}, {"error": {"kind": "X", "text": "y", "exit_code": 0}}],
    ids=str,
)
def test_an_answer_that_is_none_is_not_guessed_at(body: object, api: Api) -> None:
    api.refusals["GET /vms"] = 500, body
    with pytest.raises(PermanentError, match=r"its answer \(500\) is none that this program knows"):
        Daemon(api.path).get("/vms")


def _speaks(path: Path, said: bytes) -> threading.Thread:
    """Somebody who takes one connection, says this to whatever is asked, and ends it."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def speak() -> None:
        with listening, listening.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(said)

    thread = threading.Thread(target=speak)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[1", b"nonsense\r\n\r\n", b"HTTP/1.1 2"],
    ids=["nothing", "a part", "no HTTP", "no line"],
)
def test_a_connection_that_is_lost_is_told(said: bytes, tmp_path: Path) -> None:
    thread = _speaks(tmp_path / "api.sock", said)
    with pytest.raises(ReplicadError) as caught:
        Daemon(tmp_path / "api.sock").get("/vms")
    thread.join()
    assert isinstance(caught.value, UnreachableError)
    assert "it ended the connection before it had answered" in str(caught.value)


def test_no_wait_is_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_client, "ANSWER_S", 0.05)
    monkeypatch.setattr(daemon_client, "_CONNECT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "api.sock"))
        deaf.listen(0)
        with pytest.raises(TimedOutError, match="it has said nothing for 0 s"):
            Daemon(tmp_path / "api.sock").get("/vms")
        waiting = []
        with pytest.raises(TimedOutError, match="it takes no connection"):  # noqa: PT012  until its queue is full
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                try:
                    waiting[-1].connect(str(tmp_path / "api.sock"))
                except BlockingIOError:
                    Daemon(tmp_path / "api.sock").is_there()
        for connection in waiting:
            connection.close()


def test_a_stream_is_heard_event_by_event(api: Api) -> None:
    api.story = [("waiting", {"behind": None}), ("progress", {"phase": "읽기\n"}), ("ended", {})]
    with Daemon(api.path).follow(path_of(VM, "sync")) as events:
        assert list(events) == [ServerEvent(name, data) for name, data in filter(None, api.story)]


def test_a_stream_in_any_form_of_the_standard_is_understood(tmp_path: Path) -> None:
    stream = b": hello\r\n\r\nevent: a\nid: 7\r\ndata: {\r\ndata:}\r\n\r\ndata: 1\n\nevent: x\n\nevent: cut\ndata: 2\n"
    thread = _speaks(tmp_path / "api.sock", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + stream)
    with Daemon(tmp_path / "api.sock").follow("/events") as events:
        assert list(events) == [ServerEvent("a", {}), ServerEvent("", 1)]
    thread.join()


def test_the_default_socket_is_below_the_default_state_directory(tmp_path: Path) -> None:
    path = tmp_path / "설정.yaml"
    path.write_text("virtual_machines: {}\n")
    assert daemon_of(path).path.name == "api.sock"
    assert daemon_of(path).path.parent == (
        Path("/var/lib/replicad") if os.geteuid() == 0 else daemon_of(path).path.parent
    )
