"""`make screenshots`: pictures of the dashboard for the documentation, of a fleet with a past."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.support.browser import chromium, visit
from tests.support.dashboard_demo import demo_fleet

_DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 1000}}
_PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 1.5, "is_mobile": True}
_PICTURES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("dashboard-light.png", "file02", {**_DESK, "color_scheme": "light"}),
    ("dashboard-dark.png", "db01", {**_DESK, "color_scheme": "dark"}),
    ("dashboard-phone.png", "file02", {**_PHONE, "color_scheme": "light"}),
)


def main(directory: Path) -> None:
    """Write them."""
    with tempfile.TemporaryDirectory() as temporary, demo_fleet(Path(temporary)) as fleet, chromium() as browser:
        for name, vm, how in _PICTURES:
            with visit(browser, fleet.url, **how) as seen:
                page = seen.page
                page.locator("#token").fill(fleet.token)
                page.keyboard.press("Enter")
                page.get_by_role("link").filter(has_text=vm).click()
                for piece in ("#n-facts", "#h-charts canvas >> nth=1", "#p-points", "#h-cycles"):
                    expect(page.locator(piece)).to_be_attached()
                page.mouse.move(0, 0)
                page.screenshot(path=directory / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
