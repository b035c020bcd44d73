"""Makes the guest, before the tests that use it."""

from __future__ import annotations

import sys

from tests.support.guest.image import NoGuestError, build_guest

try:
    build_guest()
except NoGuestError as error:
    sys.exit(f"error: {error}")
