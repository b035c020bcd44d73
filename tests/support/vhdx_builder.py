"""Builds VHDX images from nothing but MS-VHDX, for tests: the kinds that qemu-img can't make, and broken ones.

An image is sparse, in memory, and can be changed at any byte; `save` writes it as a sparse file.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from replicad.vhdx import ReadRequest, Step
from replicad.vhdx.crc32c import crc32c

T = TypeVar("T")

MIB = 1024 * 1024
PAGE = 4096
LOG_AT = MIB
HEADERS = (64 * 1024, 128 * 1024)
REGION_TABLES = (192 * 1024, 256 * 1024)
METADATA_ITEMS_AT = 64 * 1024

BAT = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
FILE_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
VIRTUAL_DISK_SIZE = uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
VIRTUAL_DISK_ID = uuid.UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR_SIZE = uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR_SIZE = uuid.UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
DISK_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")
DATA_WRITE_GUID = uuid.UUID("AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE")
VHDX_LOCATOR = uuid.UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULLY_PRESENT, PARTIALLY_PRESENT = 0, 1, 2, 3, 6, 7


class Image:
    """A sparse file in memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pages: dict[int, bytearray] = {}
        self.places: dict[str, int] = {}  # where the builder put things

    def put(self, offset: int, data: bytes) -> None:
        """Write, growing the file as needed."""
        self.size = max(self.size, offset + len(data))
        at = 0
        while at < len(data):
            number, low = divmod(offset + at, PAGE)
            part = data[at : at + PAGE - low]
            self.pages.setdefault(number, bytearray(PAGE))[low : low + len(part)] = part
            at += len(part)

    def get(self, offset: int, length: int) -> bytes:
        """Read; short at the end of the file."""
        length = max(0, min(length, self.size - offset))
        first, last = offset // PAGE, -(-(offset + length) // PAGE)
        if all(number not in self.pages for number in range(first, last)):
            return bytes(length)
        joined = b"".join(bytes(self.pages.get(number, bytes(PAGE))) for number in range(first, last))
        return joined[offset - first * PAGE :][:length]

    def flip(self, offset: int, mask: int = 1) -> None:
        """Invert the bits of `mask` in one byte."""
        self.put(offset, bytes([self.get(offset, 1)[0] ^ mask]))

    def seal(self, offset: int, length: int) -> None:
        """Write the right CRC-32C into the header, region table or log entry at `offset`."""
        self.put(offset + 4, bytes(4))
        self.put(offset + 4, crc32c(self.get(offset, length)).to_bytes(4, "little"))

    def seal_all(self) -> None:
        """Make the checksums of both headers and both region tables right."""
        for offset in HEADERS:
            self.seal(offset, PAGE)
        for offset in REGION_TABLES:
            self.seal(offset, 64 * 1024)

    def copy(self) -> Image:
        """An independent image with the same content."""
        other = Image(self.size)
        other.pages = {number: bytearray(page) for number, page in self.pages.items()}
        other.places = dict(self.places)
        return other

    def save(self, path: Path) -> Path:
        """Write it as a sparse file."""
        with path.open("wb") as file:
            for number, page in self.pages.items():
                file.seek(number * PAGE)
                file.write(page)
            file.truncate(self.size)
        return path


@dataclass(frozen=True)
class Block:
    """One payload block: its state, its first bytes, and (partially present) which sectors are here."""

    state: int = FULLY_PRESENT
    data: bytes = b""
    sectors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Spec:
    """What to build. Everything has a sound default."""

    virtual_size: int = 64 * MIB
    block_size: int = MIB
    logical_sector: int = 512
    physical_sector: int = 4096
    fixed: bool = False
    blocks: Mapping[int, Block] = field(default_factory=dict)
    parent: Mapping[str, str] | None = None
    disk_id: uuid.UUID = DISK_ID
    data_write_guid: uuid.UUID = DATA_WRITE_GUID
    log_guid: uuid.UUID | None = None
    log_length: int = MIB
    sequence: int = 8
    creator: str = "replicad's tests"


def build(spec: Spec | None = None) -> Image:
    """An image that keeps every rule of MS-VHDX. Layout: headers, log, metadata, BAT, blocks."""
    spec = spec or Spec()
    ratio = (1 << 23) * spec.logical_sector // spec.block_size
    blocks = -(-spec.virtual_size // spec.block_size)
    entries = blocks + max(blocks - 1, 0) // ratio if spec.parent is None else -(-blocks // ratio) * (ratio + 1)
    metadata_at = LOG_AT + spec.log_length
    bat_at = metadata_at + MIB
    bat_length = max(1, -(-entries * 8 // MIB)) * MIB
    image = Image(bat_at + bat_length)
    image.places = {"log": LOG_AT, "metadata": metadata_at, "bat": bat_at, "bat_length": bat_length, "ratio": ratio}
    image.put(0, b"vhdxfile" + spec.creator.encode("utf-16-le"))
    for offset, sequence in zip(HEADERS, (spec.sequence, spec.sequence + 1), strict=True):
        image.put(offset, header(spec, sequence))
    for offset in REGION_TABLES:
        image.put(offset, region_table([(BAT, bat_at, bat_length, 1), (METADATA, metadata_at, MIB, 1)]))
    _put_metadata(image, spec, metadata_at)
    _put_blocks(image, spec, bat_at, ratio)
    return image


def header(spec: Spec, sequence: int) -> bytes:
    """One header, sealed (§2.2.2)."""
    log_guid = spec.log_guid.bytes_le if spec.log_guid else bytes(16)
    body = struct.pack(
        "<4sIQ16s16s16sHHIQ", b"head", 0, sequence, uuid.UUID(int=7).bytes_le, spec.data_write_guid.bytes_le,
        log_guid, 0, 1, spec.log_length, LOG_AT,
    )  # fmt: skip
    return sealed(body.ljust(PAGE, b"\0"))


def region_table(regions: Sequence[tuple[uuid.UUID, int, int, int]]) -> bytes:
    """A region table of (GUID, offset, length, required), sealed (§2.2.3)."""
    body = struct.pack("<4sIII", b"regi", 0, len(regions), 0)
    body += b"".join(struct.pack("<16sQII", g.bytes_le, offset, length, flags) for g, offset, length, flags in regions)
    return sealed(body.ljust(64 * 1024, b"\0"))


def sealed(data: bytes) -> bytes:
    """`data` with its CRC-32C in bytes 4 to 8."""
    data = data[:4] + bytes(4) + data[8:]
    return data[:4] + crc32c(data).to_bytes(4, "little") + data[8:]


def locator(entries: Mapping[str, str]) -> bytes:
    """A parent locator (§2.6.2.6)."""
    texts, table = b"", b""
    at = 20 + 12 * len(entries)
    for key, value in entries.items():
        raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
        key_at = at + len(texts)
        texts += raw_key + raw_value
        table += struct.pack("<IIHH", key_at, key_at + len(raw_key), len(raw_key), len(raw_value))
    return VHDX_LOCATOR.bytes_le + struct.pack("<HH", 0, len(entries)) + table + texts


def _put_metadata(image: Image, spec: Spec, at: int) -> None:
    flags = int(spec.fixed) | (2 if spec.parent is not None else 0)
    items: list[tuple[str, uuid.UUID, int, bytes]] = [
        ("file parameters", FILE_PARAMETERS, 4, struct.pack("<II", spec.block_size, flags)),
        ("virtual disk size", VIRTUAL_DISK_SIZE, 6, struct.pack("<Q", spec.virtual_size)),
        ("virtual disk id", VIRTUAL_DISK_ID, 6, spec.disk_id.bytes_le),
        ("logical sector size", LOGICAL_SECTOR_SIZE, 6, struct.pack("<I", spec.logical_sector)),
        ("physical sector size", PHYSICAL_SECTOR_SIZE, 6, struct.pack("<I", spec.physical_sector)),
    ]
    if spec.parent is not None:
        items.append(("parent locator", PARENT_LOCATOR, 4, locator(spec.parent)))
    image.put(at, struct.pack("<8sHH", b"metadata", 0, len(items)))
    item_at = METADATA_ITEMS_AT
    for index, (name, identifier, item_flags, value) in enumerate(items):
        entry_at = at + 32 + 32 * index
        image.put(entry_at, struct.pack("<16sIIII", identifier.bytes_le, item_at, len(value), item_flags, 0))
        image.put(at + item_at, value)
        image.places[f"{name} entry"] = entry_at
        image.places[name] = at + item_at
        item_at += -(-len(value) // 8) * 8


def bat_entry_at(image: Image, block: int) -> int:
    """Where the BAT entry of a payload block lies."""
    ratio = image.places["ratio"]
    return image.places["bat"] + (block // ratio * (ratio + 1) + block % ratio) * 8


def bitmap_entry_at(image: Image, chunk: int) -> int:
    """Where the BAT entry of a chunk's sector bitmap lies."""
    ratio = image.places["ratio"]
    return image.places["bat"] + (chunk * (ratio + 1) + ratio) * 8


def set_entry(image: Image, at: int, state: int, file_offset: int = 0) -> None:
    """Write one BAT entry (§2.5.1)."""
    image.put(at, struct.pack("<Q", file_offset // MIB << 20 | state))


def _put_blocks(image: Image, spec: Spec, bat_at: int, ratio: int) -> None:
    bitmaps: dict[int, int] = {}  # chunk -> where its bitmap lies
    for block, content in spec.blocks.items():
        if content.state not in (FULLY_PRESENT, PARTIALLY_PRESENT):
            set_entry(image, bat_entry_at(image, block), content.state)
            continue
        at = image.size
        image.size += spec.block_size
        image.put(at, content.data)
        image.places[f"block {block}"] = at
        set_entry(image, bat_entry_at(image, block), content.state, at)
        if content.state == PARTIALLY_PRESENT:
            chunk = block // ratio
            if chunk not in bitmaps:
                bitmaps[chunk] = image.size
                image.size += MIB
                set_entry(image, bitmap_entry_at(image, chunk), FULLY_PRESENT, bitmaps[chunk])
            for sector in content.sectors:
                bit = block % ratio * (spec.block_size // spec.logical_sector) + sector
                byte_at = bitmaps[chunk] + bit // 8
                image.put(byte_at, bytes([image.get(byte_at, 1)[0] | 1 << bit % 8]))


@dataclass(frozen=True)
class Data:
    """A data descriptor: 4096 bytes for `offset` of the file (§2.3.1.3)."""

    offset: int
    content: bytes


@dataclass(frozen=True)
class Zeros:
    """A zero descriptor (§2.3.1.2)."""

    offset: int
    length: int


def log_entry(
    log_guid: uuid.UUID, sequence: int, tail: int, descriptors: Sequence[Data | Zeros], *, flushed: int, last: int
) -> bytes:
    """One log entry, sealed (§2.3.1)."""
    table, sectors = b"", b""
    for item in descriptors:
        if isinstance(item, Zeros):
            table += struct.pack("<4s4xQQQ", b"zero", item.length, item.offset, sequence)
        else:
            table += struct.pack(
                "<4s4s8sQQ", b"desc", item.content[-4:], item.content[:8], item.offset, sequence
            )  # fmt: skip
            sectors += struct.pack("<4sI", b"data", sequence >> 32) + item.content[8:-4]
            sectors += struct.pack("<I", sequence & 0xFFFFFFFF)
    table_length = -(-(64 + len(table)) // PAGE) * PAGE
    head = struct.pack(
        "<4sIIIQII16sQQ", b"loge", 0, table_length + len(sectors), tail, sequence, len(descriptors), 0,
        log_guid.bytes_le, flushed, last,
    )  # fmt: skip
    return sealed((head + table).ljust(table_length, b"\0") + sectors)


def put_in_log(image: Image, position: int, entry: bytes, log_length: int = MIB) -> int:
    """Write an entry at `position` of the log, round its end; the position behind it."""
    for at in range(0, len(entry), PAGE):
        image.put(LOG_AT + (position + at) % log_length, entry[at : at + PAGE])
    return (position + len(entry)) % log_length


@dataclass
class Reads:
    """What a parser asked for."""

    count: int = 0
    total_bytes: int = 0
    longest_bytes: int = 0


def drive(step: Step[T], image: Image, reads: Reads | None = None) -> T:
    """Run a parser over an image, holding it to what it promises of its requests."""
    reads = reads if reads is not None else Reads()
    try:
        request: ReadRequest = next(step)
        while True:
            assert 0 < request.length_bytes <= MIB
            assert request.offset_bytes >= 0
            assert request.offset_bytes + request.length_bytes <= image.size
            reads.count += 1
            reads.total_bytes += request.length_bytes
            reads.longest_bytes = max(reads.longest_bytes, request.length_bytes)
            request = step.send(image.get(request.offset_bytes, request.length_bytes))
    except StopIteration as stop:
        result: T = stop.value
        return result
