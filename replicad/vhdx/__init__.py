"""VHDX bytes in, facts out (MS-VHDX), and what to write to replay a log or to rewrite a parent locator. Pure: drive
`parse`, `check_structure`, `replay_log` or `rewrite_parent_locator` with bytes."""

from .chains import Chains, Cycle, Fault, Link, MissingParent, WrongLinkage, WrongSectors, read_chains
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
from .parent_locator import rewrite_parent_locator
from .parent_paths import ParentPaths, parent_paths
from .parse import check_structure, parse
from .reading import MAX_READ_BYTES, ReadRequest, Step
from .replaying import replay_log
from .writing import Change, Extend, Stage, Stages, Write, Zeros

__all__ = [
    "MAX_READ_BYTES",
    "BatFacts",
    "Chains",
    "Change",
    "Cycle",
    "DamagedVhdxError",
    "Extend",
    "Fault",
    "HeaderFacts",
    "Kind",
    "Link",
    "LogFacts",
    "LogState",
    "MissingParent",
    "NotVhdx",
    "ParentPaths",
    "ReadRequest",
    "RegionFacts",
    "Stage",
    "Stages",
    "Step",
    "VhdFacts",
    "VhdxFacts",
    "Write",
    "WrongLinkage",
    "WrongSectors",
    "Zeros",
    "check_structure",
    "parent_paths",
    "parse",
    "read_chains",
    "replay_log",
    "rewrite_parent_locator",
]
