"""Work that dies at the nth of the calls that are chosen by what they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from replicad.storage.memory import MemoryShare
from tests.support.faulty import Fault, FaultyShare, When, crashes
from tests.support.world import World

T = TypeVar("T")
Choice = Callable[[str], bool]
Work = Callable[[], Coroutine[Any, Any, object]]


class DyingShare(FaultyShare):
    """Crashes in the nth of the changes that `choice` takes."""

    def __init__(self, inner: MemoryShare, choice: Choice, nth: int, when: When) -> None:
        super().__init__(inner)
        self._choice, self._left, self._when = choice, nth, when

    async def change(
        self, what: str, whole: Callable[[], Awaitable[T]], half: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        if self._choice(what):
            self._left -= 1
            if self._left == 0:
                self.faults[len(self.log) + 1] = Fault(self._when)
        return await super().change(what, whole, half)


def writes_disk(what: str) -> bool:
    """Whether a call writes to a disk that was there before."""
    return what.startswith("write") and ".updating" in what


async def die(world: World, choice: Choice, nth: int = 1, when: When = When.TORN, *, resync: bool = False) -> None:
    """A cycle that dies there."""
    await die_in(world, lambda: world.sync(resync=resync), choice, nth, when)


async def die_in(world: World, work: Work, choice: Choice, nth: int = 1, when: When = When.TORN) -> None:
    """Any work that dies there."""
    share = world.replica
    assert isinstance(share, MemoryShare)
    world.replica = DyingShare(share.view(), choice, nth, when)
    assert await crashes(work())
    world.replica = share.view()


async def die_after(world: World, part: str) -> None:
    """A cycle that dies when the first change is done whose description holds `part`."""
    await die(world, lambda what: part in what, when=When.AFTER)
