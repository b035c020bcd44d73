"""Alerts and the dashboard, as Prometheus itself takes them, over what the daemon's own /metrics prints."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicad.model.errors import UnreachableError
from replicad.service.watch import Watch
from replicad.settings.document import read_document
from tests.support.live_api import OTHER, TOKEN, VM, configuration, free_port, live_api, live_api_on_a_thread

MONITORING = Path(__file__).parents[2] / "monitoring"
METRICS_PAGE = MONITORING.parent / "docs" / "metrics.md"
_NAME = re.compile(r"\b(?:replicad|process)_[a-z_]+\b")
_PATIENCE_S = 100.0


def _promtool(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=100, check=False, **options)


def _yaml(name: str) -> Any:
    document = read_document((MONITORING / name).read_text(encoding="utf-8"))
    assert document.complaints == ()
    return document.value


def _rules() -> list[dict[str, Any]]:
    return [rule for group in _yaml("alerts.yaml")["groups"] for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return found


def _queries() -> list[str]:
    """What the dashboard asks, with its variables as they are at first."""
    dashboard = _dashboard()
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [one["expr"] for one in dashboard["annotations"]["list"]]
    variables = {"$job": "replicad", "$instance": ".*", "$vm": ".*", "$__rate_interval": "1m"}
    for name, value in variables.items():
        asked = [query.replace(name, value) for query in asked]
    assert not [query for query in asked if "$" in query]
    return asked


async def _fails_or_works(vm: str, watch: Watch) -> None:
    if vm == OTHER:
        raise UnreachableError("connect to", "nas1", "it is away")


async def _printed(directory: Path) -> str:
    async with live_api(configuration(directory), _fails_or_works) as api, api.client() as client:
        for vm in (VM, OTHER):
            await (await api.control.request(vm))
        return (await client.get("/metrics")).text


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What /metrics says after a cycle that is done and one that failed."""
    return asyncio.run(_printed(tmp_path_factory.mktemp("api")))


def _names(printed: str) -> set[str]:
    families = re.findall(r"^# TYPE (\S+) (\S+)", printed, re.MULTILINE)
    return {name + end for name, kind in families for end in (("", "_sum", "_count") if kind == "summary" else ("",))}


def test_the_rules_are_sound_and_do_what_their_tests_say() -> None:
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = _promtool(*arguments, cwd=MONITORING)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_in_which_it_comes_and_one_in_which_it_does_not() -> None:
    expected: dict[bool, set[str]] = {True: set(), False: set()}
    for test in _yaml("alerts.test.yaml")["tests"]:
        for one in test["alert_rule_test"]:
            expected[bool(one["exp_alerts"])].add(one["alertname"])
    alerts = {rule["alert"] for rule in _rules()}
    assert expected == {True: alerts, False: alerts}


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in _rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_what_the_daemon_prints_is_as_prometheus_wants_it(printed: str) -> None:
    done = _promtool("check", "metrics", input=printed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_figure_that_is_named_is_printed(printed: str) -> None:
    there = _names(printed)
    for text in (*(rule["expr"] for rule in _rules()), *_queries()):
        named = set(_NAME.findall(text))
        assert named or "up{" in text, text
        assert named <= there, text
    variables = [variable.get("definition", "") for variable in _dashboard()["templating"]["list"]]
    assert set(_NAME.findall(" ".join(variables))) <= there


def test_the_page_has_every_figure_and_no_other(printed: str) -> None:
    page = METRICS_PAGE.read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(replicad_[a-z_]+)`", page, re.MULTILINE))
    assert told == {
        name for name in re.findall(r"^# TYPE (\S+)", printed, re.MULTILINE) if name.startswith("replicad_")
    }
    assert {rule["alert"] for rule in _rules()} == set(re.findall(r"^\| `(Replicad[A-Za-z]+)`", page, re.MULTILINE))


def test_no_panel_is_above_another() -> None:
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


@contextmanager
def _prometheus(base: Path, api_port: int) -> Iterator[httpx.Client]:
    program, port = shutil.which("prometheus"), free_port()
    if program is None:
        pytest.skip("prometheus is not installed")
    (base / "token").write_text(TOKEN)
    configuration = f"""\
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [{MONITORING}/alerts.yaml]
scrape_configs:
  - job_name: replicad
    authorization: {{credentials_file: {base}/token}}
    static_configs: [{{targets: ["127.0.0.1:{api_port}"]}}]
"""
    (base / "prometheus.yml").write_text(configuration)
    command = [
        program, f"--config.file={base}/prometheus.yml", f"--storage.tsdb.path={base}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (base / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=base) as process:
        try:
            transport = httpx.HTTPTransport(retries=3)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", transport=transport, timeout=30) as client:
                yield client
        finally:
            process.terminate()


def _result(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    result: list[dict[str, Any]] = answer.json()["data"]["result"]
    return result


def _wait_for(client: httpx.Client, query: str) -> None:
    """Until it has a result."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if _result(client, query):
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        except AssertionError:
            if time.monotonic() > deadline_s:
                raise
        assert time.monotonic() < deadline_s, query
        time.sleep(0.05)


@pytest.mark.timeout(240)
def test_a_prometheus_reads_the_daemon_and_answers_all_that_the_dashboard_asks(tmp_path: Path) -> None:
    port = free_port()
    state = tmp_path / "s"
    state.mkdir()
    settings = configuration(state, tcp_port=port)
    with live_api_on_a_thread(settings, _fails_or_works), _prometheus(tmp_path, port) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for vm in (VM, OTHER):
            url = httpx.URL(f"http://127.0.0.1:{port}").copy_with(path=f"/vms/{vm}/sync")
            assert httpx.post(url, headers=headers, timeout=30).status_code == 202
        _wait_for(client, 'replicad_cycles_total{outcome="failed"} > 0')
        _wait_for(client, 'replicad_cycles_total{outcome="done"} > 0')
        # Two samples, so that rates are known.
        _wait_for(client, "count_over_time(process_cpu_seconds_total[1m]) > 1")
        _wait_for(client, "rate(replicad_sent_bytes_total[1m])")
        for query in _queries():
            found = _result(client, query)
            assert found or "> 0" in query, query
        rules = [rule for group in client.get("/rules").json()["data"]["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == {rule["alert"] for rule in _rules()}
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert [rule["lastError"] for rule in rules if "lastError" in rule] == []
        (age,) = _result(client, f'replicad_vm_lag_seconds{{vm="{VM}"}}')
        assert float(age["value"][1]) < 300
