"""Templates and assets, read once from the package. What a template is given can't become markup (autoescape)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from replicad.model.durations import duration_in_words

from . import views, words

_PACKAGE = __name__.rpartition(".")[0]
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page."""

    content: bytes
    media_type: str
    digest: str


def _read_assets() -> dict[str, Asset]:
    found = {}
    for file in (files(_PACKAGE) / "assets").iterdir():
        media_type = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            found[file.name] = Asset(content, media_type, sha256(content).hexdigest()[:16])
    return found


_ASSETS = _read_assets()
ASSETS = {name: f"/dashboard/assets/{name}?{found.digest}" for name, found in _ASSETS.items()}
"""The URL of each asset, by its name."""


def asset(name: str) -> Asset | None:
    """The asset of this name, if there is one."""
    return _ASSETS.get(name)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(_PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters.update(
        duration=duration_in_words,
        bytes=words.bytes_in_words, utc=words.moment_in_utc, took=words.took, of_time=words.of_time,
        iso=lambda moment: moment.isoformat(), path=views.machine_path, percent=views.progress_percent,
    )  # fmt: skip
    made.globals.update(mark=views.mark_of, counted=words.counted)
    return made


def render(template: str, **facts: object) -> str:
    """A template with these facts; one that it lacks is an error."""
    return _environment().get_template(template).render(facts)
