"""The dashboard in a real browser: over the real daemon, and over a fleet with a past."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from replicad.model.errors import UnreachableError
from replicad.service.watch import Watch
from tests.support.browser import FAULTS_FOR_READERS, LOW_CONTRASTS, PATIENCE_MS, chromium, visit
from tests.support.daemon import Site, site
from tests.support.dashboard_demo import Fleet, demo_fleet
from tests.support.live_api import TOKEN, configuration, free_port, live_api_on_a_thread
from tests.support.vhdx_builder import MIB, Spec, build

_PROGRAM = [sys.executable, "-c", "import sys; from replicad.cli.main import main; sys.exit(main())"]
_PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
VM = "웹 서버 💾"
HOSTILE = "';alert(1);' &quot; onload=x {{7}} %2F#é 서버 💥"
# The first would be taken wherever htmx finds it, also in an answer that it is not to show.
MARKUP = (
    "<p id='summary' hx-swap-oob='true'>taken over</p></p><script>window.hacked = 1</script>"
    "<img src=x onerror='window.hacked = 2'>\" onfocus=\"hacked"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all of a module's tests."""
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Machines in many states, with a past; nothing changes by itself while it is looked at."""
    with demo_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def _sign_in(page: Page, token: str = TOKEN) -> None:
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type(token)
    page.keyboard.press("Enter")


def _choose(page: Page, vm: str) -> None:
    page.get_by_role("navigation").get_by_role("link").filter(has_text=vm).click()
    expect(page.get_by_role("heading", level=2, name=vm, exact=True)).to_be_visible()


def _is_whole(page: Page) -> None:
    """All pieces of the chosen machine are there."""
    for piece in ("#n-facts", "#h-charts canvas >> nth=1", "#p-points", "#h-cycles"):
        expect(page.locator(piece)).to_be_visible()


def _replicad(place: Site, *arguments: str) -> str:
    done = subprocess.run(
        [*_PROGRAM, *arguments, "--config", str(place.config)], capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A real daemon that keeps a machine in a local directory when asked."""
    with site(tmp_path / "곳") as made:
        for name in ("source", "replica"):
            (made.base / name).mkdir()
        build(Spec(virtual_size=16 * MIB)).save(made.base / "source" / "디스크.vhdx")
        token = made.base / "api.token"
        token.touch(0o600)
        token.write_text(TOKEN)
        machine = {"source": str(made.base / "source"), "replica": str(made.base / "replica"), "rpo": "1h"}
        made.write({}, {VM: machine}, api={"listen": f"127.0.0.1:{free_port()}", "token_file": str(token)})
        yield made


@pytest.mark.skipif(sys.platform != "linux", reason="local shares are held with read leases")
def test_a_machine_is_kept_with_the_keyboard_alone_and_the_page_follows_live(browser: Browser, place: Site) -> None:
    daemon = place.ready()
    url = json.loads(_replicad(place, "dashboard", "--json"))["url"]
    with visit(browser, url) as seen:
        page = seen.page
        assert page.url == url.partition("#")[0]  # the code is gone from the address
        expect(page.get_by_role("heading", level=2, name=VM)).to_be_visible()
        expect(page.locator("#n-title")).to_contain_text("there is no recovery point yet")
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#p-points")).to_contain_text("There is none yet")

        _tab_to(page, "order-sync")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("A cycle begins as soon as there is a place for it")
        expect(page.locator("#n-facts")).to_contain_text("number 1, cold")
        expect(page.locator("#n-title .standing")).to_have_text("normalreplicating")
        expect(page.locator("#changes")).to_contain_text(f"{VM} is now normal, replicating.")
        expect(page.locator("#p-points tbody tr")).to_have_count(1)
        expect(page.locator("#h-cycles")).to_contain_text("point 1 initial")
        expect(page.locator("#order-sync")).to_be_focused()

        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        expect(page.locator("#order-pause")).to_have_text("Resume")
        expect(page.locator("#order-pause")).to_be_focused()
        expect(page.locator("#changes")).to_contain_text(f"{VM} is now warning, paused: replication has been paused")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#said.is-problem")).to_contain_text(f"Run 'replicad resume {VM}' first")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#order-pause")).to_have_text("Pause")
        seen.complaints.clear()  # browsers write each refusal to the console

        shutil.move(place.base / "source", place.base / "away")
        _replicad(place, "sync", VM, "--no-wait")  # somebody else: the page hears of it
        expect(page.locator("#h-cycles .failure").first).to_contain_text(f"{place.base}/source")
        expect(page.locator("#n-title .standing")).to_have_text("criticalerror")

        with page.expect_request(lambda asked: asked.method == "POST" and asked.url.endswith("/verify")) as asked:
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
        assert asked.value.headers["authorization"].startswith("Bearer ")
        expect(page.locator("#said")).to_contain_text("The replica is read back and compared")
        expect(page.locator("#n-facts")).to_contain_text("Last verificationclean")

        # The daemon ends, and another one begins, which knows nothing of who had signed in.
        daemon.terminate()
        expect(page.locator("#link")).to_contain_text("connection lost")
        place.ready()
        expect(page.locator("#token")).to_be_focused()
        expect(page.locator("#panes")).to_be_hidden()
        seen.complaints.clear()
    said = "".join(one.log.path.read_text() for one in place.daemons)
    assert TOKEN not in said
    assert url.partition("code=")[2] not in said
    assert place.complaints() == []


def _tab_to(page: Page, wanted: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == wanted:
            return
    raise AssertionError(f"Tab never comes to {wanted}")


async def _fail(vm: str, watch: Watch) -> None:
    raise UnreachableError("write", MARKUP, MARKUP)


def test_no_name_and_no_sentence_becomes_markup(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    settings = configuration(tmp_path, (HOSTILE, "safe"), tcp_port=port)
    with (
        live_api_on_a_thread(settings, _fail) as api,
        visit(browser, f"http://127.0.0.1:{port}/") as seen,
    ):
        page = seen.page
        _sign_in(page)
        _choose(page, HOSTILE)
        page.get_by_role("button", name="Sync now").click()
        expect(page.locator("#h-cycles .failure").first).to_contain_text(MARKUP)
        expect(page.locator("#n-title .reasons").first).to_contain_text(MARKUP)
        assert [run.vm for run in api.history()] == [HOSTILE]
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#order-pause")).to_have_text("Resume")
        expect(page.locator("#said")).to_contain_text(HOSTILE)
        expect(page.locator("#changes")).to_contain_text(f"{HOSTILE} is now warning, paused")
        page.reload()  # the address names the machine
        expect(page.get_by_role("heading", level=2, name=HOSTILE, exact=True)).to_be_visible()
        expect(page.locator("#h-cycles .failure").first).to_contain_text(MARKUP)
        expect(page.locator("#summary")).to_contain_text("2 machines")
        assert page.evaluate("window.hacked") is None
        assert page.locator("script").count() == 4
        assert page.locator("img").count() == 0


def test_a_name_that_other_programs_would_break_into_lines_breaks_no_stream(browser: Browser, tmp_path: Path) -> None:
    port, name = free_port(), "한\u2028줄\u2029또"
    settings = configuration(tmp_path, (name,), tcp_port=port)
    with live_api_on_a_thread(settings) as api, visit(browser, f"http://127.0.0.1:{port}/") as seen:
        page = seen.page
        _sign_in(page)
        expect(page.locator("#link-text")).to_have_text("live")
        expect(page.locator("#h-cycles .notice")).to_be_visible()
        api.sync(name)
        expect(page.locator("#h-cycles tbody tr")).to_have_count(1)
        page.wait_for_timeout(1_000)  # who lost the stream asks for it again in half a second
        assert len([url for url in seen.asked if url.endswith("/events")]) == 1


def test_who_has_no_token_sees_nothing_and_who_signs_out_either(browser: Browser, fleet: Fleet) -> None:
    with visit(browser, fleet.url) as seen:
        page = seen.page
        _sign_in(page, "not the token at all")
        expect(page.get_by_role("alert")).to_contain_text("wrong")
        assert page.locator("#rows").count() == 0
        assert seen.complaints.pop().startswith("Failed to load resource: the server responded with a status of 401")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#rows > li")).to_have_count(9)
        assert (
            page.evaluate("[...Object.values(sessionStorage), ...Object.values(localStorage), document.cookie]") != []
        )
        assert TOKEN not in page.content() + page.evaluate("JSON.stringify(sessionStorage) + document.cookie")
        key = page.evaluate("sessionStorage['replicad.key']")
        page.get_by_role("button", name="Sign out").click()
        expect(page.locator("#token")).to_be_focused()
        assert "web01" not in page.content()
        answer = page.request.get(f"{fleet.url}vms", headers={"Authorization": f"Bearer {key}"})
        assert answer.status == 401
        page.goto(f"{fleet.url}#code=used-or-guessed")
        expect(page.get_by_role("alert")).to_contain_text("older than two minutes")
        assert "code" not in page.url
        seen.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_can_be_read_in_the_light_and_in_the_dark_and_aloud(browser: Browser, fleet: Fleet, scheme: str) -> None:
    with visit(browser, fleet.url, color_scheme=scheme, reduced_motion="reduce") as seen:
        page = seen.page
        assert page.evaluate(LOW_CONTRASTS) == []
        assert page.evaluate(FAULTS_FOR_READERS) == []
        _sign_in(page)
        grounds = set()
        for vm in ("file02", "mail01", "archive", "dc01", "web01"):
            _choose(page, vm)
            _is_whole(page)
            page.locator("#p-more, #h-more").evaluate_all("found => found.forEach((one) => one.open = true)")
            assert page.evaluate(LOW_CONTRASTS) == []
            assert page.evaluate(FAULTS_FOR_READERS) == []
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 1
        page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") not in grounds
        assert page.evaluate("getComputedStyle(document.getElementById('said')).transitionDuration") == "0s"


def test_on_a_phone_nothing_has_to_be_moved_sideways(browser: Browser, fleet: Fleet) -> None:
    with visit(browser, fleet.url, **_PHONE) as seen:
        page = seen.page
        _sign_in(page)
        expect(page.locator("#rows > li")).to_have_count(9)
        assert page.get_by_role("main").count() == 0  # one thing at a time
        shown = "[...document.querySelectorAll('.orders button')].filter((one) => one.offsetParent)"
        small = f"{shown}.filter((one) => one.offsetHeight < 44).length"
        expect(page.locator("#move-rows > li")).to_have_count(4)
        assert (page.evaluate(f"{shown}.length"), page.evaluate(small)) == (4, 0)
        for vm in ("file02", "archive", "회계 서버 📒"):
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            _choose(page, vm)
            _is_whole(page)
            page.locator("#p-more, #h-more").evaluate_all("found => found.forEach((one) => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            wide = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
            assert page.evaluate(wide) == 0
            assert page.evaluate(small) == 0
            page.get_by_role("link", name="All machines").click()
            # The page hears of the new address only after the click.
            expect(page.locator(f"#rows > li[data-vm='{vm}'] > a")).to_be_focused()


def test_moves_are_seen_as_they_stand_and_can_be_cancelled_after_a_question(browser: Browser, tmp_path: Path) -> None:
    with demo_fleet(tmp_path) as fleet, visit(browser, fleet.url) as seen:
        page = seen.page
        _sign_in(page)
        rows = page.locator("#move-rows > li")
        expect(rows).to_have_count(4)
        going, waiting, stopped, done = (
            rows.filter(has_text=vm) for vm in ("web02", "build-runner", "회계", "old-files")
        )
        expect(going).to_contain_text("round 3, 66 % · 2 GiB of 3 GiB · 120 MiB sent · would stand still for 0.2 s")
        expect(going).to_contain_text(r"\\nas1\vms\web02 → \\nas3\fast\web02")
        expect(going.get_by_role("progressbar")).to_have_attribute("value", "66")
        expect(waiting).to_contain_text("waiting · begins in 4 h 59 min")
        expect(stopped).to_contain_text("stopped by an error")
        expect(stopped).to_contain_text("3.2 GiB more are needed. Make room.")
        expect(done).to_contain_text("done · stood still for 0.1 s · 2 h 50 min ago")
        expect(done.get_by_role("button")).to_have_count(0)
        assert stopped.get_by_role("button").all_inner_texts() == ["Go on", "Cancel"]
        asked: list[str] = []

        def no(dialog: Dialog) -> None:
            asked.append(dialog.message)
            dialog.dismiss()

        page.once("dialog", no)
        waiting.get_by_role("button", name="Cancel").click()
        assert asked == ["Cancel the move of build-runner? What was copied is removed; the machine stays where it is."]
        expect(waiting).to_contain_text("waiting")
        page.once("dialog", lambda dialog: dialog.accept())
        waiting.get_by_role("button", name="Cancel").click()
        expect(page.locator("#said")).to_contain_text("build-runner: The move is cancelled")
        expect(page.locator("#changes")).to_contain_text("The move of build-runner: cancelled.")
        stopped.get_by_role("button", name="Go on").click()
        expect(page.locator("#said")).to_contain_text("회계 서버 📒: The move goes on")


def test_times_are_told_in_local_time_and_their_titles_in_utc(browser: Browser, fleet: Fleet) -> None:
    with visit(browser, fleet.url, timezone_id="Asia/Seoul") as seen:
        page = seen.page
        _sign_in(page)
        _choose(page, "web01")
        _is_whole(page)
        time = page.locator("#h-cycles tbody time").first
        moment = datetime.fromisoformat(str(time.get_attribute("datetime")))
        assert time.get_attribute("title") == f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        seoul = moment.astimezone(UTC).timestamp() + 9 * 3600
        assert time.text_content() == f"{datetime.fromtimestamp(seoul, UTC):%Y-%m-%d %H:%M:%S}"
        expect(page.locator("#n-facts time").first).to_contain_text("min ago")
        drawn = page.locator("#chart-lag").get_attribute("data-series")
        assert len(json.loads(str(drawn))["lag"]) > 100


async def _well(vm: str, watch: Watch) -> None:
    if vm.startswith("bad"):
        raise UnreachableError("reach", "nas9", "the port is closed")


def test_a_thousand_machines_stay_usable_and_focus_stays_where_it_is(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    machines = tuple(f"vm{n:04}" for n in range(998))
    with (
        live_api_on_a_thread(configuration(tmp_path, (*machines, "bad 1", "zz 끝"), tcp_port=port), _well) as api,
        visit(browser, f"http://127.0.0.1:{port}/") as seen,
    ):
        page = seen.page
        _sign_in(page)
        expect(page.locator("#rows > li")).to_have_count(100)
        expect(page.locator("#summary")).to_contain_text("1,000 machines")
        api.sync("vm0000", "bad 1")
        expect(page.locator("[data-count=troubles]")).to_have_text("999")
        query = page.get_by_role("searchbox")
        query.click()
        page.keyboard.type("끝")
        expect(page.locator("#rows > li")).to_have_count(1)
        expect(page.locator("#rows")).to_contain_text("zz 끝")
        expect(query).to_be_focused()
        query.fill("")
        expect(page.locator("#rows > li")).to_have_count(100)
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("#rows > li")).to_have_count(200)
        # What is well goes down the list while it has the focus; nothing else is touched.
        page.evaluate("document.querySelectorAll('#rows > li').forEach((row) => { row.untouched = true })")
        row = page.locator("#rows > li[data-vm='vm0150'] > a")
        row.focus()
        api.sync("vm0007")
        expect(page.locator("#rows > li[data-vm='vm0007']")).to_have_count(0)
        expect(row).to_be_focused()
        # But that which says when it is tried again.
        touched = (
            "[...document.querySelectorAll('#rows > li')].filter((row) => !row.untouched).map((row) => row.dataset.vm)"
        )
        assert set(page.evaluate(touched)) <= {"vm0200", "bad 1"}
        # One that gets better passes by the one with the focus; that one gets better itself.
        query.fill("vm000")
        expect(page.locator("#rows > li")).to_have_count(10)
        row = page.locator("#rows > li[data-vm='vm0005'] > a")
        row.focus()
        api.sync("vm0002")
        expect(page.locator("#rows > li").last).to_have_attribute("data-vm", "vm0007")
        expect(page.locator("#rows > li[data-vm='vm0002'][data-health=normal]")).to_have_count(1)
        expect(row).to_be_focused()
        api.sync("vm0005")
        expect(page.locator("#rows > li[data-vm='vm0005'][data-health=normal]")).to_have_count(1)
        expect(row).to_be_focused()
        names = page.locator("#rows > li").evaluate_all("rows => rows.map((row) => row.dataset.vm.slice(-1)).join('')")
        assert names == "1346890257"


@pytest.mark.parametrize("width", [320, 800, 1000, 2560])
def test_no_width_breaks_the_page(browser: Browser, fleet: Fleet, width: int) -> None:
    with visit(browser, fleet.url, viewport={"width": width, "height": 700}) as seen:
        _sign_in(seen.page)
        _choose(seen.page, "mail01")
        _is_whole(seen.page)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
