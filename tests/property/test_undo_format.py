"""Undo logs: their bytes, whatever else the bytes may be, and what is known of chunks when one is replayed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicad.model.errors import IntegrityError
from replicad.model.manifest import ZERO_HASH, Manifest, ManifestEdit
from replicad.replica.known_chunks import KnownChunks
from replicad.replica.undo_format import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    NOT_WRITTEN,
    EntryKind,
    UndoEntry,
    UndoHeader,
    batch_header_bytes,
    decode_batch,
    decode_file_header,
    encode_batch,
    encode_file_header,
    peek_batch,
)

CHUNK = 64 * 1024
HEADER = UndoHeader("11" * 16, "22" * 16, 7, CHUNK, 100 * CHUNK + 5)
HASH = st.binary(min_size=16, max_size=16)
ENTRY = st.builds(
    lambda index, kind, old, new: UndoEntry(index, kind, ZERO_HASH if kind is EntryKind.ZERO else old, new),
    st.integers(0, 200), st.sampled_from(EntryKind), HASH, HASH,
)  # fmt: skip
PREVIOUS = bytes(range(DIGEST_BYTES))


@given(st.lists(ENTRY, min_size=1, max_size=300), st.integers(0, 5))
def test_a_batch_reads_back_as_it_was_written(entries: list[UndoEntry], durable: int) -> None:
    block = encode_batch(9, durable, tuple(entries), HEADER, PREVIOUS)
    assert len(block) == batch_header_bytes(len(entries)) == peek_batch(block[:BLOCK_BYTES])
    batch = decode_batch(block, 9, HEADER, PREVIOUS)
    assert batch is not None
    assert (batch.entries, batch.durable_batches) == (tuple(entries), durable)
    assert decode_batch(block, 8, HEADER, PREVIOUS) is None
    assert decode_batch(block, 9, HEADER, bytes(DIGEST_BYTES)) is None


@given(st.lists(ENTRY, min_size=1, max_size=90), st.data())
def test_a_batch_header_with_any_changed_byte_is_none(entries: list[UndoEntry], data: st.DataObject) -> None:
    block = bytearray(encode_batch(9, 0, tuple(entries), HEADER, PREVIOUS))
    block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode_batch(bytes(block), 9, HEADER, PREVIOUS) is None


@given(st.binary(max_size=2 * BLOCK_BYTES))
def test_any_bytes_are_no_log(raw: bytes) -> None:
    assert decode_batch(raw, 0, HEADER, PREVIOUS) is None
    length = peek_batch(raw[:BLOCK_BYTES])
    assert length is None or length <= batch_header_bytes(4096)
    with pytest.raises(IntegrityError):
        decode_file_header(raw[:BLOCK_BYTES], "a log")


@given(st.integers(0, BLOCK_BYTES - 1), st.integers(1, 255))
def test_a_file_header_with_any_changed_byte_is_refused(place: int, bits: int) -> None:
    block = bytearray(encode_file_header(HEADER))
    assert decode_file_header(bytes(block), "a log") == HEADER
    block[place] ^= bits
    with pytest.raises(IntegrityError):
        decode_file_header(bytes(block), "a log")


HASHES = st.sampled_from([ZERO_HASH, b"a" * 16, b"b" * 16, b"c" * 16])


@given(
    st.lists(HASHES, max_size=20),
    st.integers(0, 25),
    st.lists(st.tuples(st.integers(0, 30), HASHES, st.booleans()), max_size=20),
    st.lists(HASHES, min_size=25, max_size=25),
)
def test_after_a_replay_every_chunk_in_doubt_is_stale_and_every_known_one_is_not(
    before: list[bytes], chunks: int, replayed: list[tuple[int, bytes, bool]], wanted: list[bytes]
) -> None:
    edit = ManifestEdit(Manifest(CHUNK, 0), len(before) * CHUNK)
    edit.put(0, b"".join(before))
    known = KnownChunks(edit.finish(), chunks * CHUNK)
    holds: dict[int, bytes | None] = dict(enumerate(before))
    touched = set()
    for index, new_hash, durable in replayed:
        known.replay(UndoEntry(index, EntryKind.SAVED, ZERO_HASH, new_hash), durable)
        holds[index] = new_hash if durable else None
        touched.add(index)
    wanted = wanted[:chunks]
    stale = [i for i in range(chunks) if holds.get(i, ZERO_HASH) != wanted[i]]
    assert known.stale(0, b"".join(wanted)) == stale
    assert known.stale_zeros(0, chunks) == [i for i in range(chunks) if holds.get(i, ZERO_HASH) != ZERO_HASH]
    for index in stale:
        entry = known.entry(index, wanted[index])
        was = before[index] if index < len(before) else None
        if index in touched:
            assert entry.kind is EntryKind.AGAIN
        elif was is None:
            assert entry.kind is EntryKind.BEYOND
        else:
            assert (entry.kind, entry.old_hash) == (EntryKind.ZERO if was == ZERO_HASH else EntryKind.SAVED, was)
        known.writing(index, 1)
        known.written(index, wanted[index])
    assert known.stale(0, b"".join(wanted)) == []
    lost = {i for i in range(chunks, len(before)) if before[i] != ZERO_HASH} | {i for i in touched if i >= chunks}
    assert known.cut_off() == sorted(lost)
    assert all(known.entry(i, NOT_WRITTEN).new_hash == NOT_WRITTEN for i in lost)
    manifest = known.manifest()
    assert [manifest.hash_of(i) for i in range(chunks)] == wanted
