"""The manifest's file on the replica's share (docs/format.md): reading, writing, digest.

::

    header  4096 bytes   magic, version, chunk size, disk size, replica and disk ids; its last 32 bytes are the digest
    index   16 bytes a page (BLAKE2b-128 of the page; zeros for a page of zeros), padded with zeros to 4096
    pages   4096 bytes each, at fixed places; a page of zeros is a hole
"""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from replicad.model.chunks import chunk_count, is_chunk_size
from replicad.model.errors import IntegrityError, NotFoundError, UnsupportedError
from replicad.model.extents import clip, widen
from replicad.model.manifest import PAGE_BYTES, PAGE_HASHES, ZERO_PAGE, Manifest
from replicad.model.names import path_on
from replicad.storage.port import CopyRange, OpenMode, Share, ShareFile

HEADER_BYTES = 4096
_MAGIC = b"RPLMANI1"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ16s16s")
_DIGEST_BYTES = 32
_PAGE_DIGEST_BYTES = 16
_ABSENT = bytes(_PAGE_DIGEST_BYTES)
MAX_DISK_BYTES = 128 << 40
"""A VHDX of the largest size, 64 TiB, is itself somewhat larger."""
_MAX_COPY_RANGES = 4096
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ManifestOwner:
    """Which disk of which replica a manifest belongs to (hexadecimal ids of 16 bytes)."""

    replica_id: str
    disk_id: str


def _page_digest(page: bytes) -> bytes:
    return hashlib.blake2b(page, digest_size=_PAGE_DIGEST_BYTES, person=b"replicad.page").digest()


def _index_bytes(page_count: int) -> int:
    return -(-page_count * _PAGE_DIGEST_BYTES // HEADER_BYTES) * HEADER_BYTES


def _page_offset(number: int, page_count: int) -> int:
    return HEADER_BYTES + _index_bytes(page_count) + number * PAGE_BYTES


def encode_head(manifest: Manifest, owner: ManifestOwner) -> bytes:
    """Header and index of a manifest's file."""
    index = bytearray(_index_bytes(manifest.page_count))
    for number, page in manifest.pages.items():
        start = number * _PAGE_DIGEST_BYTES
        index[start : start + _PAGE_DIGEST_BYTES] = manifest.digests.get(number) or _page_digest(page)
    header = bytearray(HEADER_BYTES)
    _HEADER.pack_into(
        header, 0, _MAGIC, _VERSION, manifest.chunk_bytes, manifest.size_bytes, manifest.chunks,
        bytes.fromhex(owner.replica_id), bytes.fromhex(owner.disk_id),
    )  # fmt: skip
    header[-_DIGEST_BYTES:] = _seal(header, index)
    return bytes(header) + bytes(index)


def _seal(header: bytes | bytearray, index: bytes | bytearray) -> bytes:
    state = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"replicad.manif")
    state.update(memoryview(header)[:-_DIGEST_BYTES])
    state.update(index)
    return state.digest()


def digest_of(head: bytes) -> str:
    """The digest that names a manifest's whole content, from its head."""
    return head[HEADER_BYTES - _DIGEST_BYTES : HEADER_BYTES].hex()


def manifest_digest(manifest: Manifest, owner: ManifestOwner) -> str:
    """The digest that `manifest` has when it is written."""
    return digest_of(encode_head(manifest, owner))


async def write_manifest(
    share: Share, path: str, manifest: Manifest, owner: ManifestOwner, base: tuple[str, Manifest] | None = None
) -> str:
    """Write `manifest` as a new file at `path` (what is there is replaced), flushed; returns its digest.

    The file's name is durable only after `flush_directory`. `base`, a path and the manifest in it, lets the share copy
    the pages that the two have in common, so that only what differs travels.
    """
    head = encode_head(manifest, owner)
    with suppress(NotFoundError):
        await share.remove(path)
    async with await share.open(path, OpenMode.CREATE) as file:
        await file.set_size(_page_offset(manifest.page_count, manifest.page_count))
        await file.write(head, 0)
        to_write = sorted(manifest.pages)
        if base is not None:
            to_write = await _copy_common_pages(share, file, manifest, base)
        for run in _runs(to_write):
            data = b"".join(manifest.pages[n] for n in run)
            await file.write(data, _page_offset(run.start, manifest.page_count))
        await file.flush()
    return digest_of(head)


async def update_manifest(
    share: Share, path: str, manifest: Manifest, owner: ManifestOwner, base: tuple[str, Manifest]
) -> bool:
    """Make a manifest of the one in the file at `path`, if it is the `base` (its digest, and what it holds), by writing
    what differs; False if it is another one, or of another size.

    This is for copies: meanwhile the file is neither, and nothing of it is durable. Who reads it sees whether it is
    whole.
    """
    digest, before = base
    if manifest.page_count != before.page_count:
        return False
    try:
        opened = await share.open(path, OpenMode.WRITE)
    except NotFoundError:
        return False
    async with opened as file:
        header = bytearray(HEADER_BYTES)
        if await file.read_into(header, 0) != HEADER_BYTES or digest_of(bytes(header)) != digest:
            return False
        differing = [n for n in {*manifest.pages, *before.pages} if manifest.pages.get(n) is not before.pages.get(n)]
        await file.write_pieces(
            [(manifest.pages.get(n, ZERO_PAGE), _page_offset(n, manifest.page_count)) for n in sorted(differing)]
        )
        await file.write(encode_head(manifest, owner), 0)
    return True


async def _copy_common_pages(
    share: Share, file: ShareFile, manifest: Manifest, base: tuple[str, Manifest]
) -> list[int]:
    """Let the share copy what `base` has alike; returns the numbers of the pages that are left to write."""
    base_path, base_manifest = base
    common = [n for n, page in manifest.pages.items() if base_manifest.pages.get(n) is page]
    common.sort()
    if not common:
        return sorted(manifest.pages)
    ranges = [
        CopyRange(
            _page_offset(run.start, base_manifest.page_count),
            _page_offset(run.start, manifest.page_count),
            len(run) * PAGE_BYTES,
        )
        for run in _runs(common, longest=1 << 16)
    ]
    try:
        async with await share.open(base_path, OpenMode.READ) as source:
            for start in range(0, len(ranges), _MAX_COPY_RANGES):
                await file.copy_from(source, ranges[start : start + _MAX_COPY_RANGES])
    except UnsupportedError:
        return sorted(manifest.pages)
    return sorted(set(manifest.pages) - set(common))


def _runs(numbers: list[int], longest: int = 256) -> list[range]:
    result: list[range] = []
    for number in numbers:
        if result and result[-1].stop == number and len(result[-1]) < longest:
            result[-1] = range(result[-1].start, number + 1)
        else:
            result.append(range(number, number + 1))
    return result


async def read_manifest(share: Share, path: str, owner: ManifestOwner, digest: str) -> Manifest:
    """The manifest in the file at `path`.

    Guarantees that it is the one with this digest and owner, down to every byte of the file that is not a hole.
    IntegrityError if it is not, or if the file is gone.
    """
    subject = f"manifest {path_on(share.name, path)}"
    try:
        opened = await share.open(path, OpenMode.READ)
    except NotFoundError:
        raise _damaged(subject, "the file is missing") from None
    async with opened as file:
        size_bytes = (await file.identity()).size_bytes
        header = bytearray(HEADER_BYTES)
        if await file.read_into(header, 0) != HEADER_BYTES:
            raise _damaged(subject, "it is too short")
        chunk_bytes, disk_bytes = _decode_header(bytes(header), owner, subject)
        page_count = -(-chunk_count(disk_bytes, chunk_bytes) // PAGE_HASHES)
        if size_bytes != _page_offset(page_count, page_count):
            raise _damaged(
                subject, f"its length is {size_bytes} bytes instead of {_page_offset(page_count, page_count)}"
            )
        index = bytearray(_index_bytes(page_count))
        if await file.read_into(index, HEADER_BYTES) != len(index):
            raise _damaged(subject, "it is too short")
        if _seal(header, index) != header[-_DIGEST_BYTES:]:
            raise _damaged(subject, "the seal of its header and index does not match")
        if digest_of(bytes(header)) != digest:
            raise _damaged(subject, "it is not the manifest that the recovery point names")
        pages = await _read_pages(file, index, page_count, size_bytes, subject)
    digests = {n: bytes(index[n * _PAGE_DIGEST_BYTES : (n + 1) * _PAGE_DIGEST_BYTES]) for n in pages}
    return Manifest(chunk_bytes, disk_bytes, MappingProxyType(pages), MappingProxyType(digests))


def _decode_header(header: bytes, owner: ManifestOwner, subject: str) -> tuple[int, int]:
    magic, version, chunk_bytes, disk_bytes, chunks, replica_id, disk_id = _HEADER.unpack_from(header)
    if magic != _MAGIC:
        raise _damaged(subject, "it does not begin as a manifest does")
    if version != _VERSION:
        # A replica in a newer format says so in its replica.json, which was read before this.
        raise _damaged(subject, f"it says that it is in format {version}, and the replica is in format {_VERSION}")
    if not is_chunk_size(chunk_bytes) or disk_bytes > MAX_DISK_BYTES or chunks != chunk_count(disk_bytes, chunk_bytes):
        raise _damaged(subject, "its sizes make no sense")
    if (replica_id.hex(), disk_id.hex()) != (owner.replica_id, owner.disk_id):
        raise _damaged(subject, "it belongs to another disk or replica")
    return chunk_bytes, disk_bytes


async def _read_pages(
    file: ShareFile, index: bytearray, page_count: int, size_bytes: int, subject: str
) -> dict[int, bytes]:
    first_page = _page_offset(0, page_count)
    pages: dict[int, bytes] = {}
    block = bytearray(_READ_BYTES)
    # To read a short hole takes less time than to begin a read anew.
    allocated = widen(await file.allocated_extents(), _READ_BYTES, size_bytes)
    for extent in clip(allocated, size_bytes):
        position = max(extent.offset_bytes, first_page)
        while position < extent.end_bytes:
            view = memoryview(block)[: min(len(block), extent.end_bytes - position)]
            if await file.read_into(view, position) != len(view):
                raise _damaged(subject, "it ended while it was read")
            _take_pages(pages, view, (position - first_page) // PAGE_BYTES, index, subject)
            position += len(view)
    present = sum(
        1 for n in range(page_count) if index[n * _PAGE_DIGEST_BYTES : (n + 1) * _PAGE_DIGEST_BYTES] != _ABSENT
    )
    if len(pages) != present:
        raise _damaged(subject, f"{present - len(pages)} of its pages are missing")
    return pages


def _take_pages(pages: dict[int, bytes], view: memoryview, number: int, index: bytearray, subject: str) -> None:
    for start in range(0, len(view), PAGE_BYTES):
        page = bytes(view[start : start + PAGE_BYTES])
        expected = index[number * _PAGE_DIGEST_BYTES : (number + 1) * _PAGE_DIGEST_BYTES]
        if expected == _ABSENT:
            if page != ZERO_PAGE:
                raise _damaged(subject, f"page {number} should be zeros and is not")
        elif _page_digest(page) != expected:
            raise _damaged(subject, f"page {number} does not match its digest")
        else:
            pages[number] = page
        number += 1


def _damaged(subject: str, reason: str) -> IntegrityError:
    return IntegrityError(
        "use", subject, f"it is damaged: {reason}",
        "Run 'replicad verify --repair': it makes the manifest anew if the replica's disk is sound.",
    )  # fmt: skip
