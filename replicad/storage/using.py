"""Using what is read on a thread, for files that do not read on threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from .port import ShareFile

T = TypeVar("T")


async def read_then_use(
    file: ShareFile, buffer: bytearray | memoryview, offset: int, use: Callable[[memoryview], T], executor: Executor
) -> T:
    """`ShareFile.read_and` by `read_into` and a hop to the executor."""
    view = memoryview(buffer).cast("B")
    count = await file.read_into(view, offset)
    return await asyncio.get_running_loop().run_in_executor(executor, use, view[:count])
