"""What came of a hook. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_OUTPUT_BYTES = 4 << 10
"""As much as is kept of what a program printed, or a server answered."""


@dataclass(frozen=True, slots=True)
class HookResult:
    """`failure` is a clause that says what went wrong, None if nothing did; `output` the beginning of what it said."""

    failure: str | None
    output: str = ""
