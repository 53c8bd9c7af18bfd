"""What a command in a workload begins from: the environment that its container has, secrets included."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostctl.agent import generation, reach
from hostctl.agent.generation import Content, Pin, Record
from hostctl.agent.tree import text
from hostctl.layout import HostLayout

PIN = Pin(reference="r.example/web:1", digest="sha256:" + "1" * 64)


@pytest.mark.parametrize(("name", "key"), [("web", "web"), ("web", "web.b"), ("other", "other")])
def test_it_is_the_configuration_that_the_container_was_started_with(tmp_path: Path, name: str, key: str) -> None:
    layout = HostLayout(root=tmp_path)
    record = Record(
        number=1,
        created="",
        release="1",
        declaration_sha256="",
        images={"web": PIN, "other": PIN},
        instances={"web": "b"} if key == "web.b" else {},
    )
    config = f" --config /run/hostctl/workloads/{key}/config.json" if name == "web" else ""
    unit = f"[Service]\n# crun --config\nExecStart=/usr/bin/crun run{config} --bundle /x {key}\n"
    etc = {f"systemd/system/workload-{key}.service": text(unit)}
    generation.store(layout, Content(record=record, declaration="", etc=etc, bundles={}, network=b"{}"))
    generation.put_in_force(layout, 1)
    stored = generation.current(layout)
    assert stored is not None
    folder = layout.runtime / "workloads" if name == "web" else stored.path / "bundles"
    assert reach.config_file(stored, name, layout) == folder / key / "config.json"
