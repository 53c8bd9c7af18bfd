"""What a killed agent left half written or half removed goes when the next one starts; what is of use stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostctl.agent import exclusive
from hostctl.agent.service import HostService
from hostctl.layout import HostLayout

RUNTIME = "../../../run/hostctl"  # from the state
STAYS = (
    "generations/3/host.yaml.tmp",
    "images/incoming/sha256-0/blobs/part",
    "images/layers/sha256-0.erofs",
    "images/names.json",
    ".hold.json.01234567.tmp",  # of another process, which may be at it
    f"{RUNTIME}/network.due.d",
    f"{RUNTIME}/registries/{os.getpid()}-0/auth.json",  # of one that runs
    "secrets/token",
    "credentials/registry-r.example.cred",
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
    f"{RUNTIME}/.network.json.01234567.tmp",
)
OWN = (  # nobody else writes them, so that it does not matter who changes the machine
    f"{RUNTIME}/registries/999999999-0/auth.json",
    "secrets/.token.01234567.tmp",
    "credentials/.registry-r.example.cred.01234567.tmp",
    ".refused-images.json.01234567.tmp",
)


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    layout = HostLayout(root=tmp_path)
    for name in (*STAYS, *GOES, *OWN):
        (layout.state / name).parent.mkdir(parents=True, exist_ok=True)
        (layout.state / name).touch()
    return layout


def left(layout: HostLayout) -> set[str]:
    """Return the files below the state, and what does not outlive a boot."""
    found = [path for folder in (layout.state, layout.runtime) for path in folder.rglob("*") if not path.is_dir()]
    return {os.path.relpath(path, layout.state) for path in found} - {"lock"}


def test_what_leads_nowhere_goes_and_the_rest_stays(layout: HostLayout) -> None:
    HostService(layout).recover()
    assert left(layout) == set(STAYS)
    assert not (layout.generations / "2.tmp").exists()


def test_it_stays_while_somebody_else_changes_the_machine(layout: HostLayout) -> None:
    with exclusive.lock(layout):
        HostService(layout).recover()
    assert left(layout) == {*STAYS, *GOES}


def test_nobody_is_locked_out_where_nothing_is_left(tmp_path: Path) -> None:
    layout = HostLayout(root=tmp_path)
    HostService(layout).recover()
    assert not layout.state.exists()
