"""Whether a share is fit to keep disks on: each thing that we need of it is tried, and told in words.

The way to it (name, port, sign-in) is the adapter's, as a `Way`; from the open share on everything is tried through
the port, in one directory of our own that is removed again, whatever happens. A step that fails does not end the
probe: what does not depend on it is tried all the same, the rest is marked as skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from replicad.model.clock import Clock
from replicad.model.errors import AlreadyExistsError, IntegrityError, LockedError, ReplicadError
from replicad.model.names import join
from replicad.storage.documents import remove_tree
from replicad.storage.port import Capabilities, LockHolder, OpenMode, Share
from replicad.storage.together import together

PREFIX = ".replicad-probe-"
"""The directory that a probe works in begins so."""
SPEED_BYTES = 64 * 1024 * 1024

_PIECE_BYTES = 8 * 1024 * 1024
_AT_ONCE = 2
_IMPLAUSIBLE_FLUSH_BYTES_PER_S = 20e9
_MAX_WRITE_TO_JUDGE_S = 4.0
"""After a slower write the server's kernel may have written most of it by itself, so a quick flush proves nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a step found: a clause for people, facts for programs, and sentences about what is not as it should be."""

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step of a probe. `outcome` is `passed`, `failed` or `skipped`; `exit_code` is 0 unless it failed."""

    step: str
    outcome: str
    text: str
    hint: str = ""
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


class Way(Protocol):
    """The way to a share. Whoever made it closes it."""

    @property
    def steps(self) -> Sequence[tuple[str, Callable[[], Awaitable[Finding]]]]:
        """What leads there, in this order; each needs the one before it."""

    async def open(self) -> Share:
        """The share at the end of it, on a connection of its own; each call gives another one."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a probe needs of its surroundings. `random_bytes` gives bytes that can't be compressed."""

    clock: Clock
    random_bytes: Callable[[int], Awaitable[bytes]]
    new_id: Callable[[], str]
    holder: Callable[[], LockHolder]


async def probe(way: Way, means: Means, report: Callable[[StepResult], None]) -> list[StepResult]:
    """Try everything; each result is reported as it comes, and all are returned. Only a cancellation is raised.

    Nothing is left behind but what a connection that was lost midway kept us from removing, which is then a failed
    step of its own.
    """
    steps = _Steps(report)
    previous: tuple[str, ...] = ()
    for name, run in way.steps:
        await steps.run(name, run, previous)
        previous = (name,)
    trial: list[_Trial] = []

    async def open_share() -> Finding:
        trial.append(_Trial(await way.open(), await way.open(), means))
        return await trial[0].list_root()

    await steps.run("list", open_share, previous)
    work = trial[0].work() if trial else {}
    try:
        for name, needs in _PLAN:
            await steps.run(name, work.get(name, _never), needs)
    finally:
        if trial and trial[0].may_have_left_something:
            await steps.run("clean up", trial[0].clean_up, ())
    return steps.results


_PLAN = (
    ("make a directory", ("list",)),
    ("create", ("make a directory",)),
    ("write", ("create",)),
    ("rename", ("write",)),
    ("delete", ("rename",)),
    ("lock", ("write",)),
    ("capabilities", ("list",)),
    ("free space", ("list",)),
    ("write speed", ("write", "free space")),
    ("read speed", ("write speed",)),
)
"""The steps on an open share, each with those that must have passed before."""


_HINTS = {
    "list": "Make the directory, or check its name.",
    "make a directory": "Give the user rights to write there. A share that is only read from does not need them.",
    "create": "See whether the share takes any name; some servers convert or refuse names in other scripts.",
    "write": "See the server's log.",
    "rename": "See the server's log; a replica can't be kept where files can't be replaced.",
    "delete": "Give the user the right to delete.",
    "lock": "See the server's log; without a lock two writers could ruin a replica.",
}
"""What to try when a step fails and the error itself has no hint."""


async def _never() -> Finding:
    raise AssertionError("a step was run although what it needs is missing")


class _Steps:
    def __init__(self, report: Callable[[StepResult], None]) -> None:
        self._report = report
        self.results: list[StepResult] = []

    async def run(self, name: str, work: Callable[[], Awaitable[Finding]], needs: Sequence[str]) -> None:
        missing = [one for one in needs if self._outcome(one) != "passed"]
        if missing:
            result = StepResult(name, "skipped", f"it needs '{missing[0]}'")
        else:
            try:
                found = await work()
            except ReplicadError as error:
                text = f"{error.subject}: {error.answer}"
                hint = error.hint or _HINTS.get(name, "")
                result = StepResult(name, "failed", text, hint, exit_code=error.exit_code)
            else:
                result = StepResult(name, "passed", found.text, "", found.warnings, found.facts)
        self.results.append(result)
        self._report(result)

    def _outcome(self, name: str) -> str:
        return next((one.outcome for one in self.results if one.step == name), "passed")


class _Trial:
    """The steps on an open share. `other` is the same directory on a second connection."""

    def __init__(self, share: Share, other: Share, means: Means) -> None:
        self._share = share
        self._other = other
        self._means = means
        self._directory = PREFIX + means.new_id()[:12]
        self.may_have_left_something = False

    def work(self) -> dict[str, Callable[[], Awaitable[Finding]]]:
        """What is done in each step of the plan."""
        return {
            "make a directory": self.make_directory,
            "create": self.create,
            "write": self.write,
            "rename": self.rename,
            "delete": self.delete,
            "lock": self.lock,
            "capabilities": self.capabilities,
            "free space": self.free_space,
            "write speed": self.write_speed,
            "read speed": self.read_speed,
        }

    async def list_root(self) -> Finding:
        entries = await self._share.list("")
        left = sorted(entry.name for entry in entries if entry.name.startswith(PREFIX))
        warnings = [
            f"{name} was left behind by a probe that was killed, or belongs to one that runs now; it can be deleted "
            "if none runs."
            for name in left
        ]
        return Finding(f"{len(entries)} entries", {"entries": len(entries)}, tuple(warnings))

    async def make_directory(self) -> Finding:
        self.may_have_left_something = True
        await self._share.make_dir(self._directory)
        return Finding(f"{self._directory}, removed at the end")

    async def create(self) -> Finding:
        await (await self._share.open(self._path("시험 🖥.tmp"), OpenMode.CREATE)).close()
        return Finding("files can be created, also with names in any script")

    async def write(self) -> Finding:
        async with await self._share.open(self._path("시험 🖥.tmp"), OpenMode.WRITE) as file:
            await file.write(b"replicad", 0)
            await file.flush()
        async with await self._other.open(self._path("시험 🖥.tmp"), OpenMode.READ) as file:
            buffer = bytearray(9)
            if (await file.read_into(buffer, 0), bytes(buffer[:8])) != (8, b"replicad"):
                raise IntegrityError("read back", self._share.name, "what was written is not what is read")
        return Finding("what is written and flushed is seen by others")

    async def rename(self) -> Finding:
        await (await self._share.open(self._path("old"), OpenMode.CREATE)).close()
        try:
            await self._share.rename(self._path("시험 🖥.tmp"), self._path("old"))
        except AlreadyExistsError:
            pass
        else:
            raise IntegrityError("rename", self._share.name, "an existing file was replaced although we did not ask")
        await self._share.rename(self._path("시험 🖥.tmp"), self._path("old"), replace=True)
        await self._share.flush_directory(self._directory)
        return Finding("files are replaced in one step")

    async def delete(self) -> Finding:
        await self._share.remove(self._path("old"))
        return Finding("files can be deleted")

    async def lock(self) -> Finding:
        path, holder = self._path("replica.lock"), self._means.holder()
        async with await self._share.lock(path, holder) as lock:
            try:
                second = await self._other.lock(path, holder)
            except LockedError:
                pass
            else:
                await second.release()
                raise IntegrityError(
                    "lock", self._share.name, "two connections were given the same lock",
                    "Two writers could ruin a replica here: check what the server does with share modes.",
                )  # fmt: skip
            await lock.check()
        async with await self._other.lock(path, holder):
            pass
        return Finding("a second writer is kept out, and let in afterwards")

    async def capabilities(self) -> Finding:
        found = await self._share.capabilities()
        can = {
            "server-side copy": found.server_copy,
            "sparse files": found.sparse,
            "punching holes": found.zero,
            "telling holes": found.allocated_extents,
            "keeping writers out": found.hold,
            "flushing directories": found.flush_directory,
        }
        words = ", ".join(name if able else f"no {name}" for name, able in can.items())
        return Finding(words, _capability_facts(found), found.notes)

    async def free_space(self) -> Finding:
        free = await self._share.free_bytes()
        if free < SPEED_BYTES:
            warning = f"Less than {SPEED_BYTES >> 20} MiB are free."
            return Finding(f"{free / 1e9:.3g} GB", {"free_bytes": free}, (warning,))
        return Finding(f"{free / 1e9:.1f} GB", {"free_bytes": free})

    async def write_speed(self) -> Finding:
        clock = self._means.clock.monotonic_s
        data = memoryview(await self._means.random_bytes(SPEED_BYTES))
        async with await self._share.open(self._path("speed"), OpenMode.CREATE) as file:
            began_s = clock()
            await _in_pieces(lambda start, end: file.write(data[start:end], start))
            written_s = clock()
            await file.flush()
            flushed_s = clock()
        total_s, flush_s = flushed_s - began_s, flushed_s - written_s
        rate = SPEED_BYTES / total_s
        warnings: tuple[str, ...] = ()
        if written_s - began_s < _MAX_WRITE_TO_JUDGE_S and flush_s < SPEED_BYTES / _IMPLAUSIBLE_FLUSH_BYTES_PER_S:
            warnings = (
                f"Flushing {SPEED_BYTES >> 20} MiB took {flush_s * 1000:.1f} ms, which is quicker than disks are. If "
                "the share is not in memory, the server says 'done' too early and would lose data with its power: "
                "on Samba set 'strict sync = yes'.",
            )
        return Finding(
            f"{rate / 1e6:.0f} MB/s for {SPEED_BYTES >> 20} MiB, of which flushing took {flush_s * 1000:.0f} ms",
            {"bytes_per_s": round(rate), "flush_s": round(flush_s, 6)},
            warnings,
        )

    async def read_speed(self) -> Finding:
        clock = self._means.clock.monotonic_s
        buffer = memoryview(bytearray(SPEED_BYTES))
        async with await self._other.open(self._path("speed"), OpenMode.READ) as file:
            began_s = clock()

            async def read(start: int, end: int) -> None:
                if await file.read_into(buffer[start:end], start) != end - start:
                    raise IntegrityError("read back", self._share.name, "the file is shorter than it was written")

            await _in_pieces(read)
            rate = SPEED_BYTES / (clock() - began_s)
        text = f"{rate / 1e6:.0f} MB/s for {SPEED_BYTES >> 20} MiB, probably from memory"
        return Finding(text, {"bytes_per_s": round(rate)})

    async def clean_up(self) -> Finding:
        await remove_tree(self._share, self._directory)
        return Finding("nothing is left behind")

    def _path(self, name: str) -> str:
        return join(self._directory, name)


async def _in_pieces(work: Callable[[int, int], Awaitable[None]]) -> None:
    """Work on [0, SPEED_BYTES), a few pieces at a time, as a cycle does."""

    async def piece(start: int) -> None:
        await work(start, start + _PIECE_BYTES)

    await together(piece, range(0, SPEED_BYTES, _PIECE_BYTES), _AT_ONCE)


def _capability_facts(found: Capabilities) -> dict[str, bool]:
    return {
        "server_copy": found.server_copy,
        "sparse": found.sparse,
        "zero": found.zero,
        "allocated_extents": found.allocated_extents,
        "hold": found.hold,
        "flush_directory": found.flush_directory,
    }


def exit_code(results: Sequence[StepResult]) -> int:
    """That of the first step that failed; 0 if none did."""
    return next((one.exit_code for one in results if one.outcome == "failed"), 0)
