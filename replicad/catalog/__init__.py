"""This host's memory, kept in SQLite: what machines have ahead, the history of their cycles, and moves."""

from .catalog import Catalog, open_catalog

CATALOG_FILE = "catalog.sqlite"
"""Its name in the state directory."""

__all__ = ["CATALOG_FILE", "Catalog", "open_catalog"]
