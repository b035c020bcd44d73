"""Switching a machine by the user's own commands: it goes on with all its disks at one side, whatever happens."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from replicad.hypervisor.port import Usage
from replicad.model.address import LocalAddress
from replicad.model.errors import BusyError, ConfigError, ConflictError, IntegrityError, PermanentError
from replicad.model.moves import Side
from replicad.storage.decorated import DecoratedShare
from replicad.storage.port import OpenMode, ShareFile
from tests.support.cancelling import cancelled_at
from tests.support.commands import VM
from tests.support.switched import DISKS, SWITCH, SwitchedMachine, switch_and_be_killed, switched_machine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts of a POSIX shell")
NEW = "곳"
# After the first of two disks, and not while it is switched back.
ONCE = 'if [ ! -e "$1/once" ]; then : > "$1/once"; %s; fi'


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[SwitchedMachine]:
    async with switched_machine(tmp_path) as machine:
        yield machine


async def _move(machine: SwitchedMachine, switch: str = SWITCH, freeze: str = "", thaw: str = "") -> None:
    async with machine.user(switch, freeze, thaw).still(machine.relocations()) as still:
        await still.check()
        await still.switch(machine.relocations())


@contextmanager
def _written(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield
    finally:
        os.close(descriptor)


async def test_it_is_frozen_switched_and_thawed_and_uses_the_destination(machine: SwitchedMachine) -> None:
    assert await machine.user().usage(machine.relocations()) is Usage.RUNNING
    await _move(machine, SWITCH + 'env -0 > "$1/environ"')
    assert machine.uses == NEW
    assert machine.stage.log == ["freeze", "switch", "thaw"]
    assert machine.stage.left() == []
    root = machine.stage.root
    pairs = dict(pair.partition("=")[::2] for pair in (root / "environ").read_text().split("\0"))
    assert {name: text for name, text in pairs.items() if name.startswith("REPLICAD_")} == {
        "REPLICAD_VM": VM,
        "REPLICAD_PHASE": "switch",
        "REPLICAD_WANTED": "crash",
        "REPLICAD_DISKS": "\n".join(f"{root}/source/{disk}" for disk in DISKS),
        "REPLICAD_NEW_DISKS": "\n".join(f"{root}/{NEW}/{disk}" for disk in DISKS),
    }


async def test_switching_a_machine_that_is_switched_already_goes_well(machine: SwitchedMachine) -> None:
    await _move(machine)
    await _move(machine)
    assert machine.uses == NEW


async def test_without_a_switch_it_goes_on_at_the_source(machine: SwitchedMachine) -> None:
    async with machine.user().still(machine.relocations()) as still:
        await still.check()
    assert machine.stage.log == ["freeze", "thaw"]
    assert machine.uses == "source"


@pytest.mark.parametrize(
    ("between", "answer"),
    [
        ("echo 'no such domain' >&2; exit 7", r"sh ended with status 7 \(it said: no such domain\)"),
        ("kill -9 $$", "sh was ended by signal 9"),
        ("sleep 600", r"did not end within 1 s, and was ended"),
    ],
)
async def test_a_switch_that_fails_half_way_is_taken_back_before_the_thaw(
    machine: SwitchedMachine, between: str, answer: str
) -> None:
    if "sleep" in between:
        machine.stage.timeout_s = 1.0
    script = SWITCH.replace("BETWEEN", ONCE % between)
    if "exit" in between:  # the loop is in a shell of its own
        script += 'if [ "$(wc -l < "$1/turns")" = 1 ]; then exit 7; fi'
    with pytest.raises(BusyError, match=f"cannot switch {VM}: .*{answer}"):
        await _move(machine, script)
    assert machine.uses == "source"
    # A shell that was killed may have left its loop to run on for a moment.
    assert (machine.stage.root / "turns").read_text().split()[:2] == ["switched"] * 2
    assert machine.stage.log == ["freeze", "switch", "switch", "thaw"]
    assert machine.stage.left() == []


async def test_a_switch_that_can_not_be_started_has_switched_nothing(machine: SwitchedMachine) -> None:
    user = machine.user()
    user._switch = ("/no/such/program",)
    with pytest.raises(ConfigError, match=r"/no/such/program can't be started .*Check 'consistency.switch'"):
        async with user.still(machine.relocations()) as still:
            await still.switch(machine.relocations())
    assert machine.stage.log == ["freeze", "thaw"]
    assert machine.stage.left() == []


async def test_a_switch_that_lies_is_found_out_by_the_writer_at_the_source(machine: SwitchedMachine) -> None:
    with (
        _written(machine.stage.root / "source" / DISKS[1]),
        pytest.raises(BusyError, match=r"somebody still has .*둘\.vhdx open for writing"),
    ):
        await _move(machine)
    assert machine.uses == "source"
    assert machine.stage.log == ["freeze", "switch", "switch", "thaw"]
    assert machine.stage.left() == []


async def test_a_machine_that_can_not_be_switched_back_goes_on_and_that_is_said(machine: SwitchedMachine) -> None:
    with pytest.raises(ConflictError, match=r"status 3; and it could not be switched back: .*status 3"):
        await _move(machine, "exit 3")
    assert machine.stage.log == ["freeze", "switch", "switch", "thaw"]
    # It runs: nothing may be done to its disks behind its back later.
    await machine.stage.journal().undo_left(VM)
    assert machine.stage.log == ["freeze", "switch", "switch", "thaw"]
    assert machine.stage.left() == []


async def test_a_freeze_that_lets_the_disks_be_written_is_noticed_and_nothing_is_switched(
    machine: SwitchedMachine,
) -> None:
    async with machine.user().still(machine.relocations()) as still:
        await still.check()
        (machine.stage.root / "source" / DISKS[1]).write_bytes(b"!")
        for step in (still.check(), still.switch(machine.relocations())):
            with pytest.raises(BusyError, match=r"둘\.vhdx was written after 'freeze' had ended"):
                await step
    assert machine.stage.log == ["freeze", "thaw"]
    assert machine.uses == "source"


@pytest.mark.parametrize("phase", ["freeze", "switch", "thaw"])
async def test_killed_in_each_phase_all_disks_are_at_one_side_and_the_machine_goes_on(
    machine: SwitchedMachine, phase: str
) -> None:
    kill = ONCE % "kill -9 $PPID"
    switch = SWITCH.replace("BETWEEN", (kill) if phase == "switch" else ":")
    scripts = {name: kill if name == phase else "" for name in ("freeze", "thaw")}
    switch_and_be_killed(machine.stage.root, switch, scripts["freeze"], scripts["thaw"])
    assert len(machine.stage.left()) == 1
    user = machine.user()
    assert await user.sides(machine.relocations()) == dict.fromkeys([*DISKS, "웹.xml"], Side.NOBODY)
    assert machine.stage.left() == []
    expected = {
        "freeze": ["freeze", "thaw"],
        "switch": ["freeze", "switch", "switch", "thaw"],
        "thaw": ["freeze", "switch", "thaw", "thaw"],
    }
    assert machine.stage.log == expected[phase]
    assert machine.uses == (NEW if phase == "thaw" else "source")


async def test_a_machine_that_went_on_at_the_destination_is_not_switched_back_by_a_later_start(
    machine: SwitchedMachine,
) -> None:
    switch = SWITCH.replace("BETWEEN", ":") + "kill -9 $PPID"
    switch_and_be_killed(machine.stage.root, switch, "", "")
    assert machine.uses == NEW
    (machine.stage.root / NEW / DISKS[0]).write_bytes(b"written since, by a machine that somebody had go on")
    await machine.stage.journal().undo_left(VM)
    assert machine.uses == NEW
    assert machine.stage.log == ["freeze", "switch", "thaw"]
    assert "was not switched back: it has gone on with" in machine.stage.warnings


async def test_a_way_back_that_fails_after_a_crash_is_told_and_it_goes_on(machine: SwitchedMachine) -> None:
    switch_and_be_killed(machine.stage.root, "kill -9 $PPID; exit 5", "", "")
    # The second time its parent is this process, whose number it does not know.
    page = machine.stage.left()[0]
    page.write_text(page.read_text().replace("kill -9 $PPID", ":"))
    await machine.stage.journal().undo_left(VM)
    assert machine.stage.log == ["freeze", "switch", "switch", "thaw"]
    assert "could not be switched back, and goes on with the disks that it has" in machine.stage.warnings
    assert machine.stage.left() == []


async def test_where_a_disk_is_open_for_writing_tells_the_side_and_standing_still_does_not_change_it(
    machine: SwitchedMachine,
) -> None:
    root, user = machine.stage.root, machine.user()
    files = machine.relocations()
    with _written(root / "source" / DISKS[0]), _written(root / NEW / DISKS[1]), _written(root / "source/웹.xml"):
        expected = {DISKS[0]: Side.SOURCE, DISKS[1]: Side.DESTINATION, "웹.xml": Side.NOBODY}
        assert await user.sides(files) == expected
        still = user.still(files)
        await still.__aenter__()
    try:
        assert await user.sides(files) == expected  # though it has closed its disks meanwhile
    finally:
        await still.__aexit__(None, None, None)
    assert set((await user.sides(files)).values()) == {Side.NOBODY}
    with _written(root / "source" / DISKS[0]), _written(root / NEW / DISKS[0]):
        assert (await user.sides(files))[DISKS[0]] is Side.NOBODY


async def test_nobody_is_in_the_way_of_a_machine_that_opens_its_new_disks(machine: SwitchedMachine) -> None:
    opened: list[str] = []

    class Heard(DecoratedShare):
        async def open(self, path: str, mode: OpenMode) -> ShareFile:
            opened.append(path)
            return await super().open(path, mode)

    user = machine.user(place=Heard(machine.destination))
    async with user.still(machine.relocations()) as still:
        opened.clear()
        await still.switch(machine.relocations())
    assert set((await user.sides(machine.relocations())).values()) == {Side.NOBODY}
    assert opened == []
    with _written(machine.stage.root / "source" / DISKS[0]):
        assert (await user.sides(machine.relocations()))[DISKS[0]] is Side.SOURCE


async def test_paths_that_do_not_fit_are_refused_before_a_byte_is_copied(machine: SwitchedMachine) -> None:
    long = [replace(file, destination=LocalAddress("/" + "웹" * 20_000)) for file in machine.relocations()]
    with pytest.raises(PermanentError, match="too long for REPLICAD_NEW_DISKS"):
        await machine.user().usage(long)
    with pytest.raises(PermanentError, match="too long for REPLICAD_NEW_DISKS"):
        async with machine.user().still(long):
            pytest.fail("it was frozen")
    assert machine.stage.log == []


async def test_a_journal_that_makes_no_sense_is_said(machine: SwitchedMachine) -> None:
    switch_and_be_killed(machine.stage.root, "kill -9 $PPID", "", "")
    page = machine.stage.left()[0]
    page.write_text(page.read_text().replace('"states": "{', '"states": "['))
    with pytest.raises(IntegrityError, match="Do it by hand"):
        await machine.stage.journal().undo_left(VM)
    assert machine.stage.log == ["freeze", "switch", "thaw"]


async def test_cancelled_at_any_await_it_goes_on_with_all_disks_at_one_side(tmp_path: Path) -> None:
    ends = set()
    for number in range(1, 400):
        root = tmp_path / str(number)
        root.mkdir()
        async with switched_machine(root) as machine:

            async def cycle(machine: SwitchedMachine = machine) -> None:
                await _move(machine)

            cancelled = await cancelled_at(number, cycle)
            assert machine.uses in ("source", NEW)
            assert machine.stage.left() == []
            assert machine.stage.log == [] or machine.stage.log[-1] == "thaw"
            ends.add(machine.uses)
            if not cancelled:
                assert machine.uses == NEW
                assert ends == {"source", NEW}
                return
            await asyncio.sleep(0)
    pytest.fail("it never ended")
