"""Shares on local file systems. Importable everywhere; what needs POSIX says so when it is used."""

from .share import LocalShare

__all__ = ["LocalShare"]
