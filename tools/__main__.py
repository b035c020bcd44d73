"""`python -m tools` writes what is made from the program into share/, as `make reference` does."""

from __future__ import annotations

from .made import SHARE, made

for name, text in made().items():
    path = SHARE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
