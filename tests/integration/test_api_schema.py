"""What the API says of itself at `/openapi.json` is how it behaves, whatever is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.support.live_api import TOKEN, configuration, free_port, live_api_on_a_thread

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    port = free_port()
    with live_api_on_a_thread(configuration(tmp_path_factory.mktemp("s"), ("web", "db"), tcp_port=port)):
        url = f"http://127.0.0.1:{port}/openapi.json"
        yield schemathesis.openapi.from_url(url, headers=HEADERS).exclude(path="/events")  # it has no end


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
@settings(max_examples=12, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_request_is_answered_as_the_schema_says(case: Any) -> None:
    case.call_and_validate(headers=HEADERS, timeout=30)
