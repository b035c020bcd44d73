"""A real browser, Debian's Chromium, that writes down all that pages complain of and all that they ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 20_000

_HERE = Path(__file__).parent
LOW_CONTRASTS = (_HERE / "low_contrasts.js").read_text(encoding="utf-8")
"""Texts that have less than 4.5:1 (WCAG 2.2, AA) against what is behind them."""
FAULTS_FOR_READERS = (_HERE / "faults_for_readers.js").read_text(encoding="utf-8")
"""What keeps a screen reader from telling what there is."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser; each page of it has a profile of its own. A machine that can't run it fails what needs it."""
    assert CHROMIUM.exists(), f"{CHROMIUM} is missing: 'make test' installs it, or: apt-get install chromium"
    with sync_playwright() as playwright:
        try:
            # Root may not use Chromium's sandbox; all that it sees is ours. /dev/shm is small in containers.
            options = [
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--disable-sync",
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
            ]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        except Error as error:
            raise AssertionError(f"Chromium does not start here, and the dashboard can't be tried: {error}") from None
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page, and what was seen of it."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def is_clean(self) -> None:
        """Nothing broke the content security policy or threw, and nothing left the origin."""
        assert not self.complaints, self.complaints
        assert [url for url in self.asked if not url.startswith(self.origin)] == []
        assert self.page.evaluate("window.violations") == []


@contextmanager
def visit(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """A page at `url`, at the end of which `is_clean` must hold. It can reach nothing but its own origin."""
    origin = "/".join(url.split("/")[:3]) + "/"
    profile = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    try:
        profile.set_default_timeout(PATIENCE_MS)
        page = profile.new_page()
        made = Visit(page, origin)
        page.add_init_script(
            "window.violations = []; document.addEventListener('securitypolicyviolation', "
            "(event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`))"
        )
        page.on("console", lambda message: _hear(made, message))
        page.on("pageerror", lambda error: made.complaints.append(str(error)))
        page.on("request", lambda request: made.asked.append(request.url))
        page.goto(url)
        yield made
        made.is_clean()
    finally:
        profile.close()


def _hear(visit: Visit, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        visit.complaints.append(message.text)
