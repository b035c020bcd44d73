"""Clones that are being read must not take the room that the machine itself needs to go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from replicad.model.clock import Clock
from replicad.model.errors import OutOfSpaceError
from replicad.storage.decorated import cloning
from replicad.storage.port import Share
from replicad.storage.together import first_error

from .extents import drop_clones, is_short_of_room

_LOOK_EVERY_S = 2.0
_HINT = (
    "Make room there: what a machine writes while its clones are read takes room of its own. The next cycle goes on "
    "with what was sent."
)


@asynccontextmanager
async def while_there_is_room(share: Share, keep_free: Callable[[int], int], clock: Clock) -> AsyncIterator[None]:
    """Ends what is done inside, with OutOfSpaceError, when half of the room is used up that `keep_free` asks for, or of
    what there was when it began, if that is less. The clones that are kept for later cycles go before that, as soon as
    less is free than `keep_free` asks for. Where that is nothing, nobody looks."""
    room = await cloning(share).room()
    least_bytes = min(keep_free(room.total_bytes), room.free_bytes) // 2
    if least_bytes <= 0:
        yield
        return
    try:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(_look(share, keep_free, least_bytes, clock), name="room for clones")
            try:
                yield
            finally:
                looking.cancel()
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


async def _look(share: Share, keep_free: Callable[[int], int], least_bytes: int, clock: Clock) -> None:
    while True:
        await clock.sleep(_LOOK_EVERY_S)
        if await is_short_of_room(share, keep_free):
            await drop_clones(share)
        free_bytes = (await cloning(share).room()).free_bytes
        if free_bytes < least_bytes:
            raise OutOfSpaceError(
                "go on reading clones in", share.name, f"no more than {free_bytes} bytes are left there", _HINT,
                missing_bytes=least_bytes - free_bytes,
            )  # fmt: skip
