"""The dashboard over HTTP: who gets what of it, and what it says."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from replicad.model.errors import UnreachableError
from replicad.model.progress import Advanced, PhaseStarted
from replicad.service.watch import Watch
from tests.support.live_api import OTHER, TOKEN, VM, configuration, free_port, live_api

PIECES = ("machines", "moves", *(f"{piece}?vm={quote(VM)}" for piece in ("now", "charts", "points", "cycles")))
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


async def test_who_has_not_signed_in_gets_an_empty_page_and_no_piece(tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with live_api(configuration(tmp_path, tcp_port=port)), httpx.AsyncClient(base_url=base) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert OTHER not in re.findall(r">([^<]*)<", page.text)
        assert VM not in page.text
        assets = re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', page.text)
        assert len(assets) == 7
        for answer in (page, *[await client.get(path) for path in assets]):
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
        for piece in PIECES:
            assert (await client.get(f"/dashboard/{piece}")).status_code == 401
            known = await client.get(f"/dashboard/{piece}", headers=RIGHT)
            assert (known.status_code, known.headers["cache-control"]) == (200, "no-store")
        for path in (
            "/dashboard/assets/%2e%2e%2fviews.py",
            "/dashboard/assets/..%5cviews.py",
            "/dashboard/assets/none.js",
        ):
            assert (await client.get(path, headers=RIGHT)).status_code == 404
        assert (await client.get("/dashboard/assets/LICENSE.htmx")).status_code == 404
        assert (await client.get("/dashboard/now?vm=nobody", headers=RIGHT)).status_code == 404
        for path in ("/", assets[0], "/dashboard/session"):  # a page of another name or origin gets nothing
            for header in (
                {"Host": "evil.example"},
                {"Origin": "http://evil.example"},
                {"Origin": "http://127.0.0.1:1"},
            ):
                assert (await client.get(path, headers=header)).status_code == 403


async def test_a_code_from_the_socket_signs_in_once(tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(live_api(configuration(tmp_path, tcp_port=port)))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=base))
        own = await stack.enter_async_context(api.client())
        assert (await client.post("/dashboard/code")).status_code == 401
        made = (await own.post("/dashboard/code")).json()
        address, _, code = made["url"].partition("#code=")
        assert address == f"{base}/"
        assert (await client.get("/dashboard/session")).json() == {"signed_in": False}
        assert (await own.get("/dashboard/session")).json() == {"signed_in": True}
        for wrong in ({"code": code[:-1]}, {"code": ""}, {"code": "x" * 100}):
            assert (await client.post("/dashboard/session", json=wrong)).status_code == 401
        assert (await client.post("/dashboard/session")).status_code == 401
        assert (await client.post("/dashboard/session", json={"code": "x" * 101})).status_code == 422
        signed_in = await client.post("/dashboard/session", json={"code": code})
        assert signed_in.status_code == 201
        assert "set-cookie" not in signed_in.headers
        assert (await client.post("/dashboard/session", json={"code": code})).status_code == 401
        key = {"Authorization": f"Bearer {signed_in.json()['key']}"}
        assert (await client.get("/vms", headers=key)).status_code == 200
        assert (await client.post(f"/vms/{quote(VM)}/pause", headers=key)).status_code == 200
        assert (await client.get("/dashboard/session", headers=key)).json() == {"signed_in": True}
        # Who has a session only can't make others, with which to stay.
        assert (await client.post("/dashboard/code", headers=key)).status_code == 403
        assert (await client.post("/dashboard/session", headers=key)).status_code == 401
        assert (await client.delete("/dashboard/session", headers=key)).status_code == 204
        assert (await client.get("/vms", headers=key)).status_code == 401
        by_token = await client.post("/dashboard/session", headers=RIGHT)
        assert by_token.status_code == 201
        assert TOKEN not in by_token.text


async def test_without_a_tcp_address_it_is_said_what_to_do(tmp_path: Path) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        refused = await client.post("/dashboard/code")
        assert refused.status_code == 400
        assert "ssh -L" in refused.json()["error"]["text"]
        # The socket itself can be forwarded; who can open it is let in.
        assert (await client.get("/")).status_code == 200
        assert "2 machines" in (await client.get("/dashboard/machines")).text


async def test_pieces_say_what_there_is(tmp_path: Path) -> None:
    async def work(vm: str, watch: Watch) -> None:
        watch.hear(PhaseStarted("delta", 200))
        watch.hear(Advanced(50, 20))
        if vm == OTHER:
            raise UnreachableError("write", "<b>nas</b>", '"it\'s" gone & lost')

    async with live_api(configuration(tmp_path), work) as api, api.client() as client:
        for vm in (VM, VM, OTHER):
            await (await api.control.request(vm))
        pieces = {
            piece: (await client.get(f"/dashboard/{piece}", params={"vm": VM})).text
            for piece in ("now", "charts", "points", "cycles")
        }
        assert "number 2, cold" in pieces["now"]
        assert "2 done" in pieces["now"]
        assert "not yet" in pieces["now"]
        assert "2 points" in pieces["points"]
        assert pieces["points"].count("<circle") == 2
        assert "point 2" in pieces["cycles"]
        assert "the objective is 1 h" in pieces["charts"]
        other = (await client.get("/dashboard/cycles", params={"vm": OTHER})).text
        assert "<b>" not in other
        assert "&lt;b&gt;nas&lt;/b&gt;: &#34;it&#39;s&#34; gone &amp; lost" in other
        listed = (await client.get("/dashboard/machines", params={"query": "db"})).text
        assert listed.count("<li ") == 1
        assert "1 warning" in listed


async def test_points_that_cannot_be_read_are_told_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(vm: str) -> None:
        raise UnreachableError("reach", "nas2", "the port is closed")

    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        monkeypatch.setattr(api.control, "points", unreachable)
        piece = await client.get("/dashboard/points", params={"vm": VM})
        assert piece.status_code == 200
        assert "could not be looked at: cannot reach nas2: the port is closed" in piece.text


async def test_what_is_for_the_page_alone_is_not_part_of_the_api(tmp_path: Path) -> None:
    async with live_api(configuration(tmp_path)) as api, api.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {path for path in paths if path.startswith("/dashboard")} == {"/dashboard/code", "/dashboard/session"}
        assert "/" not in paths
