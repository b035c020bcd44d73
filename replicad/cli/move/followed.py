"""Moves that the daemon carries out, followed to their ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from replicad.cli.interrupts import sigterm_as_ctrl_c
from replicad.model.errors import UnreachableError
from replicad.model.progress import Advanced, FreezePredicted, Observer, PhaseStarted

if TYPE_CHECKING:
    from replicad.cli.daemon_client import Daemon

    from .asked import Asked

Facts = dict[str, Any]

_LOOK_EVERY_S = 0.5


def order_of(asked: Asked, at: str | None) -> Facts:
    """What the API is to be asked for."""
    wanted, options = asked.wanted, asked.wanted.options
    return {
        "source": asked.source,
        "destination": str(wanted.destination),
        "disks": [[pattern, str(place)] for pattern, place in wanted.disks],
        "max_freeze_s": options.max_freeze_s,
        "max_rounds": options.max_rounds,
        "on_no_convergence": options.on_no_convergence.value,
        "source_after": options.source_after.value,
        "grace_s": options.grace_s,
        "proof": options.proof.value,
        "monitor": wanted.monitor,
        "bandwidth": options.bandwidth,
        "priority": options.priority,
        "at": at,
    }


def path_of_move(move_id: str, *parts: str) -> str:
    """A move's path in the API."""
    return "/".join(("/moves", quote(move_id, safe=""), *parts))


def follow_moves(daemon: Daemon, ids: list[str], observe: Observer) -> list[Facts]:
    """Show the moves until none goes on by itself any more; what the daemon says of them then. To be interrupted stops
    none of them."""
    shown = {move_id: _Shown(observe) for move_id in ids}
    with sigterm_as_ctrl_c():
        while True:
            try:
                views = [daemon.get(path_of_move(move_id)) for move_id in ids]
            except UnreachableError as error:
                raise UnreachableError(
                    "follow", "the move", f"cannot {error.op} {error.subject}: {error.answer}",
                    "It goes on when the daemon runs again; 'replicad move list' tells how it stands.",
                ) from error  # fmt: skip
            for view in views:
                shown[view["move"]["id"]].show(view, len(ids) > 1)
            if not any(_goes_on(view) for view in views):
                return views
            time.sleep(_LOOK_EVERY_S)


def _goes_on(view: Facts) -> bool:
    """Not so of one that has ended, that waits for its source's time, or that failed and will wait for long."""
    move = view["move"]
    if move["ended"] is not None or move["phase"] == "retired":
        return False
    return view["progress"] is not None or move["error"] is None


class _Shown:
    """What was told of one move until now."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._phase: str | None = None
        self._done_bytes = self._sent_bytes = 0
        self._freeze_s: float | None = None

    def show(self, view: Facts, is_named: bool) -> None:
        """Tell what has become another."""
        progress = view["progress"]
        if progress is None:
            return
        if progress["phase"] != self._phase or progress["done_bytes"] < self._done_bytes:
            self._phase, self._done_bytes, self._sent_bytes = progress["phase"], 0, 0
            name = f"{view['move']['vm']}: {self._phase}" if is_named else str(self._phase)
            self._observe(PhaseStarted(name, progress["total_bytes"]))
        done, sent = progress["done_bytes"] - self._done_bytes, progress["sent_bytes"] - self._sent_bytes
        if done or sent:
            self._done_bytes, self._sent_bytes = progress["done_bytes"], progress["sent_bytes"]
            self._observe(Advanced(done, sent))
        if view["predicted_freeze_s"] is not None and view["predicted_freeze_s"] != self._freeze_s:
            self._freeze_s = view["predicted_freeze_s"]
            self._observe(FreezePredicted(max(1, view["move"]["rounds"]), float(view["predicted_freeze_s"])))
