"""What a killed agent left half written or half removed goes when the next one starts; what is of use stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import apply as transaction
from hostctl.agent.service import HostService
from hostctl.layout import HostLayout

STAYS = (
    "generations/3/host.yaml.tmp",
    "images/incoming/sha256-0/blobs/part",
    "images/layers/sha256-0.erofs",
    "images/names.json",
    ".hold.json.01234567.tmp",  # of another process, which may be at it
)
GOES = (
    "generations/2.tmp/etc/motd",
    ".pending.01234567.tmp",
    ".current.01234567.tmp",
    "images/tmp/commit/layer.tar",
    "images/tmp/archive",
    "images/.names.json.01234567.tmp",
    "images/layers/.sha256-0.erofs.01234567.tmp",
    "images/layers/.sha256-0.erofs.01234567.recipe.tmp",
)


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    layout = HostLayout(root=tmp_path)
    for name in (*STAYS, *GOES):
        (layout.state / name).parent.mkdir(parents=True, exist_ok=True)
        (layout.state / name).touch()
    return layout


def left(layout: HostLayout) -> set[str]:
    """Return the files below the state."""
    return {str(path.relative_to(layout.state)) for path in layout.state.rglob("*") if not path.is_dir()} - {"lock"}


def test_what_leads_nowhere_goes_and_the_rest_stays(layout: HostLayout) -> None:
    HostService(layout).recover()
    assert left(layout) == set(STAYS)
    assert not (layout.generations / "2.tmp").exists()


def test_it_stays_while_somebody_else_changes_the_machine(layout: HostLayout) -> None:
    with transaction.lock(layout):
        HostService(layout).recover()
    assert left(layout) == {*STAYS, *GOES}


def test_nobody_is_locked_out_where_nothing_is_left(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    HostService(layout).recover()
    assert not layout.state.exists()
