"""What every workflow needs of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from random import Random

from replicad.model.clock import Clock
from replicad.model.progress import Observer
from replicad.storage.port import LockHolder, Share


@dataclass(frozen=True, slots=True)
class Context:
    """Made by the composition root.

    `hashing` is the executor that chunks are hashed on; `cache` is a share of this host for what can be had again (the
    manifests that it wrote last), or None; `new_id` gives 32 hexadecimal digits that nobody has guessed or used;
    `state` is a share of this host for what must not be lost (how to thaw what is frozen), or None.
    """

    clock: Clock
    random: Random
    new_id: Callable[[], str]
    holder: Callable[[], LockHolder]
    hashing: Executor
    cache: Share | None
    observe: Observer
    version: str
    state: Share | None = None
