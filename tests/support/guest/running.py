"""A running guest: real QEMU, a real kernel, real ext4, and a program that writes records and says which are durable.

What it says on its report, a line each: `ready <disks> <number>` with the number of the last record that was there,
`durable <number>` after a record is synced, `absent`, `read-only` or `unmountable <disk>`,
`error <disk> <what> <errno>`, `checked <through> <highest> <torn> <missing>`, `ended`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.guest.arrivals import Arrivals, Gaps, Line, gaps, longest_gap
from tests.support.guest.image import GuestImage

_BOOT_TIMEOUT_S = 60
_LONGEST_SOCKET_PATH = 107
_BAD_LINE = re.compile(
    r"I/O error|EXT4-fs error|Buffer I/O|critical .* error|Kernel panic|JBD2: .*error|EXT4-fs.*corrupt"
)

Accel = Literal["tcg", "kvm", "auto"]


class GuestDiedError(Exception):
    """The guest ended, or did not do what it was waited for; with what its console shows."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the guest writes. A record has from `min_bytes` to `max_bytes`; a `rate_per_s` of 0 is as fast as it can.

    The newest records are kept, `files * per_file` on each disk. On disks that have records already, writing goes on in
    the ring that is there. `churn_bytes_per_s` are written and deleted beside it, and never synced.
    """

    rate_per_s: int = 50
    min_bytes: int = 4096
    max_bytes: int = 64 * 1024
    files: int = 16
    per_file: int = 16
    churn_bytes_per_s: int = 0
    seed: int = 0

    def settings(self) -> list[str]:
        """As the kernel's command line has them."""
        assert 4096 <= self.min_bytes <= self.max_bytes
        assert self.max_bytes % 4096 == 0
        named = {
            "rate": self.rate_per_s,
            "min_bytes": self.min_bytes,
            "max_bytes": self.max_bytes,
            "files": self.files,
            "per_file": self.per_file,
            "churn": self.churn_bytes_per_s,
            "seed": self.seed,
        }
        return [f"guest_{name}={value}" for name, value in named.items()]


@dataclass(frozen=True, slots=True)
class Durable:
    """The last record that the guest said to be synced (0: none yet), and when that came (the monotonic clock)."""

    number: int
    at_s: float


class Guest:
    """A guest that runs. Disk i is the device `disk<i>`; nodes, if named, `disk<i>` (format) and `disk<i>-file`."""

    def __init__(self, process: asyncio.subprocess.Process, arrivals: Arrivals, directory: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.directory = directory
        self.qmp_path = directory / "qmp"
        """The monitor for what is tested."""
        self.own_qmp_path = directory / "own-qmp"
        """A second monitor, for the test itself."""
        self.agent_path = directory / "agent"
        self._arrivals = arrivals
        self._changed = asyncio.Event()
        self._last_console: str | None = None

    @property
    def lines(self) -> list[Line]:
        """All that it reported."""
        return list(self._arrivals.lines)

    @property
    def heartbeats(self) -> list[float]:
        """When each heartbeat came (monotonic clock); there is one every 2 ms while the guest is not paused."""
        return list(self._arrivals.beats_s)

    @property
    def writes(self) -> list[float]:
        """When each record was said to be durable."""
        return [line.at_s for line in self.lines if line.text.startswith("durable ")]

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self.process.returncode is None

    def durable(self) -> Durable:
        """The last record that is on its disk for good."""
        for line in reversed(self._arrivals.lines):
            word, *numbers = line.text.split()
            if word == "durable":
                return Durable(int(numbers[0]), line.at_s)
            if word == "ready":
                return Durable(int(numbers[1]), line.at_s)
        return Durable(0, 0.0)

    async def wait_durable(self, number: int, timeout_s: float = 60) -> Durable:
        """Wait until that record is durable."""
        await self.wait_for(lambda: self.durable().number >= number, f"record {number}", timeout_s)
        return self.durable()

    async def wait_heartbeats(self, more: int, timeout_s: float = 60) -> None:
        """Wait for so many more heartbeats."""
        wanted = len(self._arrivals.beats_s) + more
        self._arrivals.waiting_for_beats += 1
        try:
            await self.wait_for(lambda: len(self._arrivals.beats_s) >= wanted, f"{more} more heartbeats", timeout_s)
        finally:
            self._arrivals.waiting_for_beats -= 1

    async def wait_line(self, start: str, timeout_s: float = 60, *, after: int = 0) -> Line:
        """Wait for a line that starts so, among those from the number `after` on."""
        found: list[Line] = []

        def there() -> bool:
            found[:] = [line for line in self._arrivals.lines[after:] if line.text.startswith(start)]
            return bool(found)

        await self.wait_for(there, f"a line {start!r}", timeout_s)
        return found[0]

    async def wait_for(self, there: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until something is true that the guest's lines tell. Raises `GuestDiedError`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not there():
                    self._changed.clear()
                    if self._over and not there():
                        raise GuestDiedError(self._told(f"the guest ended before {what}"))
                    if not there():
                        await self._changed.wait()
        except TimeoutError:
            raise GuestDiedError(self._told(f"the guest did not get to {what} within {timeout_s:g} s")) from None

    @property
    def _over(self) -> bool:
        """Whether it has ended, and all that it said was read."""
        return not self.alive and (self._arrivals.closed or not self._arrivals.connected)

    def longest_gap(self, since_s: float, until_s: float) -> float:
        """The longest time without a heartbeat, in seconds: how long the guest stood still."""
        assert not self._arrivals.lost_beats, f"{self._arrivals.lost_beats} heartbeats were lost on the way"
        return longest_gap(self._arrivals.beats_s, since_s, until_s)

    def longest_write_gap(self, since_s: float, until_s: float) -> float:
        """The longest time without a durable record: the usual time between two, and how long writing stood still."""
        return longest_gap(self.writes, since_s, until_s)

    def gaps(self, since_s: float, until_s: float) -> Gaps:
        """The times between heartbeats in a span."""
        assert not self._arrivals.lost_beats, f"{self._arrivals.lost_beats} heartbeats were lost on the way"
        return gaps(self._arrivals.beats_s, since_s, until_s)

    @property
    def io_errors(self) -> list[str]:
        """What failed in the guest, as its program and its kernel tell it."""
        return [line.text for line in self.lines if line.text.startswith("error ")] + [
            line for line in self.console().splitlines() if _BAD_LINE.search(line)
        ]

    def console(self) -> str:
        """What the kernel wrote on its console, and QEMU on its standard error."""
        if self._last_console is not None:
            return self._last_console
        texts = [
            (self.directory / name).read_text(errors="replace")
            for name in ("console", "stderr")
            if (self.directory / name).exists()
        ]
        return "\n".join(text for text in texts if text)

    async def hold(self) -> int:
        """Stop writing records, after the one under way. Its number."""
        await self._order("hold", "held ")
        return self.durable().number

    async def go_on(self) -> None:
        """Write again."""
        await self._order("go on", "going on")

    async def set_rate(self, rate_per_s: int) -> None:
        """Write so many records a second from now on; 0: as fast as it can."""
        await self._order(f"rate {rate_per_s}", f"rate {rate_per_s}")

    async def _order(self, order: str, answer: str) -> None:
        after = len(self._arrivals.lines)
        self._arrivals.send(order)
        await self.wait_line(answer, after=after)

    async def power_off(self, timeout_s: float = 60) -> None:
        """Let the guest unmount its disks and switch itself off; wait until QEMU has ended."""
        self._arrivals.send("power off")
        await self.ended(timeout_s)

    async def ended(self, timeout_s: float = 60) -> None:
        """Wait until the guest has switched itself off in good order."""
        await self.wait_line("ended", timeout_s)
        async with asyncio.timeout(timeout_s):
            await self.process.wait()

    async def kill(self) -> None:
        """kill -9 QEMU, and wait until it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await asyncio.shield(self.process.wait())

    def keep_console(self) -> None:
        """Remember what the console showed: its file is going to be removed."""
        self._last_console = self.console()

    def changed(self) -> None:
        """For the reader of the ports: there is something new."""
        self._changed.set()

    def _told(self, what: str) -> str:
        said = "; ".join(line.text for line in self._arrivals.lines[-5:])
        console = "\n".join(self.console().splitlines()[-40:])
        return (
            f"{what} (QEMU's status: {self.process.returncode}); it said last: {said or 'nothing'}; console:\n{console}"
        )


@asynccontextmanager
async def running_guest(
    image: GuestImage,
    disks: Sequence[Path],
    *,
    directory: Path | None = None,
    accel: Accel = "tcg",
    agent: bool = False,
    load: Load | None = None,
    rate: int | None = None,
    node_names: bool = True,
    cache: Literal["none", "writeback"] = "writeback",
    read_only: Sequence[int] = (),
    verify: bool = False,
    expected_disks: int | None = None,
    memory_mib: int = 128,
    more: Sequence[str] = (),
) -> AsyncIterator[Guest]:
    """A guest that has booted, with these disks; QEMU is killed in the end, and if the caller is cancelled.

    The format of a disk follows its suffix (`.vhdx`, `.avhdx`, else raw). Its sockets lie in `directory`, by default a
    new one of its own. `rate` is short for a `load` of that rate. With `node_names` disks are given by `-blockdev`,
    else by `-drive` (`drive<i>`), whose nodes have names that QEMU makes up. With `verify` it only checks the records,
    says so and switches itself off. `expected_disks`, more than there are: the guest misses some. `more` goes to QEMU.
    Raises `GuestDiedError`.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replicad-guest-", dir="/tmp")))
        assert len(os.fsencode(directory / "own-qmp")) <= _LONGEST_SOCKET_PATH, f"{directory} is too long for a socket"
        assert load is None or rate is None, "the load has a rate of its own"
        load = load or Load(rate_per_s=50 if rate is None else rate)
        if accel == "auto":
            accel = await best_accel(image)
        settings = [*load.settings(), f"guest_disks={expected_disks or len(disks)}", f"guest_verify={int(verify)}"]
        there: list[Guest] = []
        arrivals = Arrivals(directory / "report", lambda: there[0].changed() if there else None)
        stack.callback(arrivals.close)
        command = [
            *_machine(image, directory, accel, memory_mib, agent, settings, arrivals.pulse_port),
            *_disk_arguments(disks, node_names, cache, frozenset(read_only)),
            *more,
        ]
        with (directory / "stderr").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=errors, stderr=errors, cwd=directory
            )
        guest = Guest(process, arrivals, directory)
        there.append(guest)
        ending = asyncio.ensure_future(process.wait())
        ending.add_done_callback(lambda done: guest.changed())
        try:
            await guest.wait_line("checked " if verify else "ready ", _BOOT_TIMEOUT_S)
            yield guest
        finally:
            await guest.kill()
            await asyncio.shield(ending)
            guest.keep_console()


def _machine(
    image: GuestImage, directory: Path, accel: str, memory_mib: int, agent: bool, settings: list[str], pulse_port: int
) -> list[str]:
    ports = {"report": ("replicad.report", f"socket,id=report,path={_escaped(directory / 'report')}")}
    if agent:
        socket = f"socket,id=agent,path={_escaped(directory / 'agent')},server=on,wait=off"
        ports["agent"] = ("org.qemu.guest_agent.0", socket)
    command = [
        # QEMU dies with us, whatever happens to us.
        *("setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-M", "q35", "-accel", accel, "-m", str(memory_mib), "-smp", "1", "-name", "replicad-test-guest"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs_with_agent if agent else image.initramfs)),
        *("-append", " ".join(["console=ttyS0", "loglevel=4", "panic=-1", *settings])),
        *("-serial", f"file:{directory / 'console'}"),
        *("-chardev", f"udp,id=pulse,host=127.0.0.1,port={pulse_port},localaddr=127.0.0.1,localport=0"),
        *("-serial", "chardev:pulse"),
        *("-qmp", f"unix:{_escaped(directory / 'qmp')},server=on,wait=off"),
        *("-qmp", f"unix:{_escaped(directory / 'own-qmp')},server=on,wait=off"),
        *("-device", "virtio-serial-pci,id=ports"),
    ]
    for name, (port, chardev) in ports.items():
        command += ["-chardev", chardev, "-device", f"virtserialport,bus=ports.0,chardev={name},name={port}"]
    return command


def _disk_arguments(disks: Sequence[Path], node_names: bool, cache: str, read_only: frozenset[int]) -> list[str]:
    arguments = []
    for number, path in enumerate(disks):
        name = f"disk{number}"
        kind = "vhdx" if path.suffix.lower() in {".vhdx", ".avhdx"} else "raw"
        locked = number in read_only
        if node_names:
            caching = {"cache": {"direct": cache == "none"}, "read-only": locked}
            file = {"driver": "file", "node-name": f"{name}-file", "filename": str(path), **caching}
            arguments += ["-blockdev", json.dumps(file)]
            arguments += [
                "-blockdev",
                json.dumps({"driver": kind, "node-name": name, "file": f"{name}-file", **caching}),
            ]
        else:
            options = f"if=none,id=drive{number},file={_escaped(path)},format={kind},cache={cache}"
            arguments += ["-drive", options + (",readonly=on" if locked else "")]
        drive = name if node_names else f"drive{number}"
        arguments += ["-device", f"virtio-blk-pci,id={name},drive={drive},serial={name}"]
    return arguments


def _escaped(path: Path) -> str:
    """A path in an option of QEMU's."""
    return str(path).replace(",", ",,")


_accel: dict[Path, Accel] = {}


async def best_accel(image: GuestImage) -> Accel:
    """`kvm` where a guest boots with it within 10 s, else `tcg`; tried once in a process."""
    if image.kernel not in _accel:
        _accel[image.kernel] = "tcg"
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            with contextlib.suppress(GuestDiedError, TimeoutError):
                async with asyncio.timeout(10), running_guest(image, [], accel="kvm"):
                    _accel[image.kernel] = "kvm"
    return _accel[image.kernel]
