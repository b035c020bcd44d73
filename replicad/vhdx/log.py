"""The log: whether it must be replayed, and what the replay would change (MS-VHDX §2.3). Pure.

The file is never written. What the active sequence would write becomes part of the `View` through which everything
else is read, so that the facts are those of the file after the replay.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from struct import Struct

from replicad.model.errors import UnsupportedError

from .crc32c import crc32c
from .facts import DamagedVhdxError, HeaderFacts, LogFacts, LogState
from .headers import REGION_TABLE_OFFSETS
from .reading import MAX_READ_BYTES, MIB, SECTOR_BYTES, LogWrite, Step, View, guid, plain_view, read_raw, resolve

MAX_LOG_BYTES = 64 * MIB
"""The longest log that is examined. All known writers make logs of 1 MiB; the format allows 4 GiB."""
MAX_DESCRIPTORS = 65_536
"""The most descriptors that one entry, and a sequence, may have. A log of 64 MiB has room for 16,384 data sectors."""

ENTRY_HEADER = Struct("<4sIIIQII16sQQ")
DESCRIPTOR_BYTES = 32
DATA_DESCRIPTOR = Struct("<4s4s8sQQ")
_ZERO = Struct("<4s4xQQQ")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry header whose own fields make sense. `position` and `tail` count from the start of the log."""

    position: int
    length: int
    tail: int
    sequence: int
    descriptors: int
    flushed_file_size: int
    last_file_size: int


def read_log(
    file_size_bytes: int, header: HeaderFacts, max_log_bytes: int | None
) -> Step[tuple[LogFacts, View, tuple[str, ...]]]:
    """The state of the log, the view of the file after its replay, and warnings.

    A log longer than `max_log_bytes` (None: `MAX_LOG_BYTES`, beyond which UnsupportedError) is said to need a replay
    without having been looked at, and the view is then the file as it is.
    DamagedVhdxError if the log was in use and holds no valid sequence, if the file was truncated since, or if
    the log would overwrite the headers or itself.
    """
    view = plain_view(file_size_bytes)
    if header.log_guid is None:
        return LogFacts(LogState.CLEAN, 0), view, ()
    if max_log_bytes is not None and header.log_length_bytes > max_log_bytes:
        return LogFacts(LogState.REPLAY_NEEDED, None), view, ()
    if header.log_length_bytes > MAX_LOG_BYTES:
        raise UnsupportedError(
            "examine", "the VHDX log",
            f"it is {header.log_length_bytes} bytes long and may have to be replayed, and {MAX_LOG_BYTES} is the most",
            "Attach the disk once to have its log replayed.",
        )  # fmt: skip
    log = _Log(file_size_bytes, header)
    yield from log.scan()
    sequence = yield from log.active_sequence()
    if not sequence:
        return LogFacts(LogState.INCOMPLETE, 0), view, (log.explain_missing_sequence(),)
    head = sequence[-1]
    if head.flushed_file_size > file_size_bytes:
        raise DamagedVhdxError(
            "log entry", log.offset + head.position,
            f"the file had at least {head.flushed_file_size} bytes when it was written, and has {file_size_bytes} now",
        )  # fmt: skip
    writes = yield from log.writes(sequence)
    facts = LogFacts(LogState.REPLAY_NEEDED, len(sequence), sequence[0].sequence, head.sequence)
    return facts, View(file_size_bytes, max(file_size_bytes, head.last_file_size), resolve(writes)), ()


class _Log:
    """One log being examined. Each method that reads is a step of the parser."""

    def __init__(self, file_size_bytes: int, header: HeaderFacts) -> None:
        self.file_size_bytes = file_size_bytes
        self.offset = header.log_offset_bytes
        self.length = header.log_length_bytes
        self.guid = header.log_guid
        self.entries: dict[int, _Entry] = {}  # by position, ascending
        self.positions: list[int] = []  # of the entries
        self.whole = b""  # the log, if it fits into one piece
        self.faults: dict[int, str | None] = {}  # of entries that were validated; None: valid

    def scan(self) -> Step[None]:
        """Find every sector that begins with an entry header of this log."""
        for start in range(0, self.length, MAX_READ_BYTES):
            size = min(MAX_READ_BYTES, self.length - start)
            piece = yield from read_raw(self.file_size_bytes, self.offset + start, size, "log")
            if size == self.length:
                self.whole = piece
            for at in range(0, size, SECTOR_BYTES):
                if piece[at : at + 4] == b"loge" and guid(piece[at + 32 : at + 48]) == self.guid:
                    _, _, length, tail, number, count, _, _, flushed, last = ENTRY_HEADER.unpack_from(piece, at)
                    self.entries[start + at] = _Entry(start + at, length, tail, number, count, flushed, last)
        self.positions = list(self.entries)

    def active_sequence(self) -> Step[list[_Entry]]:
        """The entries to replay, oldest first (MS-VHDX §2.3.2, §2.3.3). Empty if there is no valid sequence.

        A walk that starts inside another one ends at the same entry, and can only be valid if that one is too:
        so each walk goes on where the last one ended, as the specification has it.
        """
        best: list[_Entry] = []
        resume_at = 0
        for position in self.positions:
            if position < resume_at:
                continue
            walk: list[_Entry] = []
            at = position
            while (entry := self.entries.get(at)) and (not walk or entry.sequence == walk[-1].sequence + 1):
                if (yield from self._fault(entry)) is not None:
                    break
                walk.append(entry)
                at = (at + entry.length) % self.length
                resume_at = at if at > position else self.length
            tail = next((i for i, entry in enumerate(walk) if entry.position == walk[-1].tail), None)
            if tail is not None and (not best or walk[-1].sequence > best[-1].sequence):
                best = walk[tail:]
        return best

    def _fault(self, entry: _Entry) -> Step[str | None]:
        if entry.position not in self.faults:
            self.faults[entry.position] = yield from self._validate(entry)
        return self.faults[entry.position]

    def _validate(self, entry: _Entry) -> Step[str | None]:
        """What is wrong with an entry (MS-VHDX §2.3.1), or None."""
        if entry.sequence == 0:
            return "its sequence number is 0"
        if entry.tail % SECTOR_BYTES or entry.tail >= self.length:
            return f"its tail {entry.tail} is not a sector of the log"
        if entry.descriptors > MAX_DESCRIPTORS:
            return f"it counts {entry.descriptors} descriptors, and {MAX_DESCRIPTORS} is the most"
        first_data = _descriptor_bytes(entry)
        if entry.length % SECTOR_BYTES or not first_data <= entry.length <= self.length:
            return f"its length {entry.length} is not right for {entry.descriptors} descriptors"
        if self._next_entry(entry) < entry.length:  # this also bounds what it costs to validate all entries
            return f"another entry begins inside its {entry.length} bytes"
        head = yield from self._ring(entry.position, first_data)
        writes = self._parse(entry, head)
        if isinstance(writes, str):
            return writes
        sectors = sum(write.data_at_bytes is not None for write in writes)
        wanted = first_data + sectors * SECTOR_BYTES
        if entry.length != wanted:
            return f"its length is {entry.length}, and its {sectors} data sectors end at {wanted}"
        crc = crc32c(head[8:], crc32c(head[:4] + bytes(4)))
        for start in range(first_data, entry.length, MAX_READ_BYTES):
            size = min(MAX_READ_BYTES, entry.length - start)
            piece = yield from self._ring((entry.position + start) % self.length, size)
            for at in range(0, size, SECTOR_BYTES):
                number = piece[at + SECTOR_BYTES - 4 : at + SECTOR_BYTES] + piece[at + 4 : at + 8]
                if piece[at : at + 4] != b"data" or int.from_bytes(number, "little") != entry.sequence:
                    return f"its data sector at {start + at} is not one of sequence number {entry.sequence}"
            crc = crc32c(piece, crc)
        stated = int.from_bytes(head[4:8], "little")
        return None if stated == crc else f"its checksum is {stated:#010x}, and its content gives {crc:#010x}"

    def _next_entry(self, entry: _Entry) -> int:
        """How far behind this entry the next one begins, round the ring (the log's length if there is no other)."""
        index = bisect_right(self.positions, entry.position) % len(self.positions)
        return (self.positions[index] - entry.position) % self.length or self.length

    def _ring(self, position: int, length: int) -> Step[bytes]:
        """Bytes of the log, which goes on at its start behind its end."""
        parts: list[bytes] = []
        while length:
            size = min(length, self.length - position, MAX_READ_BYTES)
            if self.whole:
                parts.append(self.whole[position : position + size])
            else:
                parts.append((yield from read_raw(self.file_size_bytes, self.offset + position, size, "log")))
            position, length = (position + size) % self.length, length - size
        return b"".join(parts)

    def _parse(self, entry: _Entry, head: bytes) -> list[LogWrite] | str:
        """The descriptors of an entry, or what is wrong with one of them."""
        writes: list[LogWrite] = []
        data_at = entry.position + _descriptor_bytes(entry)
        for index in range(entry.descriptors):
            at = ENTRY_HEADER.size + index * DESCRIPTOR_BYTES
            if head[at : at + 4] == b"desc":
                _, trailing, leading, offset, sequence = DATA_DESCRIPTOR.unpack_from(head, at)
                write = LogWrite(offset, SECTOR_BYTES, self.offset + data_at % self.length, leading, trailing)
                data_at += SECTOR_BYTES
            elif head[at : at + 4] == b"zero":
                _, length, offset, sequence = _ZERO.unpack_from(head, at)
                write = LogWrite(offset, length)
            else:
                return f"its descriptor {index} has the signature {head[at : at + 4]!r}"
            if sequence != entry.sequence:
                return f"its descriptor {index} is one of sequence number {sequence}, not {entry.sequence}"
            if write.offset_bytes % SECTOR_BYTES or write.length_bytes % SECTOR_BYTES:
                return f"its descriptor {index} is not made of whole 4 KiB"
            writes.append(write)
        return writes

    def writes(self, sequence: list[_Entry]) -> Step[list[LogWrite]]:
        """Everything that a valid sequence writes, in order."""
        result: list[LogWrite] = []
        if sum(entry.descriptors for entry in sequence) > MAX_DESCRIPTORS:
            raise DamagedVhdxError(
                "log", self.offset, f"its active sequence has more than {MAX_DESCRIPTORS} descriptors"
            )
        for entry in sequence:
            head = yield from self._ring(entry.position, _descriptor_bytes(entry))
            writes = self._parse(entry, head)
            if isinstance(writes, str):
                raise DamagedVhdxError("log entry", self.offset + entry.position, f"{writes}, which it was not before")
            for write in writes:
                end = write.offset_bytes + write.length_bytes
                if write.offset_bytes < REGION_TABLE_OFFSETS[0] and end:
                    raise self._refuse_write(entry, write, "the headers")
                if write.offset_bytes < self.offset + self.length and end > self.offset:
                    raise self._refuse_write(entry, write, "the log itself")
            result += [write for write in writes if write.length_bytes]
        return result

    def _refuse_write(self, entry: _Entry, write: LogWrite, what: str) -> DamagedVhdxError:
        return DamagedVhdxError(
            "log entry", self.offset + entry.position,
            f"it would overwrite {what} ({write.length_bytes} bytes at {write.offset_bytes})",
        )  # fmt: skip

    def explain_missing_sequence(self) -> str:
        """The warning for a log whose first entry never got whole; DamagedVhdxError if it had got further than that.

        QEMU names the log in the header, writes one entry that is its own tail, puts it in place, and takes the
        name out again. When it is stopped before that entry is whole, nothing else has been changed yet.
        """
        newest = max(self.entries.values(), key=lambda entry: entry.sequence, default=None)
        if newest and (len(self.entries) > 1 or newest.tail != newest.position):
            reason = self.faults.get(newest.position) or f"its tail {newest.tail} is not in its own sequence"
            raise DamagedVhdxError(
                "log entry", self.offset + newest.position, f"{reason}; the log holds no sequence that can be replayed"
            )
        return (
            f"the header names the log {self.guid}, whose first entry is not complete: its writer was stopped while "
            "starting it, and there is nothing to replay (QEMU opens the file, Hyper-V may not)"
        )


def _descriptor_bytes(entry: _Entry) -> int:
    """The length of the sectors that hold an entry's header and descriptors."""
    return -(-(ENTRY_HEADER.size + entry.descriptors * DESCRIPTOR_BYTES) // SECTOR_BYTES) * SECTOR_BYTES
