"""Who writes the disks of virtual machines without a pause, and knows what they may have held at each moment.

A writer opens a disk, writes here and there, and closes it; while somebody holds the disk it waits. What it did is
noted with the times at which it began and ended, so that the disks can be made again as they were at any of them.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import smbclient
from smbprotocol.exceptions import SMBException, SMBOSError

from replicad.cli.demo.samba import PrivateSamba
from tests.support.scene import BLOCK_AT, make_vhdx

KIB = 1 << 10
_MOST_RAW_BYTES = 384 * KIB
_WRITTEN_OF_VHDX_BYTES = 256 * KIB
_BREAKS_LEASES = 0.03
_SHARING_VIOLATION = 0xC0000043
_MOST_LOSSES = 20
VHDX, RAW = "디스크 1 💾.vhdx", "하위 폴더/raw 2.img"


@dataclass(frozen=True, slots=True)
class Piece:
    """So many random bytes at an offset, or, without a seed, the end of the file there."""

    offset: int
    length: int
    seed: int | None

    @property
    def data(self) -> bytes:
        """The bytes."""
        return Random(self.seed).randbytes(self.length)

    def apply(self, content: bytearray) -> None:
        """The same in memory."""
        content.extend(bytes(max(0, self.offset - len(content))))
        if self.seed is None:
            del content[self.offset :]
            return
        content[self.offset : self.offset + self.length] = self.data


@dataclass(frozen=True, slots=True)
class Written:
    """One change of one file between two moments. `content` is what it is after, if nobody knows how much of the
    pieces was written."""

    began: datetime
    ended: datetime
    path: str
    pieces: tuple[Piece, ...] = ()
    content: bytes | None = None

    def apply(self, files: dict[str, bytearray]) -> None:
        """The same in memory."""
        if self.content is not None:
            files[self.path] = bytearray(self.content)
        for piece in self.pieces:
            piece.apply(files[self.path])


@dataclass
class Journal:
    """What the disks in a directory were, from the beginning on."""

    directory: Path
    changes: list[Written] = field(default_factory=list)
    _first: dict[str, bytes] = field(default_factory=dict)

    def begin(self, seed: int) -> None:
        """Make the disks: a VHDX, and one of plain bytes."""
        for path in (VHDX, RAW):
            (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
        make_vhdx(self.directory / VHDX, seed)
        (self.directory / RAW).write_bytes(Random(seed).randbytes(_MOST_RAW_BYTES // 2))
        self._first = {path: (self.directory / path).read_bytes() for path in (VHDX, RAW)}

    def check(self, points: Mapping[int, datetime], restored: Callable[[int], Mapping[str, bytes]]) -> None:
        """Each point, by number, holds what all disks held together at the moment that it names.

        Where a change had begun and not ended by then it may be in it or not.
        """
        files = {path: bytearray(content) for path, content in self._first.items()}
        done = 0
        for number in sorted(points):
            found = restored(number)
            while done < len(self.changes) and self.changes[done].ended <= points[number]:
                self.changes[done].apply(files)
                done += 1
            while found != files:
                there_may_be_more = done < len(self.changes) and self.changes[done].began <= points[number]
                assert there_may_be_more, (
                    f"point {number} of {self.directory} is not what was there at {points[number]}"
                )
                self.changes[done].apply(files)
                done += 1


class Writer(ABC):
    """Changes the disks of one machine until it is stopped, on a thread of its own."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self.journal = journal
        self._random = Random(seed)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer")

    @abstractmethod
    def _write(self, path: str, pieces: tuple[Piece, ...], *, waits: bool) -> Written | None:
        """Write the pieces; None if the file is held. One who does not wait breaks a hold, where that can be done."""

    def _close(self) -> None:  # noqa: B027 - there may be nothing to close
        """Give back what is open."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and raise what went wrong."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._random.uniform(0.0, 0.3)):
                path = self._random.choice([VHDX, RAW])
                pieces, waits = tuple(self._pieces(path)), self._random.random() > _BREAKS_LEASES
                while not self._stop.is_set():
                    if (written := self._write(path, pieces, waits=waits)) is not None:
                        self.journal.changes.append(written)
                        break
                    self._stop.wait(0.02)
        except BaseException as error:  # noqa: BLE001 - raised where the writer is stopped
            self._error = error
        finally:
            self._close()

    def _pieces(self, path: str) -> Iterator[Piece]:
        random = self._random
        for _ in range(random.randint(1, 3)):
            length = random.choice([1, 512, 4 * KIB, 4 * KIB, 64 * KIB + 1])
            seed = random.getrandbits(32)
            if path == VHDX:
                # Into its block: what else is in the file says where that is.
                yield Piece(BLOCK_AT + random.randrange(0, _WRITTEN_OF_VHDX_BYTES - length), length, seed)
            elif random.random() < 0.15:
                yield Piece(random.randrange(_MOST_RAW_BYTES // 4, _MOST_RAW_BYTES), 0, None)
            else:
                yield Piece(random.randrange(0, _MOST_RAW_BYTES), length, seed)


class LocalWriter(Writer):
    """Writes to local files. A lease is seen, and waited for; else the kernel has its holder give it back."""

    def _write(self, path: str, pieces: tuple[Piece, ...], *, waits: bool) -> Written | None:
        whole = self.journal.directory / path
        if waits and _is_leased(whole):
            return None
        began = datetime.now(UTC)
        with whole.open("r+b", buffering=0) as file:
            for piece in pieces:
                if piece.seed is None:
                    file.truncate(piece.offset)
                else:
                    file.seek(piece.offset)
                    file.write(piece.data)
        return Written(began, datetime.now(UTC), path, pieces)


def _is_leased(path: Path) -> bool:
    found = path.stat()
    name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any("LEASE" in line and name in line.split() for line in Path("/proc/locks").read_text().splitlines())


class SmbWriter(Writer):
    """Writes to files on a server, past every relay. `server_guard` is held by whoever takes the server away."""

    def __init__(
        self, journal: Journal, seed: int, server: PrivateSamba, share: str, server_guard: threading.Lock
    ) -> None:
        super().__init__(journal, seed)
        inside = journal.directory.relative_to(server.share_directory(share))
        self._top = "\\".join(["", "", server.host, share, *inside.parts])
        self._server, self._guard = server, server_guard
        self._connections: dict[str, Any] = {}
        self._losses = 0

    def _write(self, path: str, pieces: tuple[Piece, ...], *, waits: bool) -> Written | None:
        began = datetime.now(UTC)
        try:
            self._over_smb(path, pieces)
        except SMBOSError as error:
            if error.ntstatus == _SHARING_VIOLATION:
                return None
            return self._after_a_loss(began, path)
        except (SMBException, OSError, ValueError):
            return self._after_a_loss(began, path)
        self._losses = 0
        return Written(began, datetime.now(UTC), path, pieces)

    def _over_smb(self, path: str, pieces: tuple[Piece, ...]) -> None:
        server = self._server
        smbclient.register_session(
            server.host, server.username, server.password, server.port, connection_timeout=10,
            connection_cache=self._connections,
        )  # fmt: skip
        with smbclient.open_file(
            "\\".join([self._top, *path.split("/")]), "r+b", buffering=0, share_access="r", port=server.port,
            connection_cache=self._connections,
        ) as file:  # fmt: skip
            for piece in pieces:
                if piece.seed is None:
                    file.truncate(piece.offset)
                else:
                    file.seek(piece.offset)
                    file.write(piece.data)

    def _after_a_loss(self, began: datetime, path: str) -> Written:
        """Who served us is dead when the guard can be had; what it wrote until then is what the file holds. For the
        handler of an error."""
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            raise
        with self._guard:
            content = (self.journal.directory / path).read_bytes()
        self._close()
        return Written(began, datetime.now(UTC), path, content=content)

    def _close(self) -> None:
        smbclient.reset_connection_cache(fail_on_error=False, connection_cache=self._connections)
        self._connections.clear()


@contextmanager
def writing(*writers: Writer) -> Iterator[None]:
    """All of them, stopped in the end."""
    with ExitStack() as stack:
        for writer in writers:
            writer.start()
            stack.callback(writer.stop)
        yield
