"""Replaying a log: what has to be written so that it is not needed any more (MS-VHDX §2.3.3). Pure."""

from __future__ import annotations

from .facts import DamagedVhdxError, HeaderFacts, LogState
from .headers import read_headers
from .log import read_log
from .reading import Step, View, replayed
from .writing import Change, Extend, HeaderUpdates, Stages, Write, Zeros


def replay_log(file_size_bytes: int, *, file_write_guid: str) -> Step[Stages]:
    """What replays the log of a VHDX file and then names none; nothing, if it names none already.

    `file_write_guid` is a new random GUID. The facts, as `parse` has them, are the same before it, after it, and
    wherever it is cut short; it may be begun again then. All data in the stages is no longer than the log. Raises
    DamagedVhdxError and UnsupportedError as `parse` does for headers and log, and the former also if the log would
    write beyond its own LastFileOffset.
    """
    headers = yield from read_headers(file_size_bytes)
    log, view, _ = yield from read_log(file_size_bytes, headers.current, None)
    updates = HeaderUpdates(headers, file_write_guid)
    return (yield from replay_stages(updates, log.state, view, headers.current))


def replay_stages(updates: HeaderUpdates, state: LogState, view: View, header: HeaderFacts) -> Step[Stages]:
    """The same for a log that was read already (`read_log`), by the header updates that are under way."""
    if state is LogState.CLEAN:
        return ()
    if state is LogState.INCOMPLETE:  # its writer changed nothing yet: all that is to be done is to name it no more
        return updates.naming(None)
    changes: list[Change] = [Extend(view.size_bytes)] if view.size_bytes > view.file_size_bytes else []
    for write in view.writes:
        end = write.offset_bytes + write.length_bytes
        if end > view.size_bytes:  # else a few bytes of a log could have terabytes written
            reason = f"its log would write to byte {end}, and says that all structures end at {view.size_bytes}"
            raise DamagedVhdxError("log", header.log_offset_bytes, reason)
        if write.data_at_bytes is None:
            changes.append(Zeros(write.offset_bytes, write.length_bytes))
        else:
            changes.append(Write(write.offset_bytes, (yield from replayed(view, write, write.offset_bytes, end))))
    return *updates.naming(header.log_guid), tuple(changes), *updates.naming(None)
