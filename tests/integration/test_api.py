"""The API as clients see it: over the real sockets, with a real supervisor and catalog."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from replicad.model.errors import BusyError, ConfigError, LockedError, PermanentError, UnreachableError
from replicad.model.points import (
    Change,
    Consistency,
    CycleKind,
    DiskState,
    FileKind,
    ManifestReference,
    Mistake,
    Provenance,
    RecoveryPoint,
    Statistics,
    Trust,
)
from replicad.model.progress import Advanced, PhaseStarted, Warned
from replicad.service.api import server
from replicad.service.api.doors import open_doors
from replicad.service.api.server import MOST_CONNECTIONS
from replicad.service.events import CycleEnded, Trouble
from replicad.service.watch import Watch
from replicad.settings import SettingsError
from replicad.settings.load import parse
from tests.support.live_api import OTHER, TOKEN, VM, configuration, events_of, free_port, live_api

WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)
AT = f"/vms/{quote(VM)}"
STREAM = {"Accept": "text/event-stream"}


def _error(response: httpx.Response) -> tuple[int, str, int]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"kind", "text", "exit_code"}
    assert "Traceback" not in response.text
    return response.status_code, body["error"]["kind"], body["error"]["exit_code"]


class _Gate:
    """Cycles that tell how far they are, and go on when they may."""

    def __init__(self) -> None:
        self.begun, self.may = asyncio.Event(), asyncio.Event()

    async def __call__(self, vm: str, watch: Watch) -> None:
        watch.hear(PhaseStarted("delta", 100))
        watch.hear(Advanced(60, 20))
        watch.hear(Warned("디스크가 느리다\n아주"))
        self.begun.set()
        await self.may.wait()


async def test_machines_are_told_as_they_stand(tmp_path: Path) -> None:
    gate = _Gate()
    async with live_api(configuration(tmp_path), gate) as api, api.client() as client:
        both = (await client.get("/vms")).json()
        assert [machine["vm"] for machine in both] == [OTHER, VM]
        assert both[1] == (await client.get(AT)).json()
        idle = both[1]
        assert (idle["state"], idle["health"], idle["reasons"]) == (
            "initial", "warning", ["there is no recovery point yet"],
        )  # fmt: skip
        assert {key for key, value in idle.items() if value is None} == {
            "last_point", "lag_s", "progress", "next_run", "paused_since", "run", "verification", "verifying",
            "next_verification", "mistake", "kept_clones",
        }  # fmt: skip
        assert idle["rpo_s"] == 3600
        taken = await client.post(f"{AT}/sync")
        assert (taken.status_code, taken.json()["vm"]) == (202, VM)
        assert datetime.fromisoformat(taken.json()["requested_at"]).tzinfo is not None
        await gate.begun.wait()
        busy = (await client.get(AT)).json()
        assert busy["progress"] == {"phase": "delta", "done_bytes": 60, "sent_bytes": 20, "total_bytes": 100}
        assert busy["warnings"] == ["디스크가 느리다\n아주"]
        assert (busy["run"]["number"], busy["run"]["trigger"], busy["run"]["missed"]) == (1, "request", 0)
        gate.may.set()
        async with client.stream("POST", f"{AT}/sync", headers=STREAM) as response:
            assert [told.name async for told in events_of(response)][-1] == "ended"
        done = (await client.get(AT)).json()
        assert (done["state"], done["health"], done["last_point"]["number"]) == ("replicating", "normal", 2)
        assert done["last_point"]["consistency"] == "cold"
        counted = (await client.get(AT)).json()["statistics"]
        assert (counted["done"], counted["failed"], counted["average_sent_bytes"]) == (2, 0, 30)


async def test_history_comes_in_pages_and_from_a_moment_on(tmp_path: Path) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        for _ in range(5):
            await (await api.control.request(VM))
        await (await api.control.request(OTHER))
        numbers, before = [], None
        while True:
            query = {"limit": 2} | ({"before": before} if before else {})
            page = (await client.get(f"{AT}/runs", params=query)).json()
            assert len(page["runs"]) <= 2
            numbers += [run["number"] for run in page["runs"]]
            before = page["next_before"]
            if before is None:
                break
        assert numbers == [5, 4, 3, 2, 1]
        [run] = (await client.get(f"/vms/{OTHER}/runs")).json()["runs"]
        assert {key: run[key] for key in ("vm", "number", "outcome", "kind", "point", "sent_bytes", "failure")} == {
            "vm": OTHER, "number": 6, "outcome": "done", "kind": "delta", "point": 6, "sent_bytes": 30, "failure": None,
        }  # fmt: skip
        begun = datetime.fromisoformat(run["started_at"])
        for since, count in ((begun, 1), (begun + timedelta(seconds=1), 0)):
            page = (await client.get(f"/vms/{OTHER}/runs", params={"since": since.isoformat()})).json()
            assert len(page["runs"]) == count


async def test_a_cycle_that_failed_is_told_with_its_sentence(tmp_path: Path) -> None:
    async def lost(vm: str, watch: Watch) -> None:
        raise UnreachableError("write", "nas", "the connection was lost")

    async with live_api(configuration(tmp_path), lost) as api, api.client() as client:
        async with client.stream("POST", f"{AT}/sync", headers=STREAM) as response:
            *_, last = [told async for told in events_of(response)]
        assert (last.name, last.data["outcome"]) == ("ended", "failed")
        failure = (await client.get(f"{AT}/runs")).json()["runs"][0]["failure"]
        assert failure == last.data["failure"]
        assert (failure["error"], failure["severity"]) == ("UnreachableError", "transient")
        assert failure["text"] == "cannot write nas: the connection was lost"


async def test_a_stream_follows_the_cycle_asked_for_and_not_the_one_before_it(tmp_path: Path) -> None:
    gates = [_Gate(), _Gate()]
    left = iter(gates)

    async def work(vm: str, watch: Watch) -> None:
        await next(left)(vm, watch)

    async with live_api(configuration(tmp_path), work) as api, api.client() as client:
        await client.post(f"{AT}/sync")
        await gates[0].begun.wait()
        told = []
        async with client.stream("POST", f"{AT}/sync", headers=STREAM) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for one in events_of(response):
                told.append(one)
                if one.name == "waiting":
                    assert one.data == {"behind": "delta"}
                    gates[0].may.set()
                if one.name == "progress" and one.data["phase"] == "delta":
                    gates[1].may.set()
        names = [one.name for one in told]
        assert names[0] == "waiting"
        assert {"progress", "warning"} <= set(names)
        assert (names[-1], names.count("ended")) == ("ended", 1)
        assert (told[-1].data["number"], told[-1].data["outcome"]) == (2, "done")
        assert [one.data for one in told if one.name == "warning"] == [{"text": "디스크가 느리다\n아주"}]


async def test_leaving_a_stream_does_not_stop_the_cycle(tmp_path: Path) -> None:
    gate = _Gate()
    async with live_api(configuration(tmp_path), gate) as api, api.client() as client:
        with api.hub.subscription() as events:
            async with client.stream("POST", f"{AT}/sync", headers=STREAM) as response:
                await anext(events_of(response))
                await gate.begun.wait()
            gate.may.set()
            while not isinstance(happened := await events.get(), CycleEnded):
                pass
        assert happened.run.outcome == "done"


async def test_a_pause_ends_the_stream_of_a_cycle_that_will_not_begin(tmp_path: Path) -> None:
    gate = _Gate()
    async with live_api(configuration(tmp_path), gate) as api, api.client() as client:
        await client.post(f"{AT}/sync")
        await gate.begun.wait()
        async with client.stream("POST", f"{AT}/sync", headers=STREAM) as response:
            told = events_of(response)
            assert (await anext(told)).name == "waiting"
            paused = (await client.post(f"{AT}/pause")).json()
            *_, last = [one async for one in told]
        assert last.name == "cancelled"
        assert last.data["text"].startswith("the machine was paused")
        assert (paused["state"], paused["run"]) == ("paused", None)
        assert paused["paused_since"] is not None
        refused = await client.post(f"{AT}/sync")
        assert _error(refused) == (409, "BusyError", 5)
        assert f"Run 'replicad resume {VM}' first" in refused.json()["error"]["text"]
        resumed = (await client.post(f"{AT}/resume")).json()
        assert (resumed["paused_since"], resumed["state"]) == (None, "initial")


async def test_what_a_tracker_was_wrong_about_is_a_warning_until_it_is_acknowledged(tmp_path: Path) -> None:
    """A standalone sync found it: the daemon hears of it from the point's record, at its next cycle."""
    wrong = Trust(16, 99, Mistake(Provenance.EXTENTS, 7, 1, WHEN))
    disk = DiskState(
        "22" * 16, "웹 🖥.vhdx", FileKind.DISK, 1 << 20, 1 << 16, Change.DELTA, Provenance.FULL_SCAN,
        ManifestReference(3, "33" * 32), None, Statistics(), wrong,
    )  # fmt: skip
    point = RecoveryPoint(
        1, "r", VM, 1, None, WHEN, CycleKind.DELTA, Consistency.CRASH, 1, "h", (disk,), (), (), Statistics()
    )
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(live_api(configuration(tmp_path), points={VM: [point]}))
        client = await stack.enter_async_context(api.client())
        assert (await client.get(AT)).json()["mistake"] is None
        for _ in range(2):
            async with client.stream("POST", f"{AT}/sync", headers={"Accept": "text/event-stream"}) as response:
                _ = [one async for one in events_of(response)]
            found = (await client.get(AT)).json()
            assert (found["health"], found["mistake"]["point"]) == ("warning", 1)
            assert "웹 🖥.vhdx: extents called chunk 7 unchanged" in found["mistake"]["text"]
            assert f"'replicad acknowledge {VM}'" in found["reasons"][0]
        for _ in range(2):
            answer = await client.post(f"{AT}/acknowledge")
            assert (answer.status_code, answer.json()["health"], answer.json()["mistake"]) == (200, "normal", None)
        async with client.stream("POST", f"{AT}/sync", headers={"Accept": "text/event-stream"}) as response:
            _ = [one async for one in events_of(response)]
        assert (await client.get(AT)).json()["health"] == "normal"
        (told,) = (await client.get(f"{AT}/points")).json()["points"][0]["disks"]
        assert (told["provenance"], told["note"]) == ("full-scan", "")
        assert told["trust"] == {"checked_chunks": 16, "unchanged_chunks": 99, "wrong_chunks": 1, "tracker": "extents"}
        assert _error(await client.post("/vms/none/acknowledge")) == (404, "NotFoundError", 10)


async def test_all_events_reach_all_who_listen(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(live_api(configuration(tmp_path)))
        client, second = [await stack.enter_async_context(api.client()) for _ in range(2)]
        async with client.stream("GET", "/events") as one, second.stream("GET", "/events") as other:
            listening = [events_of(one), events_of(other)]
            for told in listening:
                assert (await anext(told)).name == ""
            api.hub.tell(Trouble(None, "시계"))
            await client.post(f"{AT}/sync")
            for told in listening:
                names = []
                async for event in told:
                    names.append(event.name)
                    if event.name == "trouble":
                        assert event.data == {"vm": None, "text": "시계"}
                    if event.name == "ended":
                        assert (event.data["vm"], event.data["outcome"]) == (VM, "done")
                        break
                assert names == ["trouble", "machine", "began", "ended"]


async def _listen_and_never_read(path: Path) -> asyncio.StreamWriter:
    """A connection to the events that takes a few KiB more, and no more."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1024)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b":\n\n")
    return writer


async def test_a_listener_that_never_reads_holds_a_bounded_amount_and_nobody_up(tmp_path: Path) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        writer = await _listen_and_never_read(api.path)
        queues = api.hub._queues
        assert len(queues) == 1
        for n in range(20_000):
            api.hub.tell(Trouble(VM, f"{n} " + "긴 문장 " * 40))
            if n % 50 == 0:
                await asyncio.sleep(0)
        assert [queue.qsize() for queue in queues] == [256]
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        writer.transport.abort()
        async with asyncio.timeout(10):
            while queues:  # noqa: ASYNC110  nothing tells when the server has noticed
                await asyncio.sleep(0.01)


async def test_who_holds_many_connections_keeps_no_others_from_the_other_door(tmp_path: Path) -> None:
    port = free_port()
    async with live_api(configuration(tmp_path, tcp_port=port)) as api, api.client() as client:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        await client.get("/healthz")
        reader, one_more = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert (await client.get("/healthz")).status_code == 200
        for _, writer in held:
            writer.close()
        one_more.close()


@pytest.mark.parametrize(
    "begun",
    [
        "",
        "GET / HTTP/1.1\r\nHost: localhost\r\n",
        "POST /dashboard/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nG",
    ],
)
async def test_who_never_ends_a_request_is_cut_off_and_a_stream_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    monkeypatch.setattr(server, "WHOLE_REQUEST_S", 0.5)
    port = free_port()
    async with (
        live_api(configuration(tmp_path, tcp_port=port)) as api,
        api.client() as client,
        client.stream("GET", "/events") as stream,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun.encode())
        told = asyncio.create_task(reader.read())
        async with asyncio.timeout(10):
            while not told.done():  # each byte comes in time, but for none at all
                await asyncio.wait([told], timeout=0.1)
                writer.write(b"x" if begun else b"")
        with suppress(ConnectionResetError):
            assert (await told)[:13] in (b"", b"HTTP/1.1 200 ")
        writer.close()
        await asyncio.sleep(0.6)
        api.hub.tell(Trouble(None, "still here"))
        async for happened in events_of(stream):
            if happened.name == "trouble":
                break


async def test_stopping_ends_streams_and_cuts_off_who_does_not_read(tmp_path: Path) -> None:
    gate = _Gate()
    async with live_api(configuration(tmp_path), gate) as api, api.client() as client:
        writer = await _listen_and_never_read(api.path)
        idle_reader, idle_writer = await asyncio.open_unix_connection(api.path)
        async with (
            client.stream("GET", "/events") as events,
            client.stream("POST", f"{AT}/sync", headers=STREAM) as sync,
        ):
            listening, following = events_of(events), events_of(sync)
            await anext(listening)
            await gate.begun.wait()
            for n in range(5_000):
                api.hub.tell(Trouble(VM, f"{n} " + "긴 문장 " * 40))
            async with asyncio.timeout(2):
                await api.stop()
            last = [told async for told in following][-1]
            assert (last.name, last.data["text"].startswith("the daemon is stopping")) == ("cancelled", True)
        assert await idle_reader.read() == b""
        for one in (writer, idle_writer):
            one.close()
        assert api.path.exists()  # until the doors are shut, which is the daemon's last act
    assert not api.path.exists()


async def test_a_daemon_that_ends_while_a_cycle_runs_tells_how_that_ended(tmp_path: Path) -> None:
    gate = _Gate()
    async with live_api(configuration(tmp_path), gate) as api, api.client() as client:
        async with client.stream("POST", f"{AT}/sync", headers=STREAM) as response:
            told = events_of(response)
            await anext(told)
            await gate.begun.wait()
            api.supervising.cancel()
            api.serving.cancel()
            *_, last = [one async for one in told]
        assert (last.name, last.data["outcome"]) == ("ended", "interrupted")


async def test_a_reload_takes_all_or_tells_all_that_is_wrong(tmp_path: Path) -> None:
    wrong: list[SettingsError] = []

    async def reload() -> None:
        if wrong:
            raise wrong[0]

    async with live_api(configuration(tmp_path), reload=reload) as api, api.client() as client:
        assert (await client.post("/reload")).json() == {"machines": 2}
        with pytest.raises(SettingsError) as caught:
            parse(b"virtual_machines: {web: {sorce: /a}}\nstate: x\n", tmp_path / "설정.yaml", {})
        wrong.append(caught.value)
        refused = await client.post("/reload")
        assert _error(refused) == (400, "SettingsError", 2)
        text = refused.json()["error"]["text"]
        assert text == str(caught.value)
        assert len(text.splitlines()) >= 3


async def test_errors_have_one_shape(tmp_path: Path) -> None:
    async def locked() -> None:
        raise LockedError("take", "it", "another does")

    async with live_api(configuration(tmp_path), reload=locked) as api, api.client() as client:
        for method, path, wanted in (
            ("GET", "/vms/nobody", (404, "NotFoundError", 10)),
            ("GET", "/vms/%FF%00%0A", (404, "NotFoundError", 10)),
            ("POST", "/vms/nobody/sync", (404, "NotFoundError", 10)),
            ("POST", "/vms/nobody/pause", (404, "NotFoundError", 10)),
            ("GET", "/vms/nobody/runs", (404, "NotFoundError", 10)),
            ("GET", "/nothing", (404, "NotFoundError", 10)),
            ("GET", "/vms/", (404, "NotFoundError", 10)),
            ("DELETE", "/vms", (405, "UnsupportedError", 1)),
            ("GET", f"{AT}/runs?limit=0", (422, "ConfigError", 2)),
            ("GET", f"{AT}/runs?limit=many", (422, "ConfigError", 2)),
            ("GET", f"{AT}/runs?before=99999999999999999999", (422, "ConfigError", 2)),
            ("GET", f"{AT}/runs?since=2026-01-01T00:00:00", (422, "ConfigError", 2)),
            ("GET", f"{AT}/runs?since=0001-01-01T00:00:00%2B14:00", (400, "ConfigError", 2)),
            ("POST", "/reload", (409, "LockedError", 11)),
        ):
            response = await client.request(method, path)
            assert _error(response) == wanted, (method, path)
            assert "\n" not in response.json()["error"]["text"]
        for body, wanted in (
            (b'{"resync": "hunter2"}', (422, "ConfigError", 2)),
            (b'{"resink": true}', (422, "ConfigError", 2)),
            (b"{", (400, "ConfigError", 2)),
            (b"\xff", (400, "ConfigError", 2)),
            (b"[" * 60_000, (400, "ConfigError", 2)),
            (b" " * 70_000, (413, "ConfigError", 2)),
        ):
            response = await client.post(f"{AT}/sync", content=body, headers={"Content-Type": "application/json"})
            assert _error(response) == wanted, body[:20]
            assert "hunter2" not in response.text

        async def endless() -> object:
            yield b"x"

        assert _error(await client.post(f"{AT}/sync", content=endless())) == (411, "ConfigError", 2)  # type: ignore[arg-type]  # an iterator


async def test_a_defect_is_told_without_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def defective() -> None:
        raise KeyError("hunter2")

    async with live_api(configuration(tmp_path), reload=defective) as api, api.client() as client:
        response = await client.post("/reload")
        assert _error(response) == (500, "InternalError", 1)
        assert "hunter2" not in response.text
        assert (await client.get("/healthz")).status_code == 200
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:80"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "localhost:99999999"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "https://localhost"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 403),
    ],
    ids=str,
)
async def test_who_names_another_host_or_comes_from_another_page_is_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        for path in ("/vms", "/healthz", "/openapi.json"):
            response = await client.get(path, headers=headers)
            assert response.status_code == status
            if status == 403:
                assert _error(response) == (403, "AccessDeniedError", 12)


async def test_on_tcp_only_who_knows_the_token_is_answered(tmp_path: Path) -> None:
    port = free_port()
    settings = configuration(tmp_path, tcp_port=port)
    base = f"http://127.0.0.1:{port}"
    async with live_api(settings) as api, httpx.AsyncClient(base_url=base) as client, api.client() as own:
        assert (await own.get("/vms")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        for given in (
            None,
            "",
            "Bearer",
            f"Basic {TOKEN}",
            f"Bearer  {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            TOKEN,
        ):
            for path in ("/vms", "/metrics", "/openapi.json", "/nothing", "/readyz"):
                response = await client.get(path, headers={"Authorization": given} if given is not None else {})
                assert _error(response) == (401, "SignInError", 12)
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert TOKEN not in response.text
        right = {"Authorization": f"bearer {TOKEN}"}
        assert (await client.get("/vms", headers=right)).status_code == 200
        assert (await client.get("/vms", headers={**right, "Host": f"localhost:{port}"})).status_code == 200
        assert (await client.get("/vms", headers={**right, "Host": "192.0.2.7"})).status_code == 403
        origin = {**right, "Origin": base}
        assert (await client.post("/reload", headers=origin)).status_code == 200
        origin = {**right, "Origin": "http://127.0.0.1:1"}
        assert _error(await client.post("/reload", headers=origin)) == (403, "AccessDeniedError", 12)
        repeated = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")]
        assert (await client.get("/vms", headers=repeated)).status_code == 401


async def test_figures_are_of_the_machines_and_of_their_cycles(tmp_path: Path) -> None:
    left = [None, UnreachableError("write", "nas", "it was lost")]

    async def work(vm: str, watch: Watch) -> None:
        if (error := left.pop(0)) is not None:
            raise error

    async with live_api(configuration(tmp_path), work) as api, api.client() as client:
        for _ in range(2):
            await (await api.control.request(VM))
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = response.text.splitlines()
        for line in (
            f'replicad_vm_health{{health="warning",vm="{VM}"}} 1.0',
            f'replicad_vm_state{{state="replicating",vm="{VM}"}} 1.0',
            f'replicad_vm_state{{state="error",vm="{VM}"}} 0.0',
            f'replicad_vm_objective_seconds{{vm="{OTHER}"}} 3600.0',
            f'replicad_vm_last_point_number{{vm="{VM}"}} 1.0',
            f'replicad_vm_failures{{vm="{VM}"}} 1.0',
            f'replicad_cycles_total{{outcome="done",vm="{VM}"}} 1.0',
            f'replicad_cycles_total{{outcome="failed",vm="{VM}"}} 1.0',
            f'replicad_cycles_total{{outcome="done",vm="{OTHER}"}} 0.0',
            f'replicad_sent_bytes_total{{vm="{VM}"}} 30.0',
            "replicad_machines 2.0",
            "replicad_cycles_running 0.0",
            "replicad_log_lines_dropped_total 7.0",
        ):
            assert line in lines or re.sub(r"\{(.*),(.*)\}", r"{\2,\1}", line) in lines, line
        told = set(re.findall(r"^# TYPE (replicad_\w+)", response.text, re.MULTILINE))
        page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
        assert told == set(re.findall(r"^\| `(replicad_\w+)`", page, re.MULTILINE))
        assert any(line.startswith(f'replicad_vm_retry_timestamp_seconds{{vm="{VM}"}}') for line in lines)
        assert not any(line.startswith(f'replicad_vm_lag_seconds{{vm="{OTHER}"}}') for line in lines)


async def test_the_socket_is_its_owners_alone_from_the_start(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_doors(configuration(tmp_path), print) as (door,):
            assert door.socket.getsockname() == str(tmp_path / "api.sock")
            assert stat.S_IMODE((tmp_path / "api.sock").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_socket_of_a_daemon_that_died_is_replaced_and_anything_else_left_alone(tmp_path: Path) -> None:
    settings = configuration(tmp_path)
    with open_doors(settings, print):
        (tmp_path / "stale").hardlink_to(tmp_path / "api.sock")
    (tmp_path / "stale").rename(tmp_path / "api.sock")
    with open_doors(settings, print):
        assert (tmp_path / "api.sock").is_socket()
    assert not (tmp_path / "api.sock").exists()
    (tmp_path / "api.sock").write_text("mine")
    with pytest.raises(PermanentError, match="something else lies there"), open_doors(settings, print):
        pass
    assert (tmp_path / "api.sock").read_text() == "mine"


def test_a_state_directory_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    long = tmp_path / ("가" * 40)
    long.mkdir()
    with (
        pytest.raises(ConfigError, match=r"at most 107. Give a shorter 'state_dir:'\."),
        open_doors(configuration(long), print),
    ):
        pass


def test_an_address_in_use_and_a_token_that_is_none_are_refused(tmp_path: Path) -> None:
    port = free_port()
    settings = configuration(tmp_path, tcp_port=port)
    (tmp_path / "other").mkdir()
    other = configuration(tmp_path / "other", tcp_port=port)
    with (
        open_doors(settings, print),
        pytest.raises(BusyError, match="another program listens there"),
        open_doors(other, print),
    ):
        pass
    for token in ("", "short", "with a space in the middle", "토큰" * 10, "two\nlines, each long enough"):
        (tmp_path / "api.token").write_text(token)
        with pytest.raises(ConfigError, match="the token of the API") as caught, open_doors(settings, print):
            pass
        assert token == "" or token not in str(caught.value)
        assert not (tmp_path / "api.sock").exists()
    (tmp_path / "api.token").write_text(TOKEN)
    (tmp_path / "api.token").chmod(0o644)
    warnings: list[str] = []
    with open_doors(settings, warnings.append):
        assert any("the token file" in text and "chmod 600" in text for text in warnings)


async def test_points_are_those_of_the_replica_and_what_keeps_each_one(tmp_path: Path) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        assert (await client.get(f"{AT}/points")).json()["points"] == []
        for _ in range(3):
            await (await api.control.request(VM))
        known = (await client.get(f"{AT}/points")).json()
        assert [point["number"] for point in known["points"]] == [1, 2, 3]
        assert known["pending"] is None
        assert datetime.fromisoformat(known["read_at"]).tzinfo is not None
        assert set(known["points"][0]) == {
            "number", "time", "kind", "consistency", "changed_bytes", "sent_bytes", "undo_bytes", "disks", "removed",
            "kept_by", "warnings",
        }  # fmt: skip
        assert [point["kept_by"][0] for point in known["points"]] == ["latest"] * 3
        assert (await client.get(f"/vms/{OTHER}/points")).json()["points"] == []
        assert _error(await client.get("/vms/nobody/points")) == (404, "NotFoundError", 10)
