"""The pass before workloads: both halves are done, whatever becomes of the other, and the status tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import workload_pass
from hostctl.errors import HostctlError
from hostctl.layout import HostLayout
from hostctl.network import apply
from hostctl.network.document import encode
from hostctl.network.model import NetworkPlan
from hostctl.workload import roots


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    layout = HostLayout(root=tmp_path)
    layout.current.mkdir(parents=True)
    (layout.current / "network.json").write_bytes(encode(NetworkPlan()))
    return layout


@pytest.fixture
def halves(layout: HostLayout, monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception | None]:
    """Return what each half ends with; that it was done is told by a file."""
    ends: dict[str, Exception | None] = {"roots": None, "networks": None}

    def end(name: str) -> None:
        (layout.root / name).touch()
        error = ends[name]
        if error is not None:
            raise error

    monkeypatch.setattr(roots, "lay_all", lambda layout: end("roots"))
    monkeypatch.setattr(apply, "network_pass", lambda layout, plan: end("networks"))
    return ends


def _done(layout: HostLayout) -> list[str]:
    return sorted(path.name for path in layout.root.iterdir() if path.is_file())


def test_both_are_done(layout: HostLayout, halves: dict[str, Exception | None]) -> None:
    assert not any(halves.values())
    assert workload_pass.run(layout) == 0
    assert _done(layout) == ["networks", "roots"]


@pytest.mark.parametrize("failing", ["roots", "networks"])
@pytest.mark.parametrize("error", [HostctlError("refused"), OSError("gone")])
def test_one_that_fails_keeps_nothing_from_the_other(
    layout: HostLayout, halves: dict[str, Exception | None], failing: str, error: Exception
) -> None:
    halves[failing] = error
    assert workload_pass.run(layout) == 1
    assert _done(layout) == ["networks", "roots"]


def test_a_plan_that_cannot_be_read_is_told(
    layout: HostLayout, halves: dict[str, Exception | None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert not any(halves.values())
    (layout.current / "network.json").write_bytes(b"{")
    assert workload_pass.run(layout) == 1
    assert _done(layout) == ["roots"]
    assert "the network plan cannot be read" in capfd.readouterr().err
