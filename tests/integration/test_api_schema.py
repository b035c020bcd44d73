"""What the API says of itself at `/openapi.json` is how it behaves, whatever is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.support.live_api import TOKEN, configuration, free_port, live_api_on_a_thread

_HEADERS = {"Authorization": f"Bearer {TOKEN}"}
_EXAMPLES = 10
_TAKES_ADDRESSES = "POST /moves"


@pytest.mark.timeout(500)
def test_any_request_is_answered_as_the_schema_says(tmp_path: Path) -> None:
    port = free_port()
    with live_api_on_a_thread(configuration(tmp_path, ("web", "db"), tcp_port=port)):
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json", headers=_HEADERS)
        tried = []
        operations: list[Any] = list(schema.get_all_operations())
        accepted = schema.config.checks.positive_data_acceptance.expected_statuses
        for operation in operations:
            found = operation.ok()
            if found.path != "/events":  # it has no end
                # what can be read as an address, and as a timetable, is more than a schema can say
                more = ["400"] if found.label == _TAKES_ADDRESSES else []
                schema.config.checks.positive_data_acceptance.expected_statuses = [*accepted, *more]
                _try(found)
                tried.append(found.path)
    assert len(tried) == 22


def _try(operation: Any) -> None:
    @settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy())
    def requests_fit(case: Any) -> None:
        case.call_and_validate(headers=_HEADERS, timeout=60)

    requests_fit()
