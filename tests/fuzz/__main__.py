"""Coverage-guided fuzzing of one target: `python -m tests.fuzz TARGET [CORPUS] [libFuzzer options]`.

Needs atheris, which is no part of the development tools: `pip install -e '.[fuzz]'`. A crash leaves its input in a file
of the current directory.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["replicad", "json"]):
    from tests.support.fuzz_targets import TARGETS


def main() -> None:
    """Run until the options say that it is enough."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz TARGET [CORPUS] [libFuzzer options]; targets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


main()
