"""Hooks: what they get, that they end, and that none of them holds anything up or gives anything away."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from replicad.service.hook_command import run_command
from replicad.service.hook_url import post
from replicad.service.hooks import Event, HookKind, HookRunner, run_hook
from replicad.settings import HookCommand, Hooks, HookUrl
from tests.support.processes import file_made, wait_until_dead

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
_AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def _event(vm: str = "웹 서버 🙂", kind: HookKind = HookKind.FAILURE, **facts: Any) -> Event:
    return Event(kind, vm, _AT, facts)


def _sh(script: str, *arguments: str) -> HookCommand:
    return HookCommand(("sh", "-c", script, "sh", *arguments))


# --- commands ---------------------------------------------------------------------------------------------------------


async def test_a_command_gets_the_facts_in_its_environment_and_on_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICAD_PASSWORD", "hunter2")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("REPLICAD_CONFIG", "/etc/replicad.yaml")
    facts = {"error": "access\0denied\n", "point": None, "fuzzy": True, "reasons": ("one", "둘"), "vm": "ignored"}
    event = Event(HookKind.FAILURE, "웹 서버 🙂", _AT, facts)
    assert await run_hook(
        _sh('env -0 > "$1/env"; cat > "$1/in"; echo "$2" > "$1/arg"', str(tmp_path), "$x; 'y"), event, 30
    )
    assert (tmp_path / "arg").read_text() == "$x; 'y\n"
    assert json.loads((tmp_path / "in").read_bytes()) == {
        "event": "failure", "vm": "웹 서버 🙂", "time": "2026-03-01T12:30:00+00:00", "error": "access\0denied\n",
        "point": None, "fuzzy": True, "reasons": ["one", "둘"],
    }  # fmt: skip
    pairs = dict(pair.partition("=")[::2] for pair in (tmp_path / "env").read_text().split("\0"))
    assert {name: text for name, text in pairs.items() if name.startswith("REPLICAD_")} == {
        "REPLICAD_EVENT": "failure", "REPLICAD_VM": "웹 서버 🙂", "REPLICAD_TIME": "2026-03-01T12:30:00+00:00",
        "REPLICAD_ERROR": "access\ufffddenied\n", "REPLICAD_POINT": "", "REPLICAD_FUZZY": "true",
        "REPLICAD_REASONS": "one\n둘", "REPLICAD_CONFIG": "/etc/replicad.yaml",
    }  # fmt: skip
    assert "NOTIFY_SOCKET" not in pairs
    assert pairs["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (_sh("echo 뭐; echo worse >&2; exit 3"), "it ended with status 3"),
        (_sh("kill -9 $$"), "it was ended by signal 9"),
        (HookCommand(("/no/such/program",)), "it can't be started (No such file or directory)"),
        (HookCommand(("/etc",)), "it can't be started (Permission denied)"),
    ],
)
async def test_a_command_that_fails_is_a_warning_with_what_it_said(hook: HookCommand, why: str) -> None:
    with capture_logs() as logged:
        assert not await run_hook(hook, _event(), 30)
    (event,) = logged
    assert event["log_level"] == "warning"
    assert (event["hook"], event["vm"], event["target"], event["why"]) == (
        "on_failure", "웹 서버 🙂", hook.arguments[0], why,
    )  # fmt: skip
    assert event.get("output", "") == ("뭐\nworse\n" if "status" in why else "")


async def test_the_beginning_of_the_output_is_kept_and_the_rest_read() -> None:
    result = await run_command(["sh", "-c", "yes | head -c 1000000"], b"{}", {}, 30)
    assert result.failure is None
    assert result.output == "y\n" * 2_048


async def test_a_command_need_not_read_what_it_is_told() -> None:
    result = await run_command(["true"], b"x" * 1_000_000, {}, 30)
    assert result.failure is None


async def test_a_command_is_ended_with_its_children_at_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, child, loop = tmp_path / "pid", tmp_path / "child", asyncio.get_running_loop()
    script = f"trap '' TERM; sleep 600 & echo $! > {child}; echo said; echo $$ > {pid}.new; mv {pid}.new {pid}; wait"
    running = asyncio.ensure_future(run_command(["sh", "-c", script], b"", {}, 60))
    await file_made(pid)
    monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 60)
    result = await running
    assert result.failure == "it did not end within 60 s, and was ended"
    assert result.output == "said\n"
    wait_until_dead(pid, child)


async def test_what_a_command_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    result = await run_command(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/child"], b"", {}, 30)
    assert result.failure is None
    wait_until_dead(tmp_path / "child")


async def test_a_command_ends_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 600"
    task = asyncio.ensure_future(run_command(["sh", "-c", script], b"", {}, 600))
    await file_made(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_until_dead(tmp_path / "pid")


# --- URLs -------------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    """Keeps what it is sent, and answers with `status` and `body`; with None not at all before `release`."""

    def __init__(self, status: int | None = 204, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.headers = status, body, headers
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.asked, self.release = threading.Event(), threading.Event()
        self.cut = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers.items()), body))
        self.server.asked.set()
        if self.server.status is None:
            if self.connection.recv(1) == b"":
                self.server.cut.set()
            self.close_connection = True
            return
        self.send_response(self.server.status)
        for name, text in self.server.headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(server: _Server, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_the_facts_are_posted_as_json(status: int) -> None:
    with _serving(server := _Server(status)) as place:
        event = _event(error="안녕")
        assert await run_hook(HookUrl(f"http://{place}/알림/a%20b?q=1&r=가"), event, 30)
    ((path, headers, body),) = server.got
    assert path == "/%EC%95%8C%EB%A6%BC/a%20b?q=1&r=%EA%B0%80"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == place
    assert "Authorization" not in headers
    assert body == event.document()
    assert json.loads(body)["error"] == "안녕"


@pytest.mark.parametrize("status", [199 + 101, 301, 307, 404, 500])
async def test_any_other_answer_is_a_warning_and_redirects_are_not_followed(status: int) -> None:
    with _serving(elsewhere := _Server()) as other:
        server = _Server(status, b"what is this\n", (("Location", f"http://{other}/"),))
        with _serving(server) as place, capture_logs() as logged:
            assert not await run_hook(HookUrl(f"http://{place}/x"), _event(), 30)
    assert elsewhere.got == []
    (event,) = logged
    assert event["why"].startswith(f"it answered {status}")
    assert ("redirects" in event["why"]) is (status < 400)
    assert event["output"] == "what is this\n"


async def test_nothing_secret_of_a_url_is_logged_even_if_the_server_repeats_it() -> None:
    body = b"no: /services/hunter2 q=hunter3 user hunter4, " + b"x" * 10_000
    with _serving(server := _Server(403, body)) as place, capture_logs() as logged:
        assert not await run_hook(HookUrl(f"http://hunter4:hunter5@{place}/services/hunter2?q=hunter3"), _event(), 30)
    assert server.got[0][1]["Authorization"] == "Basic aHVudGVyNDpodW50ZXI1"
    (event,) = logged
    assert event["target"] == f"http://{place}/…"
    assert "hunter" not in repr(logged)
    assert len(event["output"]) < 4_097


async def test_a_server_that_is_not_there_or_speaks_something_else_is_a_warning() -> None:
    with _serving(_Server()) as place:
        pass
    assert (await post(f"http://{place}/", b"", 30)).failure == "no connection could be made (Connection refused)"
    with _serving(_Server()) as place:
        failure = (await post(f"https://{place}/", b"", 30)).failure
    assert failure is not None
    assert failure.startswith("no connection could be made (")

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-hunter2\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await post(f"http://127.0.0.1:{port}/", b"", 30)
    assert result.failure == "there was no answer (it is no HTTP: BadStatusLine)"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that only those trust who are told to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "인증서.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    return path


async def test_https_is_for_servers_with_a_certificate_that_is_trusted(certificate: Path) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with _serving(server := _Server(), serving) as place:
        untrusted = await post(f"https://svc:p%40ss@{place}/x", b"{}", 30)
        assert server.got == []
        assert untrusted.failure is not None
        assert untrusted.failure.startswith("no connection could be made (its certificate is not trusted: ")
        assert (await post(f"https://svc:p%40ss@{place}/x", b"{}", 30, trusting)).failure is None
    ((_, headers, body),) = server.got
    assert (headers["Host"], headers["Authorization"], body) == (place, "Basic c3ZjOnBAc3M=", b"{}")


async def test_a_handshake_that_does_not_end_is_cut_at_the_time_limit() -> None:
    cut = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        cut.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await post(f"https://127.0.0.1:{port}/", b"", 0.3)).failure is not None
        async with asyncio.timeout(30):
            await cut.wait()


async def test_a_handshake_is_cut_when_nobody_waits_for_it_any_more() -> None:
    asked, cut = asyncio.Event(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        cut.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        task = asyncio.ensure_future(post(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"", 20))
        async with asyncio.timeout(10):
            await asked.wait()
            task.cancel()
            await cut.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_server_that_does_not_answer_is_left_at_the_time_limit() -> None:
    with _serving(server := _Server(None)) as place:
        assert (await post(f"http://{place}/", b"{}", 0.3)).failure == "there was no answer within 0.3 s"
        assert await asyncio.to_thread(server.cut.wait, 30)


async def test_a_server_that_answers_drop_by_drop_is_left_at_the_time_limit() -> None:
    cut = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 500 No\r\n")
            while True:
                writer.write(b"X-Header: drop\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            cut.set()
        finally:
            writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await post(f"http://127.0.0.1:{port}/", b"", 0.5)).failure is not None
        async with asyncio.timeout(30):
            await cut.wait()


async def test_a_post_is_cut_when_nobody_waits_for_it_any_more() -> None:
    with _serving(server := _Server(None)) as place:
        task = asyncio.ensure_future(post(f"http://{place}/", b"{}", 600))
        assert await asyncio.to_thread(server.asked.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cut.wait, 30)


# --- the queue --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _running(hooks: Hooks) -> AsyncIterator[HookRunner]:
    runner = HookRunner(hooks)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()


def _recording(tmp_path: Path) -> HookCommand:
    """A hook that says that it has begun, and ends when it is let go."""
    return _sh(
        'echo "$REPLICAD_VM $REPLICAD_N" >> "$1/begun"; while [ ! -e "$1/go" ]; do sleep 0.02; done', str(tmp_path)
    )


async def _begun(tmp_path: Path, count: int) -> list[str]:
    file = tmp_path / "begun"
    async with asyncio.timeout(30):
        while not file.exists() or file.read_text().count("\n") < count:  # noqa: ASYNC110 - other processes write it
            await asyncio.sleep(0.01)
    return sorted(file.read_text().splitlines())


async def test_at_most_four_run_at_once_and_of_one_vm_one_after_the_other(tmp_path: Path) -> None:
    async with _running(Hooks(on_failure=_recording(tmp_path), on_success=_recording(tmp_path))) as runner:
        for vm in range(3):
            runner.tell(_event(f"vm{vm}", n=0))
            runner.tell(_event(f"vm{vm}", HookKind.SUCCESS, n=1))
        assert await _begun(tmp_path, 3) == ["vm0 0", "vm1 0", "vm2 0"]
        runner.tell(_event("vm3", n=0))
        runner.tell(_event("vm4", n=0))
        assert await _begun(tmp_path, 4) == ["vm0 0", "vm1 0", "vm2 0", "vm3 0"]
        assert await runner.drain(0.2) == 8
        assert len(await _begun(tmp_path, 4)) == 4
        (tmp_path / "go").touch()
        assert await runner.drain(60) == 0
    lines = (tmp_path / "begun").read_text().splitlines()
    assert len(lines) == 8
    for vm in range(3):
        assert lines.index(f"vm{vm} 0") < lines.index(f"vm{vm} 1")


async def test_a_newer_event_takes_the_place_of_a_waiting_one_and_the_queue_is_bounded(tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with _running(Hooks(on_failure=_recording(tmp_path))) as runner:
            for vm in range(4):
                runner.tell(_event(f"busy{vm}", n=0))
            await _begun(tmp_path, 4)
            for n in range(3):
                runner.tell(_event("busy0", n=n))
            for vm in range(64):
                runner.tell(_event(f"vm{vm}", n=0))
            runner.apply(Hooks(on_failure=_sh('echo "$REPLICAD_VM $REPLICAD_N" >> "$1/begun"', str(tmp_path))))
            (tmp_path / "go").touch()
            assert await runner.drain(60) == 0
    lines = (tmp_path / "begun").read_text().splitlines()
    assert sorted(lines) == sorted([f"busy{vm} 0" for vm in range(4)] + [f"vm{vm} 0" for vm in range(64)])
    dropped = [event["vm"] for event in logged if event["event"] == "a hook is not run: too many wait"]
    assert dropped == ["busy0"]


async def test_the_newest_of_what_waits_is_told(tmp_path: Path) -> None:
    async with _running(Hooks(on_failure=_recording(tmp_path))) as runner:
        runner.tell(_event("vm", n=0))
        await _begun(tmp_path, 1)
        for n in range(1, 4):
            runner.tell(_event("vm", n=n))
        (tmp_path / "go").touch()
        assert await runner.drain(60) == 0
    assert (tmp_path / "begun").read_text().splitlines() == ["vm 0", "vm 3"]


async def test_what_nobody_wants_to_hear_is_not_kept() -> None:
    runner = HookRunner(Hooks())
    runner.tell(_event())
    assert await runner.drain(0) == 0


async def test_the_end_of_the_runner_ends_its_hooks(tmp_path: Path) -> None:
    async with _running(
        Hooks(on_failure=_sh('echo $$ > "$1/new"; mv "$1/new" "$1/pid"; sleep 600', str(tmp_path)))
    ) as r:
        r.tell(_event())
        await file_made(tmp_path / "pid")
    wait_until_dead(tmp_path / "pid")
