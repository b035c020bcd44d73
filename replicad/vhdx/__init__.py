"""VHDX bytes in, facts out (MS-VHDX). Read-only and pure: drive `parse` or `check_structure` with bytes."""

from .facts import (
    BatFacts,
    DamagedVhdxError,
    HeaderFacts,
    Kind,
    LogFacts,
    LogState,
    NotVhdx,
    RegionFacts,
    VhdFacts,
    VhdxFacts,
)
from .parent_paths import ParentPaths, parent_paths
from .parse import check_structure, parse
from .reading import MAX_READ_BYTES, ReadRequest, Step

__all__ = [
    "MAX_READ_BYTES",
    "BatFacts",
    "DamagedVhdxError",
    "HeaderFacts",
    "Kind",
    "LogFacts",
    "LogState",
    "NotVhdx",
    "ParentPaths",
    "ReadRequest",
    "RegionFacts",
    "Step",
    "VhdFacts",
    "VhdxFacts",
    "check_structure",
    "parent_paths",
    "parse",
]
