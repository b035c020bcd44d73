"""Moves as they are shown, to people and to programs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from replicad.cli.output import print_line, print_table
from replicad.model.durations import human_duration
from replicad.model.moves import MovePhase
from replicad.model.sizes import human_bytes

Facts = Mapping[str, Any]


def print_moves(moves: list[Facts]) -> None:
    """A table, a line each."""
    rows = [[m["id"][:8], m["vm"], _state(m), m["source"], ", ".join(m["places"]), _time(m["began"])] for m in moves]
    print_table(["id", "machine", "state", "from", "to", "began"], rows)
    for move in moves:
        if move["error"] is not None:
            print_line(f"{move['id'][:8]} {move['vm']}: {move['error']}{_ways_on(move)}")


def print_move(move: Facts) -> None:
    """All that is known of one."""
    print_line(f"move {move['id'][:8]} of {move['vm']}: {_state(move)}")
    print_line(f"from   {move['source']}")
    for place in move["places"]:
        print_line(f"to     {place}")
    print_line(f"began  {_time(move['began'])}")
    for word in ("due", "ended"):
        if move[word] is not None:
            print_line(f"{word:<7}{_time(move[word])}")
    if move["retry_at"] is not None:
        print_line(f"again  {_time(move['retry_at'])}")
    if move["progress"] is not None:
        print_line(f"now    {_progress(move['progress'])}")
    if move["predicted_freeze_s"] is not None:
        print_line(f"the machine would stand still for {human_duration(move['predicted_freeze_s'])}")
    if move["freeze_s"] is not None:
        print_line(f"the machine stood still for {human_duration(move['freeze_s'])}, after {_rounds(move['rounds'])}")
    if move["source_deleted_after"] is not None:
        print_line(f"the source is deleted after {_time(move['source_deleted_after'])}")
    if move["error"] is not None:
        print_line(f"error  {move['error']}{_ways_on(move)}")
    if move["files"]:
        rows = [[f["path"], human_bytes(f["size_bytes"]), f["to"], _notes(f)] for f in move["files"]]
        print_table(["file", "size", "to", ""], rows, right=[1])


def print_done(move: Facts) -> None:
    """What came of one that was carried out."""
    files = move["files"]
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    size = human_bytes(sum(file["size_bytes"] for file in files))
    still = ""
    if move["freeze_s"] is not None and move["rounds"]:
        still = f"; it stood still for {human_duration(move['freeze_s'])}, after {_rounds(move['rounds'])}"
    print_line(f"{move['vm']}: {count}, {size}, moved to {move['places'][0]}{still}")
    ending = f".moved-{move['id'][:8]}"
    if move["source_deleted_after"] is not None:
        print_line(
            f"{move['vm']}: the source's files are called *{ending} until {_time(move['source_deleted_after'])}; "
            f"'replicad move resume {move['id'][:8]}' deletes them after that"
        )
    elif move["source_after"] == "keep":
        print_line(f"{move['vm']}: the source's files are kept, and are called *{ending}")


def _ways_on(move: Facts) -> str:
    """What can be done about a move that an error has stopped."""
    if move["ended"] is not None or move["retry_at"] is not None:
        return ""
    short = move["id"][:8]
    back = f", or take it back by 'replicad move cancel {short}'" if MovePhase(move["phase"]).can_be_cancelled else ""
    return f" Go on with it by 'replicad move resume {short}'{back}."


def _progress(progress: Facts) -> str:
    told = str(progress["phase"])
    if progress["total_bytes"]:
        done, total = progress["done_bytes"], progress["total_bytes"]
        told += f", {min(100, 100 * done // total)} %, {human_bytes(done)} of {human_bytes(total)}"
    return told + (f", {human_bytes(progress['sent_bytes'])} sent" if progress["sent_bytes"] else "")


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _notes(file: Facts) -> str:
    return "shared: it stays at the source, too" if file["is_shared"] else ""


def _state(move: Facts) -> str:
    phase = str(move["phase"])
    progress = move.get("progress")
    if progress is not None:
        percent = f" {min(100, 100 * progress['done_bytes'] // total)} %" if (total := progress["total_bytes"]) else ""
        return f"{phase}{percent}"
    return f"{phase} (stopped)" if move["error"] is not None and move["ended"] is None else phase


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"
