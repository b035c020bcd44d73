"""For all tests."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("replicad", parent=settings(), deadline=None)
settings.load_profile("replicad")


_COUNTED = ("crash points", "disturbed runs")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many places were disturbed, and how often (tests/fault/test_crash_points.py)."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            properties = getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ()
            counts.update({name: value for name, value in properties if name in _COUNTED})
    if counts:
        terminalreporter.write_line(", ".join(f"{name}: {counts[name]}" for name in _COUNTED if counts[name]))
