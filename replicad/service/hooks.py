"""Telling others what happened to a virtual machine: a command of the user's, or a post to a URL.

A hook that fails is a warning and nothing else: no cycle waits for one, or fails because of one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import structlog

from replicad.settings import Hook, HookCommand, Hooks

from .hook_command import run_command
from .hook_url import post

MAX_WAITING = 64
MAX_AT_ONCE = 4

Fact = str | int | float | bool | None | tuple[str, ...]
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("hooks")


class HookKind(StrEnum):
    """What can be told; the values are the keys of the configuration."""

    FAILURE = "on_failure"
    SUCCESS = "on_success"
    HEALTH_CHANGE = "on_health_change"
    MOVE = "on_move"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a VM, and when (UTC). `facts` go to the hook as they are: no secret may be among them."""

    kind: HookKind
    vm: str
    at: datetime
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def document(self) -> bytes:
        """The JSON that hooks get: one object, in ASCII."""
        head = {"event": self.kind.value.removeprefix("on_"), "vm": self.vm, "time": self.at.isoformat()}
        return json.dumps({**head, **{key: fact for key, fact in self.facts.items() if key not in head}}).encode()

    def environment(self) -> dict[str, str]:
        """The same as `REPLICAD_EVENT`, `REPLICAD_VM`, `REPLICAD_TIME` and `REPLICAD_<FACT>`; lists are lines."""
        return {f"REPLICAD_{key.upper()}": _as_text(fact) for key, fact in json.loads(self.document()).items()}


class HookRunner:
    """Runs the configured hooks, at most four at once, and those of one VM one after the other.

    At most 64 events wait. A newer one takes the place of a waiting one of the same VM and kind; without room the one
    that has waited longest is dropped with a warning. To be used on one event loop.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._waiting: dict[tuple[str, HookKind], Event] = {}
        self._busy: set[str] = set()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def apply(self, hooks: Hooks) -> None:
        """Take another configuration: it holds for what is told from now on, and for what waits."""
        self._hooks = hooks

    def tell(self, event: Event) -> None:
        """Have the event told, if there is a hook for it. Never waits, never fails."""
        if self._hook(event.kind) is None:
            return
        key = (event.vm, event.kind)
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            _log.warning("a hook is not run: too many wait", hook=oldest.kind.value, vm=oldest.vm)
        self._waiting[key] = event
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        """Run hooks until cancelled; those that run then are ended."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                while (event := self._next()) is not None:
                    group.create_task(self._run_one(event), name=f"hook {event.kind} of {event.vm}")
                await self._changed.wait()

    async def drain(self, timeout_s: float) -> int:
        """Wait, while `run` works, until everything is told, but at most `timeout_s`; how many events are not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return len(self._waiting) + len(self._busy)
        return 0

    def _hook(self, kind: HookKind) -> Hook | None:
        hook: Hook | None = getattr(self._hooks, kind.value)
        return hook

    def _next(self) -> Event | None:
        """The event that has waited longest, of a VM with no hook under way."""
        if len(self._busy) >= MAX_AT_ONCE:
            return None
        for key, event in self._waiting.items():
            if event.vm not in self._busy:
                del self._waiting[key]
                self._busy.add(event.vm)
                return event
        return None

    async def _run_one(self, event: Event) -> None:
        try:
            hook = self._hook(event.kind)
            if hook is not None:
                await run_hook(hook, event, self._hooks.timeout_s)
        finally:
            self._busy.discard(event.vm)
            if not self._busy and not self._waiting:
                self._idle.set()
            self._changed.set()


async def run_hook(hook: Hook, event: Event, timeout_s: float) -> bool:
    """Run one hook; whether it went well. Anything else but a cancellation is a warning."""
    log = _log.bind(hook=event.kind.value, vm=event.vm, target=hook.shown)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        if isinstance(hook, HookCommand):
            result = await run_command(hook.arguments, event.document(), event.environment(), timeout_s)
        else:
            result = await post(hook.url, event.document(), timeout_s)
    except Exception:  # whatever is wrong with a hook, replication goes on
        log.warning("a hook failed", why="an error of replicad itself", exc_info=True)
        return False
    facts = {"seconds": round(loop.time() - began_s, 3)} | ({"output": result.output} if result.output else {})
    if result.failure is not None:
        log.warning("a hook failed", why=result.failure, **facts)
    else:
        log.debug("a hook was run", **facts)
    return result.failure is None


def _as_text(fact: object) -> str:
    if fact is None:
        return ""
    if isinstance(fact, bool):
        return "true" if fact else "false"
    return "\n".join(str(one) for one in fact) if isinstance(fact, list) else str(fact)
