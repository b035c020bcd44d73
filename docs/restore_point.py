#!/usr/bin/env python3
"""Restore a recovery point of a replica with Python alone: 3.9 or newer, no package, no configuration, no network.

    python3 restore_point.py REPLICA_DIR                            list the points
    python3 restore_point.py REPLICA_DIR TARGET_DIR [--point N]     restore one (the latest by default)

REPLICA_DIR is the directory of one virtual machine, mounted or copied: replica.json is in it. It is only read, and must
not be written by anybody meanwhile. TARGET_DIR must be empty, or not be there; nothing is ever overwritten.

Every byte is checked. XXH3-128 in plain Python is slow, some 40 MB/s: `--unchecked` leaves out
hashes and manifests, and then the bytes are as the share has them, damaged or not. The seals of records and the chained
digests of undo logs are always checked.

Written from docs/format.md; the names are explained there.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import heapq
import json
import os
import re
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from operator import mul
from pathlib import Path
from typing import Any, BinaryIO, TextIO

BLOCK = 4096
ZERO_HASH = bytes(16)
PAGE_HASHES = 256
MAX_DISK_BYTES = 128 << 40
PARTIAL = ".restoring"
SAVED, ZERO, BEYOND, AGAIN = 1, 2, 3, 4


class RestoreError(Exception):
    """What can't be done, and why: one sentence."""


# XXH3-128 (the public specification of xxHash, for any seed)

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MX1, MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
STRIPE, STRIPES, LONG_BLOCK = 64, 16, 1024
EVERY_OTHER = int.from_bytes((b"\xff" * 8 + bytes(8)) * 64, "little")


def u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def swap(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def fold(a: int, b: int) -> int:
    product = a * b
    return (product & M64) ^ (product >> 64)


def avalanche(h: int) -> int:
    h = ((h ^ (h >> 37)) * MX1) & M64
    return h ^ (h >> 32)


def avalanche_64(h: int) -> int:
    h = ((h ^ (h >> 33)) * P64_2) & M64
    h = ((h ^ (h >> 29)) * P64_3) & M64
    return h ^ (h >> 32)


def xxh3_128(data: bytes, seed: int) -> bytes:
    """The 16 bytes of the hash, most significant first."""
    if len(data) > 240:
        low, high = long_hash(data, seed)
    elif len(data) > 16:
        low, high = middle_hash(data, seed)
    else:
        low, high = short_hash(data, seed)
    return (high << 64 | low).to_bytes(16, "big")


def short_hash(data: bytes, seed: int) -> tuple[int, int]:
    n, s = len(data), SECRET
    if n == 0:
        return avalanche_64(seed ^ u64(s, 64) ^ u64(s, 72)), avalanche_64(seed ^ u64(s, 80) ^ u64(s, 88))
    if n <= 3:
        low = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        high = swap(low, 4)
        high = (high << 13 | high >> 19) & M32
        flip_low, flip_high = (u32(s, 0) ^ u32(s, 4)) + seed, (u32(s, 8) ^ u32(s, 12)) - seed
        return avalanche_64(low ^ (flip_low & M64)), avalanche_64(high ^ (flip_high & M64))
    if n <= 8:
        seed ^= swap(seed & M32, 4) << 32
        keyed = (u32(data, 0) + (u32(data, n - 4) << 32)) ^ (((u64(s, 16) ^ u64(s, 24)) + seed) & M64)
        product = keyed * (P64_1 + (n << 2))
        low, high = product & M64, (product >> 64) & M64
        high = (high + (low << 1)) & M64
        low ^= high >> 3
        low = ((low ^ (low >> 35)) * MX2) & M64
        return low ^ (low >> 28), avalanche(high)
    first, last = u64(data, 0), u64(data, n - 8)
    product = (first ^ last ^ (((u64(s, 32) ^ u64(s, 40)) - seed) & M64)) * P64_1
    low, high = ((product & M64) + ((n - 1) << 54)) & M64, product >> 64
    last ^= ((u64(s, 48) ^ u64(s, 56)) + seed) & M64
    high = (high + last + (last & M32) * (P32_2 - 1)) & M64
    product = (low ^ swap(high, 8)) * P64_2
    return avalanche(product & M64), avalanche(((product >> 64) + high * P64_2) & M64)


def middle_hash(data: bytes, seed: int) -> tuple[int, int]:
    n = len(data)
    low, high = n * P64_1 & M64, 0

    def mix(at: int, key: int, key_seed: int) -> int:
        first = u64(data, at) ^ ((u64(SECRET, key) + key_seed) & M64)
        return fold(first, u64(data, at + 8) ^ ((u64(SECRET, key + 8) - key_seed) & M64))

    def round_of(one: int, other: int, key: int, key_seed: int) -> None:
        nonlocal low, high
        low = ((low + mix(one, key, key_seed)) & M64) ^ ((u64(data, other) + u64(data, other + 8)) & M64)
        high = ((high + mix(other, key + 16, key_seed)) & M64) ^ ((u64(data, one) + u64(data, one + 8)) & M64)

    if n <= 128:
        for i in reversed(range((n - 1) // 32 + 1)):
            round_of(16 * i, n - 16 * (i + 1), 32 * i, seed)
    else:
        for at in range(0, 128, 32):
            round_of(at, at + 16, at, seed)
        low, high = avalanche(low), avalanche(high)
        for at in range(128, n - 31, 32):
            round_of(at, at + 16, 3 + at - 128, seed)
        round_of(n - 16, n - 32, 136 - 17 - 16, -seed)
    whole = avalanche((low + high) & M64)
    rest = (low * P64_1 + high * P64_4 + (n - seed) * P64_2) & M64
    return whole, (-avalanche(rest)) & M64


def long_hash(data: bytes, seed: int) -> tuple[int, int]:
    secret = b"".join(
        ((u64(SECRET, at) + (-seed if at % 16 else seed)) & M64).to_bytes(8, "little") for at in range(0, 192, 8)
    )
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    blocks, rest = divmod(len(data) - 1, LONG_BLOCK)
    keys = b"".join(secret[8 * n : 8 * n + STRIPE] for n in range(STRIPES))
    scramble = struct.unpack("<8Q", secret[-STRIPE:])
    for block in range(blocks):
        accumulate(acc, data[block * LONG_BLOCK : (block + 1) * LONG_BLOCK], keys)
        acc = [((a ^ (a >> 47) ^ key) * P32_1) & M64 for a, key in zip(acc, scramble)]
    whole = rest // STRIPE * STRIPE
    start = blocks * LONG_BLOCK
    accumulate(acc, data[start : start + whole], keys[:whole])
    accumulate(acc, data[-STRIPE:], secret[-STRIPE - 7 : -7])

    def merged(key: int, begin: int) -> int:
        keyed = [a ^ u64(secret, key + 8 * i) for i, a in enumerate(acc)]
        return avalanche((begin + sum(map(fold, keyed[::2], keyed[1::2]))) & M64)

    n = len(data)
    return merged(11, n * P64_1 & M64), merged(192 - STRIPE - 11, ~(n * P64_2) & M64)


def accumulate(acc: list[int], stripes: bytes, keys: bytes) -> None:
    """Take in up to 16 stripes of 64 bytes, each with its key. Few and large operations: that is the fast way."""
    size = len(stripes)
    data = int.from_bytes(stripes, "little")
    halves = struct.unpack(f"<{size // 4}I", (data ^ int.from_bytes(keys, "little")).to_bytes(size, "little"))
    for lane in range(8):
        acc[lane] += sum(map(mul, halves[2 * lane :: 16], halves[2 * lane + 1 :: 16]))
    # Every other word, so that the sums have room; each word goes to its neighbour's lane.
    for first, words in ((1, data & EVERY_OTHER), (0, data >> 64 & EVERY_OTHER)):
        for bits in (4096, 2048, 1024, 512):
            words = (words >> bits) + (words & ((1 << bits) - 1))
        for lane in range(first, 8, 2):
            acc[lane] = (acc[lane] + (words >> lane // 2 * 128)) & M64


# Files of the replica


def inside(root: Path, *parts: str) -> Path:
    """A path in the replica. Nothing in it may lead out of there, be it a name in a record or a link on the share."""
    path = root.joinpath(*parts)
    expected = os.path.join(os.path.realpath(root), *parts)
    if os.path.normcase(os.path.realpath(path)) != os.path.normcase(expected):
        raise RestoreError(f"{path} is a link, and a replica has none; copy the replica without links and use the copy")
    return path


def open_file(path: Path) -> BinaryIO:
    """A regular file; opening a pipe would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path.open("rb")


def opened(path: Path, files: ExitStack) -> BinaryIO:
    try:
        return files.enter_context(open_file(path))
    except OSError as error:
        raise RestoreError(f"{path} can't be read: {error.strerror}") from None


def read_record(directory: Path, name: str) -> dict[str, Any]:
    """A sealed record, or its copy if it is damaged."""
    reasons = []
    for path in (inside(directory, f"{name}.json"), inside(directory, f"{name}.copy.json")):
        found = unsealed(path)
        if isinstance(found, dict):
            return found
        reasons.append(found)
    raise RestoreError(f"{directory / name}.json {reasons[0]}, and its copy {reasons[1]}")


def unsealed(path: Path) -> dict[str, Any] | str:
    """The content of a sealed record; why it can't be used, if its bytes are not exactly what was written."""

    def canonical(value: object) -> bytes:
        return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    try:
        with open_file(path) as file:
            raw = file.read(16 << 20)
        record = json.loads(raw)
        content = {key: value for key, value in record.items() if key != "seal"}
        seal = hashlib.blake2b(canonical(content), digest_size=32, person=b"replicad.record").hexdigest()
        if record.get("seal") != seal or canonical(record) != raw:
            return "is damaged (its seal does not match its content)"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"can't be used ({error})"
    if content.get("format") != 1:
        return f"is in format {content.get('format')}, and this script knows only format 1"
    return content


class Replica:
    """The points that lead back from the latest one, and the number of a cycle under way."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            names = os.listdir(inside(root, "points"))
        except OSError:
            raise RestoreError(f"{root} holds no 'points': name the directory that replica.json is in") from None
        record = read_record(root, "replica")
        self.replica_id: str = record["replica_id"]
        self.seed = int(record["hash_seed"], 16)
        self.vm: str = record["vm"]
        numbers = [int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,17}", name)]
        if not numbers:
            raise RestoreError(f"{root} has no recovery point yet")
        self.latest = max(numbers)
        self.there = frozenset(numbers)
        self.pending = next((n for n in names if n == f"{self.latest + 1}.pending"), None)

    def chain(self, back_to: int | None = None) -> Iterator[dict[str, Any]]:
        """The points from the latest one back."""
        number: int | None = self.latest
        while number in self.there and (back_to is None or number >= back_to):
            point = read_record(inside(self.root, "points", str(number)), "point")
            if (point["number"], point["replica_id"]) != (number, self.replica_id):
                raise RestoreError(f"{self.root}/points/{number} holds the record of another point or replica")
            yield point
            previous = point["previous"]
            if previous is not None and not 0 < previous < number:
                raise RestoreError(f"point {number} can't follow point {previous}")
            number = previous

    def points_from(self, number: int | None) -> list[dict[str, Any]]:
        """That point (None: the latest) and all that follow it, ascending."""
        number = self.latest if number is None else number
        points = list(self.chain(number))
        if not points or points[-1]["number"] != number:
            have = ", ".join(str(p["number"]) for p in reversed(list(self.chain())))
            raise RestoreError(f"there is no point {number} in {self.root}; there are {have}")
        return points[::-1]


def key_of(path: str) -> str:
    return path.replace("%", "%25").replace("/", "%2F")


def disk_parts(path: str) -> list[str]:
    """The parts of a disk's path, if all of them name something inside a directory."""
    parts = path.split("/")
    for part in parts:
        if part in ("", ".", "..") or re.search(r'[\\:*?"<>|\0-\x1f]', part):
            raise RestoreError(f"a record names a disk {path!r}, which can't be written safely")
    return parts


# Undo logs


class Log:
    """An undo log. `places`: where each chunk's old bytes are in it (None: they were zeros); `hashes`: of these."""

    def __init__(self, path: Path, replica_id: str, disk_id: str, files: ExitStack) -> None:
        self.path = path
        self.file = opened(path, files)
        self.file_bytes: int = os.fstat(self.file.fileno()).st_size
        self.chunk_bytes: int
        self.previous_bytes: int
        head = self.read(0, BLOCK)
        if len(head) < BLOCK or head[:8] != b"RPLUNDO1" or undo_digest(head) != head[-32:]:
            raise RestoreError(f"the header of {path} is damaged")
        version, self.chunk_bytes, replica, disk, _, self.previous_bytes = struct.unpack_from("<II16s16sQQ", head, 8)
        if version != 1 or (replica.hex(), disk.hex()) != (replica_id, disk_id) or self.previous_bytes > MAX_DISK_BYTES:
            raise RestoreError(f"{path} is of another version, disk or replica")
        self.digest, self.end_bytes, self.batches = head[-32:], BLOCK, 0
        self.places: dict[int, int | None] = {}
        self.hashes: dict[int, bytes] = {}
        self.last_batch: list[int] = []
        check_chunk_bytes(self.chunk_bytes, path)
        while self.take_batch():
            pass

    def read(self, position: int, length: int) -> bytes:
        self.file.seek(position)
        return self.file.read(length)

    def chunk_length(self, chunk: int) -> int:
        return max(0, min(self.chunk_bytes, self.previous_bytes - chunk * self.chunk_bytes))

    def take_batch(self) -> bool:
        """Take in the next batch; False if no sound one is there."""
        first = self.read(self.end_bytes, 64)
        if len(first) < 64 or first[:8] != b"RPLBATCH":
            return False
        number, count, data_bytes, durable, _, previous = struct.unpack_from("<IIQII32s", first, 8)
        head_bytes = -(-(64 + 48 * count + 32) // BLOCK) * BLOCK
        if not 0 < count <= 4096 or number != self.batches or previous != self.digest or durable > number:
            return False
        head = self.read(self.end_bytes, head_bytes)
        if len(head) < head_bytes or undo_digest(head) != head[-32:]:
            return False
        saved: list[tuple[int, int | None, bytes]] = []
        position = self.end_bytes + head_bytes
        for at in range(64, 64 + 48 * count, 48):
            chunk, kind, _, old_hash = struct.unpack_from("<QII16s", head, at)
            if kind not in (SAVED, ZERO, BEYOND, AGAIN):
                return False
            if kind in (SAVED, ZERO):
                saved.append((chunk, position if kind == SAVED else None, old_hash))
            if kind == SAVED:
                position += -(-self.chunk_length(chunk) // BLOCK) * BLOCK
        if position != self.end_bytes + head_bytes + data_bytes or position > self.file_bytes:
            return False
        for chunk, place, old_hash in saved:
            if chunk in self.places or self.chunk_length(chunk) == 0:
                raise RestoreError(f"{self.path} is damaged: it saves chunk {chunk} twice, or beyond the disk's end")
            self.places[chunk], self.hashes[chunk] = place, old_hash
        self.last_batch = [chunk for chunk, _, _ in saved]
        self.digest, self.end_bytes, self.batches = head[-32:], position, self.batches + 1
        return True

    def must_be(self, undo: dict[str, Any]) -> None:
        """RestoreError if this is not exactly the log that a point's record names."""
        found = (self.previous_bytes, self.end_bytes, self.batches, self.digest.hex())
        named = (undo["previous_size_bytes"], undo["length_bytes"], undo["batches"], undo["digest"])
        if found != named or self.file_bytes != undo["length_bytes"]:
            which = f"batch {self.batches + 1} of {undo['batches']}"
            raise RestoreError(f"{self.path} is damaged in {which}: the points before it can't be restored")

    def drop_torn(self, seed: int) -> None:
        """Forget what the writer had not got into the log when it died: such chunks were not overwritten yet. Only the
        last batch can have any, for all before it were durable when it was begun."""
        for chunk in self.last_batch:
            place = self.places[chunk]
            if place is not None and chunk_hash(self.read(place, self.chunk_length(chunk)), seed) != self.hashes[chunk]:
                del self.places[chunk], self.hashes[chunk]


def undo_digest(head: bytes) -> bytes:
    return hashlib.blake2b(head[:-32], digest_size=32, person=b"replicad.undo").digest()


def check_chunk_bytes(chunk_bytes: int, subject: object) -> None:
    if not 1 << 16 <= chunk_bytes <= 1 << 22 or chunk_bytes & (chunk_bytes - 1):
        raise RestoreError(f"{subject} is damaged: no disk has chunks of {chunk_bytes} bytes")


def chunk_hash(data: bytes, seed: int) -> bytes:
    return xxh3_128(data, seed) if data.strip(b"\0") else ZERO_HASH


# Manifests


class Manifest:
    """The hashes of a disk's chunks, in pages of 256; a page that is not kept is zeros."""

    chunk_bytes: int
    size_bytes: int

    def __init__(self, path: Path, replica_id: str, disk_id: str, digest: str) -> None:
        self.ids = bytes.fromhex(replica_id) + bytes.fromhex(disk_id)
        self.pages: dict[int, bytearray] = {}
        try:
            with open_file(path) as file:
                self.read(file, path, digest)
        except OSError as error:
            raise RestoreError(
                f"the manifest {path} can't be read: {error.strerror}; '--unchecked' does without"
            ) from None

    def read(self, file: BinaryIO, path: Path, digest: str) -> None:
        damaged = RestoreError(f"the manifest {path} is damaged; '--unchecked' does without")
        head = file.read(BLOCK)
        if len(head) < BLOCK or head[:8] != b"RPLMANI1" or head[-32:].hex() != digest or head[32:64] != self.ids:
            raise damaged
        _, self.chunk_bytes, self.size_bytes, _ = struct.unpack_from("<IIQQ", head, 8)
        check_chunk_bytes(self.chunk_bytes, path)
        if self.size_bytes > MAX_DISK_BYTES:
            raise damaged
        index = file.read(self.index_bytes)
        if manifest_digest(head, index) != head[-32:]:
            raise damaged
        for number in range(self.page_count):
            wanted = index[16 * number : 16 * number + 16]
            if wanted != ZERO_HASH:
                file.seek(BLOCK + len(index) + number * BLOCK)
                page = file.read(BLOCK)
                if page_digest(page) != wanted:
                    raise damaged
                self.pages[number] = bytearray(page)

    @property
    def chunks(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)

    @property
    def page_count(self) -> int:
        return -(-self.chunks // PAGE_HASHES)

    @property
    def index_bytes(self) -> int:
        return -(-16 * self.page_count // BLOCK) * BLOCK

    def hash_of(self, chunk: int) -> bytes:
        page = self.pages.get(chunk // PAGE_HASHES)
        at = chunk % PAGE_HASHES * 16
        return bytes(page[at : at + 16]) if page is not None else ZERO_HASH

    def go_back(self, log: Log) -> None:
        """The manifest of the point before: set the size, put back the old hashes."""
        self.size_bytes = log.previous_bytes
        for number in [n for n in self.pages if n >= self.page_count]:
            del self.pages[number]
        last, kept = divmod(self.chunks, PAGE_HASHES)
        if kept and last in self.pages:
            self.pages[last][16 * kept :] = bytes(BLOCK - 16 * kept)
        for chunk, old_hash in log.hashes.items():
            page = self.pages.setdefault(chunk // PAGE_HASHES, bytearray(BLOCK))
            at = chunk % PAGE_HASHES * 16
            page[at : at + 16] = old_hash

    def digest(self) -> str:
        """What the digest at 4064 would be."""
        index = bytearray(self.index_bytes)
        for number, page in self.pages.items():
            if any(page):
                index[16 * number : 16 * number + 16] = page_digest(page)
        head = struct.pack("<8sIIQQ", b"RPLMANI1", 1, self.chunk_bytes, self.size_bytes, self.chunks) + self.ids
        return manifest_digest(head.ljust(BLOCK, b"\0"), bytes(index)).hex()


def page_digest(page: bytes | bytearray) -> bytes:
    return hashlib.blake2b(page, digest_size=16, person=b"replicad.page").digest()


def manifest_digest(head: bytes, index: bytes) -> bytes:
    return hashlib.blake2b(head[:-32] + index, digest_size=32, person=b"replicad.manif").digest()


# Disks


class Layer:
    """A file that chunks lie in. What it holds of the disk beyond `valid_bytes` was cut off on the way back."""

    def __init__(self, file: BinaryIO, valid_bytes: int) -> None:
        self.file = file
        self.valid_bytes = valid_bytes


class Content:
    """A disk as it was at a point: of each chunk, where it lies."""

    def __init__(self, path: Path, size_bytes: int, chunk_bytes: int, files: ExitStack) -> None:
        self.base = Layer(opened(path, files), path.stat().st_size)
        self.size_bytes, self.chunk_bytes = size_bytes, chunk_bytes
        self.layers = [self.base]
        check_chunk_bytes(chunk_bytes, f"what the records say of {path}")
        self.places: dict[int, tuple[Layer, int | None]] = {}
        self.manifest: Manifest | None = None

    @property
    def chunks(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)

    def go_back(self, log: Log) -> None:
        """Set the size to what it was before, then put the old bytes back."""
        if log.chunk_bytes != self.chunk_bytes:
            raise RestoreError(f"{log.path} is damaged: its chunks are not the disk's")
        self.size_bytes = log.previous_bytes
        for layer in self.layers:
            layer.valid_bytes = min(layer.valid_bytes, log.previous_bytes)
        layer = Layer(log.file, log.previous_bytes)
        self.layers.append(layer)
        for chunk, place in log.places.items():
            self.places[chunk] = (layer, place)

    def read(self, chunk: int) -> bytes:
        start = chunk * self.chunk_bytes
        length = min(self.chunk_bytes, self.size_bytes - start)
        layer, place = self.places.get(chunk, (self.base, start))
        data = b""
        if place is not None:
            layer.file.seek(place)
            data = layer.file.read(max(0, min(length, layer.valid_bytes - start)))
        return data.ljust(length, b"\0")

    def chunks_to_read(self) -> Iterator[int]:
        """All chunks that may be other than zeros, ascending."""
        if self.manifest is not None:
            for number in sorted(self.manifest.pages):
                first = number * PAGE_HASHES
                yield from (c for c in range(first, first + PAGE_HASHES) if self.manifest.hash_of(c) != ZERO_HASH)
            return
        last = -1
        for chunk in heapq.merge(self.base_chunks(), sorted(self.places)):
            if last < chunk < self.chunks:
                yield chunk
                last = chunk

    def base_chunks(self) -> Iterator[int]:
        """The chunks that the disk's own file has; holes are passed over where the system can tell them."""
        chunk = 0
        while chunk * self.chunk_bytes < self.base.valid_bytes:
            if hasattr(os, "SEEK_DATA"):
                try:
                    data_at = os.lseek(self.base.file.fileno(), chunk * self.chunk_bytes, os.SEEK_DATA)
                    chunk = data_at // self.chunk_bytes
                except OSError as error:
                    if error.errno == errno.ENXIO:  # there is none from here on
                        return
            yield chunk
            chunk += 1


def open_disk(replica: Replica, points: list[dict[str, Any]], disk_id: str, checked: bool, files: ExitStack) -> Content:
    """One disk as it was at `points[0]`; all later points follow it in the list."""
    states: list[dict[str, Any]] = []
    for point in points:
        state = next((d for d in point["disks"] if d["id"] == disk_id), None)
        if state is None:
            break
        states.append(state)
    first, last, count = states[0], states[-1], len(states)
    steps = [(p["number"], d["path"], d["undo"]) for p, d in zip(points[1:], states[1:])]
    is_latest = count == len(points)
    if is_latest:
        named, key = last, key_of(last["path"])
        own = "/".join(["disks", *disk_parts(last["path"])])
        places = [own + ".updating", *([own + ".initial"] if last["change"] == "initial" else []), own]
        manifests = []
    else:
        # It is gone since that point, which has its last content, and what leads from there to the point before.
        number = points[count]["number"]
        named = {d["id"]: d for d in points[count]["removed"]}[disk_id]
        key = key_of(named["path"])
        steps.append((number, named["path"], named.get("undo")))
        # Of a point that was pruned since, what it had put aside may still lie beside its own record.
        since = named.get("since")
        stem = key if since is None else f"{key}.{since}"
        homes = [f"points/{home}/{stem}" for home in (number, named.get("origin")) if home is not None]
        places, manifests = [f"{home}.removed" for home in homes], [f"{home}.xxh3" for home in homes]
        if since in (None, number):  # the writer may have died before it put them aside
            places.append("/".join(["disks", *disk_parts(named["path"])]))
    path = first_there(replica, places)
    content = Content(path, last["size_bytes"], last["chunk_bytes"], files)
    if checked:
        manifests.append(f"manifests/{key}.{named['manifest']['point']}.xxh3")
        found = first_there(replica, manifests)
        content.manifest = Manifest(found, replica.replica_id, disk_id, named["manifest"]["digest"])
    if is_latest and replica.pending and path.name.endswith(".updating"):
        journal = inside(replica.root, "points", replica.pending, f"{key}.undo")
        if journal.exists():
            log = Log(journal, replica.replica_id, disk_id, files)
            if log.previous_bytes != last["size_bytes"]:
                raise RestoreError(f"{journal} is damaged: it is for a disk of {log.previous_bytes} bytes")
            log.drop_torn(replica.seed)
            content.go_back(log)
    for number, name, undo in reversed(steps):
        if undo is not None:
            file_name = undo["file"]
            if not re.fullmatch(re.escape(key_of(name)) + r"\.(undo|[1-9][0-9]{0,17}\.merged)", file_name):
                raise RestoreError(f"the record of point {number} names a log {file_name!r}, which none is called")
            log = Log(inside(replica.root, "points", str(number), file_name), replica.replica_id, disk_id, files)
            log.must_be(undo)
            content.go_back(log)
            if content.manifest is not None:
                content.manifest.go_back(log)
    where = f"{first['path']} of point {points[0]['number']}"
    sizes = {content.size_bytes, *([content.manifest.size_bytes] if content.manifest is not None else [])}
    if sizes != {first["size_bytes"]}:
        raise RestoreError(f"the undo logs do not lead to the size of {where}, which is {first['size_bytes']} bytes")
    if content.manifest is not None and content.manifest.digest() != first["manifest"]["digest"]:
        raise RestoreError(f"the undo logs do not lead to the manifest of {where}; '--unchecked' does without")
    return content


def first_there(replica: Replica, paths: Iterable[str]) -> Path:
    found = [inside(replica.root, *path.split("/")) for path in paths]
    for path in found:
        if path.is_file():
            return path
    raise RestoreError(f"the replica has no {' and no '.join(map(str, found))}")


def restore_disk(content: Content, target: Path, path: str, seed: int) -> int:
    """Write one disk; returns how many bytes of it are not zeros."""
    parts = disk_parts(path)
    final = target.joinpath(*parts)
    partial = final.with_name(final.name + PARTIAL)
    final.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with partial.open("xb") as file:
        try:
            for chunk in content.chunks_to_read():
                data = content.read(chunk)
                if content.manifest is not None and chunk_hash(data, seed) != content.manifest.hash_of(chunk):
                    raise RestoreError(
                        f"chunk {chunk} of {path} is damaged on the replica; '--unchecked' takes it as it is"
                    )
                if data.strip(b"\0"):
                    file.seek(chunk * content.chunk_bytes)
                    file.write(data)
                    written += len(data)
            file.truncate(content.size_bytes)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.close()
            partial.unlink()
            raise
    give_name(partial, final)
    return written


def give_name(partial: Path, final: Path) -> None:
    """Rename without ever replacing anything."""
    try:
        os.link(partial, final)
    except FileExistsError:
        raise RestoreError(f"{final} is there already; the restored disk is left in {partial}") from None
    except OSError:  # the file system has no hard links
        if os.path.lexists(final):
            raise RestoreError(f"{final} is there already; the restored disk is left in {partial}") from None
        partial.rename(final)
    else:
        partial.unlink()


def restore(replica: Replica, target: Path, number: int | None, checked: bool) -> None:
    points = replica.points_from(number)
    point = points[0]
    own, there = replica.root.resolve(), target.resolve()
    if own == there or own in there.parents:
        raise RestoreError(f"{target} lies inside the replica; name another directory")
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise RestoreError(f"{target} is not empty; name an empty directory, so that nothing can be overwritten")
    for disk in point["disks"]:
        with ExitStack() as files:
            content = open_disk(replica, points, disk["id"], checked, files)
            written = restore_disk(content, target, disk["path"], replica.seed)
        say(f"{disk['path']}: {disk['size_bytes']} bytes, {written} of them not zeros")
    how = "every byte checked" if checked else "NOT checked"
    say(f"{replica.vm}: point {point['number']} of {point['time']} ({point['consistency']}) is in {target}, {how}")


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line in which nothing from the replica can steer the terminal."""
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in text), file=file)


def main() -> int:
    parser = argparse.ArgumentParser(description="Restore a recovery point of a replica. Nothing is overwritten.")
    parser.add_argument("replica", type=Path, metavar="REPLICA_DIR", help="the directory that replica.json is in")
    parser.add_argument("target", type=Path, nargs="?", metavar="TARGET_DIR", help="empty; left out: list the points")
    parser.add_argument("--point", type=int, metavar="N", help="which point (default: the latest)")
    parser.add_argument("--unchecked", action="store_true", help="faster: take the bytes as they are, damaged or not")
    arguments = parser.parse_args()
    try:
        replica = Replica(arguments.replica)
        if arguments.target is not None:
            restore(replica, arguments.target, arguments.point, not arguments.unchecked)
            return 0
        for point in replica.chain():
            say(f"point {point['number']}  {point['time']}  {point['consistency']}  {len(point['disks'])} disks")
    except RestoreError as problem:
        say(f"restore_point: {problem}", file=sys.stderr)
    except OSError as error:
        say(f"restore_point: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        say(f"restore_point: a sealed record of the replica makes no sense ({error!r})", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
