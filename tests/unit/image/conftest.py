"""The host's own mkfs.erofs: erofs-utils of the suite that releases are made of, whatever this machine has."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hostctl.compose import tools
from hostctl.compose.cache import Cache
from hostctl.compose.lock import cache_folder
from hostctl.compose.packages import DEFAULT_MIRROR, Apt, fetch_packages, known_packages, select
from hostctl.image.layers import make_erofs

SUITE = "trixie"


def _extract(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        apt = Apt(Path(scratch), DEFAULT_MIRROR, SUITE)
        apt.update()
        known = known_packages((url, path.read_text()) for url, path in apt.indexes())
        wanted = select(apt.resolve(["erofs-utils", "bash", "coreutils"]), known)
    tools.make_tools(fetch_packages(wanted, cache_folder()).items(), folder)


@pytest.fixture(scope="session")
def toolbox() -> tools.ToolsRoot:
    """Return a root with erofs-utils."""
    return tools.ToolsRoot(Cache(cache_folder()).stage("test-erofs-utils", [tools], [SUITE], _extract))


@pytest.fixture(scope="session")
def make(toolbox: tools.ToolsRoot) -> Callable[[Path], Sequence[str]]:
    """Return what makes the command that turns a tar on standard input into an EROFS file."""
    return lambda output: toolbox.argv(make_erofs(output), binds=[output.parent])
