"""Shares on SMB 3 servers, by smbprotocol."""

from .endpoint import Endpoint
from .pool import SmbPool

__all__ = ["Endpoint", "SmbPool"]
