"""Fixtures of the tests that run real servers."""

from __future__ import annotations

from tests.support.samba import samba as samba
from tests.support.samba import samba_server as samba_server
