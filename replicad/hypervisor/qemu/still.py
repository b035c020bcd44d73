"""A machine that QEMU has stopped, while its disks are moved; and giving its devices others."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from replicad.hypervisor.port import Relocation, SeenAt, Still
from replicad.model.address import Address
from replicad.model.errors import (
    BusyError,
    ConflictError,
    IntegrityError,
    PermanentError,
    ReplicadError,
    UnsupportedError,
)
from replicad.storage.blocking import run_blocking
from replicad.storage.undisturbed import undisturbed

from .freezer import identified, persistently
from .graph import query_graph, reattach
from .guarding import Watchdog
from .leftovers import remove_node
from .monitor import Monitor
from .nodes import file_name, inode_of, query_nodes
from .options import OURS, our_names
from .orders import Command, Orders, run_all
from .process import Inode, inode_as_seen_by
from .qmp import Qmp
from .sockets import MachineIsOffError
from .uses import Use, Uses

_LOOK_UP_TIMEOUT_S = 10.0
_STANDING = ("paused", "prelaunch", "io-error", "internal-error", "guest-panicked", "shutdown", "watchdog")
"""The states of a machine that writes nothing, nor begins to by itself."""


@dataclass(frozen=True, slots=True)
class _Switch:
    """One disk, the names of the nodes that are made for it, and those by which this host sees its file: the new one
    and the old one."""

    use: Use
    file_node: str
    format_node: str
    keeper: str
    name: str = ""
    old_name: str = ""

    def set_to(self, node: str, *, if_used: str | None = None) -> Command:
        if self.use.device is not None:
            arguments = {"path": self.use.device, "property": "drive", "value": node}
            return Command("qom-set", arguments, if_used)
        line = f'qemu-io {self.use.filter} "reopen -o file={node}"'
        return Command("human-monitor-command", {"command-line": line}, if_used)


class QemuStill:
    """A `Still` of a machine that QEMU has stopped, or that its user has."""

    def __init__(
        self, monitor: Monitor, vm: str, seen_at: SeenAt, uses: Uses, runs: bool, held: Still | None, dog: Watchdog
    ) -> None:
        self._monitor = monitor
        self._vm = vm
        self._seen_at = seen_at
        self._held = held
        self.uses = uses
        self.dog = dog
        self.lock = asyncio.Lock()
        self.is_over = False
        """It goes on, or was told to."""
        beginning = f"{OURS}{secrets.token_hex(4)}-"
        self._switches = {
            path: _Switch(use, *our_names(beginning, number, use.options))
            for number, (path, use) in enumerate(sorted(uses.used.items()))
        }
        every = list(self._switches.values())
        # Until it goes on both sides are the same, so whoever is left may well take back what was done.
        self.if_we_die = Orders(_set_back(every), runs, _put_away(every))
        self.orders = Orders((), runs, self.if_we_die.after)
        """What has it go on, as things are."""
        self._known: Qmp | None = None
        self._written: object = None
        self._is_switched = False

    async def begin(self, qmp: Qmp) -> None:
        """Have it stand still. BusyError if it was started anew."""
        if not await self.is_same(qmp):
            raise BusyError("stop", self._vm, "it was started anew", "Try again.")
        for one in self._switches.values():
            # What was given by -drive goes away with its last user, and could not be given back then.
            options = {"driver": "raw", "node-name": one.keeper, "file": one.use.format_node, "read-only": True}
            await qmp.execute("blockdev-add", options)
        if self.orders.resume:
            # QEMU returns when what was under way is done and all disks are flushed.
            await qmp.execute("stop")
        self._written = await _written(qmp)

    async def is_same(self, qmp: Qmp) -> bool:
        """Whether it is the machine that was stopped. While a connection lasts it is not asked again."""
        if qmp is not self._known:
            if await identified(self._monitor, qmp) != self.uses.process:
                return False
            self._known = qmp
        return True

    async def check(self) -> None:
        """As the port says."""
        async with self.lock, self._monitor.session() as qmp:
            await self._check(qmp)
        if self._held is not None:
            await self._held.check()

    async def switch(self, files: Sequence[Relocation], *, may_go_back: bool = True) -> None:
        """As the port says, as only files that QEMU uses at the source are switched, and go back to it where that
        fails. Files of which QEMU uses none are left to who holds them."""
        async with self.lock:
            if self._is_switched:
                raise ValueError(f"{self._vm} was switched already")
            known = [file for file in files if file.path in self._switches]
            if self._held is not None and len(known) < len(files):
                await self._held.switch([file for file in files if file not in known])
            switches = [
                replace(self._switches[f.path], name=self._name_of(f.destination), old_name=self._name_of(f.source))
                for f in known
            ]
            try:
                async with self._monitor.session() as qmp:
                    await self._check(qmp)
                    await self._switch(qmp, switches)
            except BaseException as error:
                await undisturbed(self._back(switches, error))
                raise
            self._is_switched = True

    async def _check(self, qmp: Qmp) -> None:
        why = ""
        if self.is_over:
            why = "it has stood still for as long as it may, and was told to go on"
        elif not await self.is_same(qmp):
            why = "it was started anew"
        elif await _state(qmp) not in _STANDING:
            why = "somebody else had it go on"
        elif await _written(qmp) != self._written:
            why = "it went on meanwhile, and has written"
        if why:
            raise BusyError("keep standing still", self._vm, why, "Try again; look for who else uses its monitors.")

    def _name_of(self, address: Address) -> str:
        name = self._seen_at(address)
        if name is None:
            answer = f"by which name this host sees {address} is not known"
            hint = "Say under 'mounts' where this host sees that share."
            raise UnsupportedError("switch the disks of", self._vm, answer, hint)
        return name

    async def _switch(self, qmp: Qmp, switches: Sequence[_Switch]) -> None:
        def own() -> None:
            for one in switches:
                _own_as(one.old_name, one.name)

        await run_blocking(self._monitor.executor, "look at", "the new disks", own, _LOOK_UP_TIMEOUT_S)
        for one in switches:
            await self._open(qmp, one)
        await self._compare(qmp, switches)
        self.orders = self.if_we_die
        for one in switches:
            if one.use.filter is not None:
                await reattach(qmp, one.use.filter, one.format_node)
            else:
                command = one.set_to(one.format_node)
                await self._asked(one, qmp, command.execute, command.arguments)
        graph = await query_graph(qmp)
        for one in switches:
            if not graph.is_used(one.format_node):
                raise UnsupportedError("switch", f"{one.use.path} of {self._vm}", "QEMU did not do it")
        self.orders = replace(self.if_we_die, before=())

    async def _open(self, qmp: Qmp, one: _Switch) -> None:
        """Open the new file as the old one was."""
        use = one.use
        file: dict[str, object] = {"driver": "file", "node-name": one.file_node, "filename": one.name}
        above: dict[str, object] = {"driver": use.format, "node-name": one.format_node, "file": one.file_node}
        file |= dict(use.caching[use.file_node]) | dict(use.options.file)
        above |= dict(use.caching[use.format_node]) | dict(use.options.format)
        await self._asked(one, qmp, "blockdev-add", file)
        await self._asked(one, qmp, "blockdev-add", above)

    async def _asked(self, one: _Switch, qmp: Qmp, command: str, arguments: Mapping[str, object]) -> None:
        try:
            await qmp.execute(command, arguments)
        except PermanentError as error:
            hint = "Can QEMU's user open that file for writing? docs/qemu.md tells what can be moved while it runs."
            raise UnsupportedError(
                "switch", f"{one.use.path} of {self._vm} to {one.name}", error.answer, hint
            ) from error

    async def _compare(self, qmp: Qmp, switches: Sequence[_Switch]) -> None:
        """See that what was opened is what was meant, and is as large as what it replaces."""
        nodes = {str(node["node-name"]): node for node in await query_nodes(qmp)}

        def look() -> dict[str, tuple[Inode | None, Inode | None]]:
            process = self.uses.process
            return {
                one.name: (inode_as_seen_by(process, file_name(nodes[one.file_node])), inode_of(one.name))
                for one in switches
            }

        files = await run_blocking(self._monitor.executor, "look at", "the new disks", look, _LOOK_UP_TIMEOUT_S)
        for one in switches:
            subject = f"{one.use.path} of {self._vm} to {one.name}"
            new, old = (int(nodes[name]["image"]["virtual-size"]) for name in (one.format_node, one.use.format_node))
            if new != old:
                raise UnsupportedError("switch", subject, f"the machine would see {new} bytes in place of {old}")
            if files[one.name][0] is None or files[one.name][0] != files[one.name][1]:
                raise UnsupportedError("switch", subject, "that name means another file to QEMU than to this process")

    async def _back(self, switches: Sequence[_Switch], why: BaseException) -> None:
        """Have all disks used at the source again. ConflictError if that fails."""
        commands = _set_back(switches)
        left: list[str] = []

        async def once() -> None:
            try:
                async with self._monitor.session() as qmp:
                    if not await self.is_same(qmp):
                        return
                    await run_all(qmp, commands)
                    graph = await query_graph(qmp)
            except MachineIsOffError:
                return
            left[:] = [one.use.path for one in switches if graph.is_used(one.format_node)]

        try:
            await persistently(once)
        except ReplicadError as error:
            hint = "It is tried once more before the machine goes on."
            raise ConflictError("switch back", self._vm, f"{why}; then {error}", hint) from error
        if left:
            hint = "Nothing is lost: until the machine went on both sides were equal. Look which it uses now."
            raise ConflictError("switch back", f"{', '.join(left)} of {self._vm}", f"QEMU refuses to; {why}", hint)


def _set_back(switches: Sequence[_Switch]) -> tuple[Command, ...]:
    """What gives all devices their old disks again that have new ones, and closes those."""
    back = [one.set_to(one.use.format_node, if_used=one.format_node) for one in reversed(switches)]
    closed = [_removed(name) for one in switches for name in (one.format_node, one.file_node)]
    return (*back, *closed)


def _put_away(every: Collection[_Switch]) -> tuple[Command, ...]:
    """What closes the old disks of those that were switched, and what kept them."""
    kept = [_removed(one.keeper) for one in every]
    old = [
        _removed(name, if_used=one.format_node) for one in every for name in (one.use.format_node, one.use.file_node)
    ]
    return (*kept, *old)


def _removed(name: str, *, if_used: str | None = None) -> Command:
    return Command("blockdev-del", {"node-name": name}, if_used, if_there=name)


def _own_as(old: str, new: str) -> None:
    """Let the new file belong to whom the old one does, as far as we may: QEMU has a user of its own."""
    with suppress(OSError):  # then QEMU says whether it can open the file as it is
        was, now = Path(old).lstat(), Path(new).lstat()
        if not stat.S_ISREG(now.st_mode):
            return
        if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
            os.chown(new, was.st_uid, was.st_gid)
        if stat.S_IMODE(was.st_mode) != stat.S_IMODE(now.st_mode):
            Path(new).chmod(stat.S_IMODE(was.st_mode))


async def remove_left_nodes(qmp: Qmp) -> None:
    """Close what a process of ours that died has opened for a move, and nothing uses."""
    left = True
    while left:
        graph = await query_graph(qmp)
        left = False
        for name in graph.names:
            if name.startswith(OURS) and not graph.is_used(name):
                await remove_node(qmp, name)
                left = True


async def is_to_resume(qmp: Qmp, vm: str) -> bool:
    """Whether a machine runs; False if it stands still for good. BusyError if it might begin to write by itself."""
    state = await _state(qmp)
    if state != "running" and state not in _STANDING:
        answer = f"QEMU says of it: {state}"
        raise BusyError("stop", vm, answer, "Wait until it runs, or pause it or switch it off.")
    return state == "running"


async def _state(qmp: Qmp) -> str:
    status = await qmp.execute("query-status")
    return str(status.get("status")) if isinstance(status, dict) else ""


async def _written(qmp: Qmp) -> Mapping[str, tuple[object, ...]]:
    """What devices have written since they are there, which differs once they wrote again."""
    told = await qmp.execute("query-blockstats")
    try:
        return {
            str(one.get("qdev") or one.get("device")): tuple(
                one["stats"][name] for name in ("wr_operations", "wr_bytes", "unmap_operations")
            )
            for one in told
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            "ask what has been written by", qmp.subject, "what it returned is no statistics"
        ) from error
