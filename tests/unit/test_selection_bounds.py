"""A source whose server lists more than there can be: looking for disks ends."""

from __future__ import annotations

import builtins
from itertools import count

import pytest

from replicad.model.errors import NotFoundError
from replicad.storage.decorated import DecoratedShare
from replicad.storage.memory import MemoryShare
from replicad.storage.port import Stat
from replicad.tracking.selection import Selection, select_files

ANY = Selection(("*.vhdx",), (), ())


class Endless(DecoratedShare):
    """A share of which every directory holds a few more."""

    def __init__(self, kind: str) -> None:
        super().__init__(MemoryShare("memory"))
        self.listings = 0
        self._kind = kind
        self._numbers = count()

    async def list(self, path: str) -> builtins.list[Stat]:
        self.listings += 1
        names = (f"{next(self._numbers)}" for _ in range(9))
        return [Stat(name, self._kind != "file", 0, 0, 0, self._kind == "link") for name in names] + [
            Stat(f"{next(self._numbers)}", True, 0, 0, 0, False)
        ]


@pytest.mark.parametrize("kind", ["directory", "link", "file"])
async def test_directories_without_end_are_not_gone_through(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicad.tracking.selection._MAX_ENTRIES", 500)
    share = Endless(kind)
    with pytest.raises(NotFoundError, match=r"more than 500 files and directories|no file matches"):
        await select_files(share, ANY, str)
    assert share.listings <= 50
