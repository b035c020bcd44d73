"""The daemon looks at its machines whatever it finds there, and takes a configuration wholly or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from replicad.model.errors import BusyError, NotFoundError
from replicad.model.verification import VerificationPlan
from replicad.service.announcing import Announcer
from replicad.service.configuration import Configuration
from replicad.service.control import MachineView
from replicad.service.lookout import Lookout
from replicad.service.sd_notify import Notifier
from replicad.service.verifying import Verifier
from replicad.settings import Settings, load_settings
from tests.support.live_api import configuration, live_api
from tests.support.virtual_time import SettableClock, passed_s, run

VM, LEAVING = "웹 서버 💾", "db"


class _Machines:
    """Machines that can't be looked at between 100 and 200 seconds, and of which a look takes a minute after that."""

    def __init__(self) -> None:
        self.looks = 0

    async def machines(self) -> list[MachineView]:
        self.looks += 1
        if 100 <= passed_s() < 200:
            raise BusyError("count the cycles in", "/x/catalog.sqlite", "another process has been writing for 5 s")
        if passed_s() >= 200:
            await asyncio.sleep(60)
        return []


class _Manager(Notifier):
    """A service manager that wants to hear every five seconds that we live."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    def watchdog_interval_s(self) -> float | None:
        return 5

    def watchdog(self) -> None:
        self.heard.append(passed_s())

    def status(self, text: str) -> None:
        pass


async def _as_written(settings: Settings) -> Settings:
    return settings


def test_machines_that_can_not_be_looked_at_end_nothing_and_are_told_once() -> None:
    machines, manager = _Machines(), _Manager()

    async def live() -> None:
        clock = SettableClock().clock
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(400):
                await Lookout(machines, manager, Announcer(lambda _: None, clock.now), clock).run()

    with capture_logs() as logs:
        run(live())
    assert [(log["log_level"], "another process has been writing" in log["why"]) for log in logs] == [("warning", True)]
    assert machines.looks >= 20
    assert len(manager.heard) == 80


async def test_machine_that_leaves_just_now_is_left_out_of_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of = Verifier.plan_of

    def left(verifier: Verifier, vm: str) -> VerificationPlan:
        if vm == LEAVING:
            raise NotFoundError("find", vm, "the daemon does not keep it")
        return plan_of(verifier, vm)

    monkeypatch.setattr(Verifier, "plan_of", left)
    async with live_api(configuration(tmp_path, (VM, LEAVING))) as api:
        assert [view.vm for view in await api.control.machines()] == [VM]


async def test_configuration_that_can_not_be_made_ready_for_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replicad.yaml"
    text = f"state_dir: {tmp_path}\nvirtual_machines:\n  a: {{source: /a, replica: /r}}\n"
    path.write_text(text)
    before = load_settings(path, {})
    taken = Configuration(path, {}, before, Notifier.from_environment({}), _as_written)

    async def prepare(*_: object) -> object:
        raise BusyError("read the due times in", "/x/catalog.sqlite", "another process has been writing for 5 s")

    taken.listen(prepare)  # type: ignore[arg-type]  # it never returns
    path.write_text(text.replace("  a:", "  b:"))
    with pytest.raises(BusyError):
        await taken.reload()
    assert taken.settings is before
