"""Recognising the older VHD format by its footer. Pure. replicad treats such disks as plain bytes."""

from __future__ import annotations

from struct import Struct

from .facts import Kind, VhdFacts

FOOTER_BYTES = 512

_FOOTER = Struct(">8sIIQI4sI4sQQIII")
_KINDS = {2: Kind.FIXED, 3: Kind.DYNAMIC, 4: Kind.DIFFERENCING}


def parse_footer(data: bytes) -> VhdFacts | None:
    """What a VHD footer says ("Virtual Hard Disk Image Format Specification"); None if `data` is no such footer."""
    cookie, *_, size, _, kind, checksum = _FOOTER.unpack_from(data)
    if cookie != b"conectix" or kind not in _KINDS:
        return None
    actual = ~(sum(data) - sum(data[64:68])) & 0xFFFFFFFF
    return VhdFacts(_KINDS[kind], size, actual == checksum)
