"""Each test of the contract runs against each adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.adapters import ADAPTERS, Adapter, Factory, Tree


@pytest.fixture(
    scope="session", params=[pytest.param(adapter, id=adapter.name, marks=adapter.marks) for adapter in ADAPTERS]
)
def new_tree(request: pytest.FixtureRequest) -> Iterator[Factory]:
    """Makes empty trees of the adapter under test."""
    adapter: Adapter = request.param
    with adapter.session() as factory:
        yield factory


@pytest.fixture
async def tree(new_tree: Factory) -> AsyncIterator[Tree]:
    """An empty tree."""
    async with new_tree() as made:
        yield made
