"""One file on its way to its destination: copied, brought up to date, read back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b

from replicad.model.changes import ChangeSet
from replicad.model.chunks import choose_chunk_size, chunk_count
from replicad.model.errors import IntegrityError, UnsupportedError
from replicad.model.extents import Extent, normalise, split, total_bytes, widen
from replicad.model.manifest import HASH_BYTES, Manifest, ManifestEdit
from replicad.model.progress import Advanced
from replicad.replica.disk_update import WRITES_AT_ONCE, SavedBatch, Stretch
from replicad.replica.known_chunks import KnownChunks
from replicad.replica.undo_format import NOT_WRITTEN
from replicad.storage.port import CopyRange, ShareFile
from replicad.storage.together import together

from .collecting import Tally
from .context import Context
from .move_proof import chosen
from .scan import Block, Gap, Hashing, scan
from .sending import send_changes
from .widening import widened

_SERVER_PIECE_BYTES = 256 * 1024 * 1024
"""What a server is asked to copy in one call: so often there is progress to tell."""
_DIGEST_BYTES = 32


class FileTransfer:
    """A file that is open for writing at the destination, and what is known of it; for one task at a time.

    `subject` is how people know it. After an error of `copy` nothing is known any more: close it, and begin anew with
    `learn`. What it holds of a chunk is known by what was sent, and proven by `verify`.
    """

    def __init__(self, target: ShareFile, subject: str, seed: int, ctx: Context) -> None:
        self._target = target
        self._subject = subject
        self._seed = seed
        self._ctx = ctx
        self._manifest: Manifest | None = None
        self._digest: tuple[Manifest, str] | None = None
        self._unproven: list[Extent] = []
        self.is_sampled = False
        """Whether of what the server copied only a sample was looked at: then not all of its bytes are known, and its
        digest says nothing about them."""

    @property
    def is_known(self) -> bool:
        """Whether anything was copied or learnt."""
        return self._manifest is not None

    @property
    def manifest(self) -> Manifest:
        """The hashes of what the destination holds. ValueError before anything was copied or learnt."""
        if self._manifest is None:
            raise ValueError(f"nothing is known of {self._subject} yet")
        return self._manifest

    @property
    def digest(self) -> str:
        """Of the manifest: two files with one digest, made with one seed, hold the same bytes."""
        manifest = self.manifest
        if self._digest is None or self._digest[0] is not manifest:
            self._digest = (manifest, manifest_digest(manifest))  # it takes a while of a large disk
        return self._digest[1]

    async def learn(self) -> None:
        """Read what is there, and take it for proven: what it holds is what was just read."""
        size_bytes = (await self._target.identity()).size_bytes
        extents = await self._target.allocated_extents()
        self._manifest = await self._read(self._target, size_bytes, extents, choose_chunk_size(size_bytes))
        self._unproven, self.is_sampled = [], False

    async def _read(self, file: ShareFile, size_bytes: int, extents: Sequence[Extent], chunk_bytes: int) -> Manifest:
        edit = ManifestEdit(Manifest(chunk_bytes, size_bytes), size_bytes)

        async def take(piece: Block | Gap) -> None:
            if isinstance(piece, Block):
                edit.put(piece.first, piece.hashes)

        await scan(file, extents, size_bytes, self._hashing(chunk_bytes), take)
        return edit.finish()

    async def copy(self, file: ShareFile, size_bytes: int, changes: ChangeSet) -> Tally:
        """Make this file equal to what `file` has where `changes` says so, and that long; nothing is durable yet.

        What the destination holds already is not sent. Without anything known of it all must be in the change set.
        """
        before = self._manifest
        if before is None:
            before = Manifest(choose_chunk_size(size_bytes), 0)
        known = KnownChunks(before, size_bytes)
        if before.size_bytes != size_bytes:
            await self._target.set_size(size_bytes)
        writer = _Writer(self._target, known)
        hashing = self._hashing(known.chunk_bytes)
        tally = await send_changes(file, widened(changes, known), known, hashing, writer, self._ctx)
        self._manifest = known.manifest()
        # What was cut off is neither here nor there.
        self._unproven = normalise([*self._unproven, *writer.written])
        return tally

    async def copy_by_server(self, file: ShareFile, size_bytes: int, extents: Sequence[Extent]) -> bool:
        """Have the server copy these extents of `file` into this new file, without a byte that comes here; whether it
        did. If so what came is to be learnt, or compared: the file may have been written meanwhile. If not, nothing is
        there yet."""
        await self._target.set_size(size_bytes)
        pieces = [piece for extent in extents for piece in split(extent, _SERVER_PIECE_BYTES)]
        position = 0
        try:
            for piece in pieces:
                await self._target.copy_from(
                    file, [CopyRange(piece.offset_bytes, piece.offset_bytes, piece.length_bytes)]
                )
                self._ctx.observe(Advanced(piece.end_bytes - position, 0))
                position = piece.end_bytes
        except UnsupportedError:
            if position:
                raise
            await self._target.set_size(0)
            return False
        self._ctx.observe(Advanced(size_bytes - position, 0))
        return True

    async def compare(self, file: ShareFile, size_bytes: int, extents: Sequence[Extent]) -> int | None:
        """After `copy_by_server`: compare a sample with `file`, and take the rest for copied; how many bytes were read
        there. None if something differs, and nothing is known then: `file` was written meanwhile, or the server copied
        badly."""
        chunk_bytes = choose_chunk_size(size_bytes)
        looked_at = chosen(extents, chunk_bytes, size_bytes, self._ctx.random)
        found = await self._read(self._target, size_bytes, looked_at, chunk_bytes)
        if found != await self._read(file, size_bytes, looked_at, chunk_bytes):
            return None
        edit = ManifestEdit(Manifest(chunk_bytes, size_bytes), size_bytes)
        for extent in widen(extents, chunk_bytes, size_bytes):
            count = chunk_count(extent.length_bytes, chunk_bytes)
            edit.put(extent.offset_bytes // chunk_bytes, NOT_WRITTEN * count)
        for extent in looked_at:
            first, count = extent.offset_bytes // chunk_bytes, chunk_count(extent.length_bytes, chunk_bytes)
            edit.put(first, found.hashes(first, count))
        self._manifest, self._unproven, self.is_sampled = edit.finish(), [], True
        return total_bytes(looked_at)

    async def flush(self) -> None:
        """What was copied is durable on return."""
        await self._target.flush()

    async def verify(self) -> None:
        """Read back every chunk that was sent and not read back since. IntegrityError if one is not what was sent."""
        manifest = self.manifest
        wrong: list[int] = []

        async def take(piece: Block | Gap) -> None:
            if isinstance(piece, Block):
                count = len(piece.hashes) // HASH_BYTES
                if piece.hashes != manifest.hashes(piece.first, count):
                    wrong.extend(
                        piece.first + i for i in range(count)
                        if piece.hashes_of(piece.first + i, piece.first + i + 1) != manifest.hash_of(piece.first + i)
                    )  # fmt: skip

        within = [extent for extent in self._unproven if extent.offset_bytes < manifest.size_bytes]
        await scan(self._target, within, manifest.size_bytes, self._hashing(manifest.chunk_bytes), take)
        if wrong:
            raise IntegrityError(
                "move to", self._subject, f"chunk {wrong[0]} reads back different from what was written",
                "The file server or its storage corrupts data: check it. The machine is still used at the source.",
            )  # fmt: skip
        self._unproven = []

    async def change(self, work: Callable[[ShareFile], Awaitable[Sequence[Extent]]]) -> None:
        """Have `work` change the file itself, which is all sent and proven; it returns where. What is there afterwards
        is taken for proven."""
        touched = await work(self._target)
        size_bytes = (await self._target.identity()).size_bytes
        found = await self._read(self._target, size_bytes, touched, self.manifest.chunk_bytes)
        edit = ManifestEdit(self.manifest, size_bytes)
        for extent in widen(touched, self.manifest.chunk_bytes, size_bytes):
            first, count = extent.offset_bytes // found.chunk_bytes, chunk_count(extent.length_bytes, found.chunk_bytes)
            edit.put(first, found.hashes(first, count))
        self._manifest = edit.finish()

    async def close(self) -> None:
        """Close the file. What is known of it stays."""
        await self._target.close()

    def _hashing(self, chunk_bytes: int) -> Hashing:
        return Hashing(self._ctx.hashing, chunk_bytes, self._seed)


class _Writer:
    """Writes straight to the destination: until the switch nobody else needs what is there."""

    def __init__(self, target: ShareFile, known: KnownChunks) -> None:
        self._target = target
        self._known = known
        self.written: list[Extent] = []

    async def save(self, stretches: Sequence[Stretch]) -> SavedBatch:
        """There is nothing to save."""
        return SavedBatch(stretches, 0)

    async def write(self, saved: SavedBatch) -> int:
        """Write the stretches; returns the bytes sent."""
        chunk_bytes, size_bytes = self._known.chunk_bytes, self._known.size_bytes
        for stretch in saved.stretches:
            self._known.writing(stretch.first, stretch.count)
        data = [(s.data, s.first * chunk_bytes) for s in saved.stretches if s.data is not None]
        if data:
            await self._target.write_pieces(data)
        zeros = [stretch for stretch in saved.stretches if stretch.data is None]
        await together(partial(self._zero, chunk_bytes), zeros, WRITES_AT_ONCE)
        for stretch in saved.stretches:
            self._known.written(stretch.first, stretch.hashes)
            start = stretch.first * chunk_bytes
            self.written.append(Extent(start, min(stretch.count * chunk_bytes, size_bytes - start)))
        return sum(len(bytes_) for bytes_, _ in data)

    async def _zero(self, chunk_bytes: int, stretch: Stretch) -> None:
        await self._target.zero(stretch.first * chunk_bytes, stretch.count * chunk_bytes)


def manifest_digest(manifest: Manifest) -> str:
    """A digest of a manifest: of its chunk size, the size of its file, and its pages."""
    digest = blake2b(digest_size=_DIGEST_BYTES, person=b"replicad.move")
    digest.update(f"{manifest.chunk_bytes} {manifest.size_bytes}\n".encode())
    for number in sorted(manifest.pages):
        digest.update(number.to_bytes(8, "little") + manifest.pages[number])
    return digest.hexdigest()
