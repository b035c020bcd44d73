"""When changes of a source begin a cycle: debounced, in virtual time; and what the kernel tells of real directories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from replicad.model.address import Address
from replicad.model.agenda import LatestPoint
from replicad.model.errors import SignInError, UnreachableError, UnsupportedError
from replicad.model.points import Consistency
from replicad.service.local_changes import LocalChanges
from replicad.service.watching import Watches
from replicad.settings import Settings
from replicad.settings.load import parse
from tests.support.virtual_time import MONDAY, SettableClock, passed_s, run

VM, OTHER = "웹 서버 💾", "db"
SOON_S = 20.0


def _settings(watch: str = "true", *, machines: tuple[str, ...] = (VM,), servers: str = "") -> Settings:
    text = f"state_dir: /x\nservers: {{{servers}}}\nvirtual_machines:\n"
    for name in machines:
        text += f"  {name}: {{source: '/srv/{name}', replica: /r, exclude: ['*.tmp.vhdx'], watch: {watch}}}\n"
    return parse(text.encode(), Path("/x.yaml"), {})


class Hints:
    """Changes at the times that a test names, in seconds since the start; or an error."""

    def __init__(self, at: list[float], path: str = "디스크/a.vhdx") -> None:
        self.at, self.path = sorted(at), path
        self.error: Exception | None = None
        self.errors = 0
        self.closed = False

    async def wait(self, within_s: float) -> frozenset[str] | None:
        if self.error is not None:
            self.errors += 1
            raise self.error
        left_s = self.at[0] - passed_s() if self.at else within_s + 1
        if left_s > within_s:
            await asyncio.sleep(within_s)
            return None
        await asyncio.sleep(max(0.0, left_s))
        while self.at and self.at[0] <= passed_s() + 1e-6:
            self.at.pop(0)
        return frozenset({self.path} if self.path else ())

    async def close(self) -> None:
        self.closed = True


class _Shares:
    """Sources whose changes are `hints`."""

    def __init__(self, hints: Callable[[Address], Hints]) -> None:
        self._hints = hints

    async def changes(self, address: Address) -> Hints:
        return self._hints(address)

    def give_up(self) -> None:
        pass

    async def __aenter__(self) -> _Shares:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def _given(
    hints: Hints, settings: Settings, seconds: float, latest_of: Callable[[str], LatestPoint | None] = lambda _: None
) -> list[int]:
    """When cycles were asked for."""
    times: list[int] = []

    async def give(vm: str) -> None:
        assert vm == VM
        times.append(round(passed_s()))

    async def live() -> None:
        watches = Watches(settings, give, latest_of, SettableClock().clock, lambda _: _Shares(lambda _: hints))  # type: ignore[arg-type, return-value]  # stands for Shares
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await watches.run()

    run(live())
    assert hints.closed
    return times


def test_cycle_begins_when_it_is_quiet_after_a_change() -> None:
    assert _given(Hints([100, 102, 104]), _settings(), 1000) == [109]


def test_disk_that_is_written_all_the_time_begins_one_cycle_a_minute() -> None:
    times = _given(Hints([second / 2 for second in range(200, 2000)]), _settings(), 999)
    assert times[0] == 160
    assert {later - earlier for earlier, later in pairwise(times)} <= {60, 61, 62}


def test_changes_after_a_cycle_wait_for_their_time() -> None:
    assert _given(Hints([100, 110]), _settings(), 1000) == [105, 165]
    assert _given(Hints([100, 110]), _settings("{quiet: 2s, at_most_every: 4s}"), 1000) == [102, 112]


@pytest.mark.parametrize(("path", "counts"), [("", True), ("a.VHDX", True), ("a.tmp.vhdx", False), ("x.log", False)])
def test_only_files_of_the_machine_count_or_what_nobody_can_name(path: str, counts: bool) -> None:
    assert bool(_given(Hints([100], path), _settings(), 500)) is counts


def test_source_that_can_not_be_watched_now_is_tried_again_and_one_that_never_can_is_not() -> None:
    lost = Hints([100])
    lost.error = UnreachableError("watch", "nas", "it is gone")
    assert _given(lost, _settings(), 1000) == []
    assert lost.errors == 5  # after 1, 2, 4 and 8 minutes
    never = Hints([100])
    never.error = UnsupportedError("watch", "nas", "it does not know how")
    _given(never, _settings(), 1000)
    assert never.errors == 1


def test_sign_in_that_was_refused_is_not_tried_again_before_a_cycle_has_gone_well() -> None:
    refused = Hints([100, 3000])
    refused.error = SignInError("sign in to", "nas", "the password is wrong")
    mended = LatestPoint(2, MONDAY, Consistency.COLD)

    def latest_of(vm: str) -> LatestPoint | None:
        if passed_s() < 2000:
            return None
        assert refused.errors in (0, 1)
        refused.error = None
        return mended

    assert _given(refused, _settings(), 4000, latest_of) == [2005, 3005]
    assert refused.errors == 1


def test_defect_that_one_watch_meets_ends_neither_the_others_nor_silently() -> None:
    defect = Hints([100])
    defect.error = ZeroDivisionError()
    with capture_logs() as logs:
        assert _given(defect, _settings(), 1000) == []
    assert [(log["vm"], "this program has a defect" in log["event"]) for log in logs] == [(VM, True)]


def test_configuration_that_is_taken_adds_and_removes_watches() -> None:
    opened: list[tuple[str, Hints]] = []

    def hints_of(address: Address) -> Hints:
        opened.append((str(address), Hints([])))
        return opened[-1][1]

    async def give(vm: str) -> None:
        raise AssertionError("nothing changed")

    async def live() -> None:
        watches = Watches(_settings(), give, lambda _: None, SettableClock().clock, lambda _: _Shares(hints_of))  # type: ignore[arg-type, return-value]  # as above
        working = asyncio.create_task(watches.run())
        await asyncio.sleep(1)
        steps = [
            (_settings(), [VM]),
            (_settings(machines=(VM, OTHER)), [VM, OTHER]),
            (_settings(machines=(OTHER,)), [OTHER]),
            (_settings("false", machines=(VM, OTHER)), []),
            (_settings(servers="nas: {}"), [VM]),
        ]
        for settings, there in steps:
            watches.apply(settings)
            await asyncio.sleep(1)
            assert sorted(path for path, one in opened if not one.closed) == sorted(f"/srv/{vm}" for vm in there)
        assert [path for path, _ in opened] == [f"/srv/{vm}" for vm in (VM, OTHER, VM)]  # others went on
        working.cancel()
        await asyncio.wait([working])

    run(live())


@pytest.mark.parametrize("value", ["1m", "{quiet: 0s}", "{quite: 5s}", "{quiet: 1m, at_most_every: 5s}", "[]"])
def test_what_is_no_watch_is_refused(value: str) -> None:
    with pytest.raises(Exception, match="watch"):
        _settings(value)


async def _told(hints: LocalChanges) -> frozenset[str]:
    """The next change."""
    found = await hints.wait(SOON_S)
    assert found is not None
    return found


async def test_kernel_tells_of_writes_renames_and_new_directories(tmp_path: Path) -> None:
    source = tmp_path / "원본"
    (source / "안").mkdir(parents=True)
    disk = source / "안" / "디스크 💾.vhdx"
    disk.write_bytes(b"1")
    hints = LocalChanges(str(source))
    try:
        assert await hints.wait(0) is None
        assert disk.read_bytes() == b"1"
        assert await hints.wait(0) is None, "reading is no change"
        with disk.open("r+b") as file:  # it stays open, as that of a machine that runs
            file.write(b"2")
            file.flush()
            assert await _told(hints) == {"안/디스크 💾.vhdx"}
        await _told(hints)
        disk.rename(source / "b.vhdx")
        assert await _told(hints) == {"안/디스크 💾.vhdx", "b.vhdx"}
        (source / "새").mkdir()
        assert await _told(hints) == {"새"}
        (source / "새" / "c.vhdx").write_bytes(b"3")
        assert await _told(hints) == {"새/c.vhdx"}
    finally:
        await hints.close()


async def test_directory_that_is_missing_is_said_and_watched_once_it_is_there(tmp_path: Path) -> None:
    hints = LocalChanges(str(tmp_path / "나중"))
    try:
        with pytest.raises(Exception, match="No such file"):
            await hints.wait(0)
        (tmp_path / "나중").mkdir()
        assert await hints.wait(0) is None
        (tmp_path / "나중" / "a.vhdx").touch()
        assert await _told(hints) == {"a.vhdx"}
    finally:
        await hints.close()
