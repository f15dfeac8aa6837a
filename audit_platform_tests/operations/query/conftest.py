"""The story once a session, as far as it was sealed: asking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from audit_platform.operations.query.reader import Reader
from audit_platform_tests.operations.query.story import Story, index, tell
from audit_platform_tests.world import open_world


@dataclass(frozen=True)
class Asked:
    """A story told, and a reader of it."""

    story: Story
    reader: Reader


@pytest.fixture(scope="session", params=[0, 1, 2], ids=["unsealed", "one sealed", "two sealed"])
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asked]:
    """The three days, none, one or two of them sealed."""
    with open_world(tmp_path_factory.mktemp("asked")) as world:
        story = tell(world, request.param)
        index(world)
        yield Asked(story, Reader(world.platform))
