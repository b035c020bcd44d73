"""This host's memory, kept in SQLite: what machines have ahead, and the history of their cycles."""

from .catalog import Catalog, open_catalog

__all__ = ["Catalog", "open_catalog"]
