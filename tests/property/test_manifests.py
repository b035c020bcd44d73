"""Manifests against plain lists of hashes, in memory and in their file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicad.model.errors import IntegrityError
from replicad.model.manifest import HASH_BYTES, PAGE_BYTES, PAGE_HASHES, ZERO_HASH, Manifest, ManifestEdit
from replicad.replica.manifest_file import (
    ManifestOwner,
    manifest_digest,
    read_manifest,
    update_manifest,
    write_manifest,
)
from replicad.storage.memory import MemoryShare
from replicad.storage.port import OpenMode

CHUNK = 64 * 1024
OWNER = ManifestOwner("11" * 16, "22" * 16)
HASH = st.one_of(st.just(ZERO_HASH), st.integers(1, 255).map(lambda n: bytes([n]) * HASH_BYTES))
PUTS = st.lists(st.tuples(st.integers(0, 900), st.lists(HASH, min_size=1, max_size=300)), max_size=6)
SIZE = st.integers(0, 1200 * CHUNK)


def built(base: Manifest, size: int, puts: list[tuple[int, list[bytes]]]) -> tuple[Manifest, ManifestEdit]:
    edit = ManifestEdit(base, size)
    chunks = -(-size // CHUNK)
    for first, hashes in puts:
        edit.put(first, b"".join(hashes[: max(0, chunks - first)]))
    return edit.finish(), edit


def model(base: list[bytes], size: int, puts: list[tuple[int, list[bytes]]]) -> list[bytes]:
    chunks = -(-size // CHUNK)
    hashes = (base + [ZERO_HASH] * chunks)[:chunks]
    for first, new in puts:
        for i, value in enumerate(new):
            if first + i < chunks:
                hashes[first + i] = value
    return hashes


@given(SIZE, PUTS, SIZE, PUTS)
def test_edits_and_resizes_give_what_a_list_would(
    size: int, puts: list[tuple[int, list[bytes]]], other_size: int, more: list[tuple[int, list[bytes]]]
) -> None:
    first, _ = built(Manifest(CHUNK, 0), size, puts)
    wanted = model([], size, puts)
    assert first.hashes(0, first.chunks) == b"".join(wanted)
    second, edit = built(first, other_size, more)
    wanted = model(wanted, other_size, more)
    assert [second.hash_of(i) for i in range(second.chunks)] == wanted
    assert edit.hashes(0, second.chunks) == b"".join(wanted)
    nonzero = [i for i, h in enumerate(wanted) if h != ZERO_HASH]
    assert list(second.nonzero_chunks(0, second.chunks)) == nonzero
    assert list(edit.nonzero_chunks(0, second.chunks)) == nonzero
    assert list(second.nonzero_chunks(100, 700)) == [i for i in nonzero if 100 <= i < 700]
    assert all(any(page) and len(page) == PAGE_BYTES for page in second.pages.values())


@settings(max_examples=40)
@given(SIZE, PUTS, SIZE, PUTS, st.booleans())
def test_a_manifest_reads_back_as_it_was_written_beside_its_base_or_without(
    size: int, puts: list[tuple[int, list[bytes]]], other_size: int, more: list[tuple[int, list[bytes]]], copy: bool
) -> None:
    async def run() -> None:
        share = MemoryShare(server_copy=copy)
        first, _ = built(Manifest(CHUNK, 0), size, puts)
        second, _ = built(first, other_size, more)
        await write_manifest(share, "one", first, OWNER)
        digest = await write_manifest(share, "two", second, OWNER, ("one", first))
        assert digest == manifest_digest(second, OWNER)
        back = await read_manifest(share, "two", OWNER, digest)
        assert (back.chunk_bytes, back.size_bytes, dict(back.pages)) == (CHUNK, other_size, dict(second.pages))

    asyncio.run(run())


@settings(max_examples=40)
@given(SIZE, PUTS, SIZE, PUTS)
def test_a_copy_of_a_manifest_becomes_another_by_what_differs_or_is_left_alone(
    size: int, puts: list[tuple[int, list[bytes]]], other_size: int, more: list[tuple[int, list[bytes]]]
) -> None:
    async def run() -> None:
        share = MemoryShare()
        first, _ = built(Manifest(CHUNK, 0), size, puts)
        second, _ = built(first, other_size, more)
        digest, wanted = await write_manifest(share, "m", first, OWNER), manifest_digest(second, OWNER)
        if await update_manifest(share, "m", second, OWNER, (digest, first)):
            back = await read_manifest(share, "m", OWNER, wanted)
            assert (back.size_bytes, dict(back.pages)) == (other_size, dict(second.pages))
            # What is known of its pages' digests from the file holds for those that are edited, too.
            third, _ = built(back, size, puts)
            afresh = Manifest(third.chunk_bytes, third.size_bytes, third.pages)
            assert manifest_digest(third, OWNER) == manifest_digest(afresh, OWNER)
            assert digest == wanted or not await update_manifest(share, "m", first, OWNER, (digest, first))
        else:
            assert first.page_count != second.page_count
            assert dict((await read_manifest(share, "m", OWNER, digest)).pages) == dict(first.pages)
        assert not await update_manifest(share, "none", second, OWNER, (digest, first))

    asyncio.run(run())


async def _written() -> tuple[MemoryShare, str, int]:
    share = MemoryShare()
    manifest, _ = built(Manifest(CHUNK, 0), 700 * CHUNK, [(0, [b"\7" * 16] * 10), (600, [b"\7" * 16] * 10)])
    digest = await write_manifest(share, "m", manifest, OWNER)
    return share, digest, (await share.stat("m")).size_bytes


@pytest.mark.parametrize("place", [0, 8, 12, 16, 40, 4000, 4095, 4096, 4096 + 20, 8191, 8192, 8192 + 4096, -4096, -1])
async def test_any_changed_byte_of_a_manifest_is_found(place: int) -> None:
    share, digest, size = await _written()
    async with await share.open("m", OpenMode.WRITE) as file:
        byte = bytearray(1)
        await file.read_into(byte, place % size)
        await file.write(bytes([byte[0] ^ 16]), place % size)
    with pytest.raises(IntegrityError):
        await read_manifest(share, "m", OWNER, digest)


async def test_a_manifest_of_another_disk_length_version_or_point_is_refused() -> None:
    share, digest, size = await _written()
    with pytest.raises(IntegrityError, match="another disk"):
        await read_manifest(share, "m", replace(OWNER, disk_id="33" * 16), digest)
    with pytest.raises(IntegrityError, match="not the manifest that the recovery point names"):
        await read_manifest(share, "m", OWNER, "00" * 32)
    async with await share.open("m", OpenMode.WRITE) as file:
        await file.set_size(size + 1)
        with pytest.raises(IntegrityError, match="length"):
            await read_manifest(share, "m", OWNER, digest)
        await file.set_size(size)
        await file.write(b"\2", 8)
    with pytest.raises(IntegrityError, match="damaged: it says that it is in format 2"):
        await read_manifest(share, "m", OWNER, digest)


class UncountablePages(dict[int, bytes]):
    """Pages that can be looked up, but not gone through."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("all pages were looked at")


def test_a_small_gap_costs_no_look_at_all_pages() -> None:
    page = b"h" * PAGE_BYTES
    manifest = Manifest(CHUNK, 10 * PAGE_HASHES * CHUNK, UncountablePages(dict.fromkeys(range(10), page)))
    assert len(list(ManifestEdit(manifest, manifest.size_bytes).nonzero_chunks(PAGE_HASHES - 1, PAGE_HASHES + 1))) == 2
