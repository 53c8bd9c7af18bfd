"""What all tests share."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

FILES = 16  # that a test with few_files may have open besides what it begins with

# How long one example takes says more about the machine's load than about the code.
settings.register_profile("hostctl", deadline=None)
settings.load_profile("hostctl")


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let this process open few files more than it has; how many those are depends on what ran before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + FILES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
