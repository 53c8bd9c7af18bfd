from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from bench import engines, measure_containers
from bench.measure_containers import Row, Seen
from hostctl.config.decode import decode
from hostctl.config.host import HostDeclaration

MANY = {"helpers": 0, "helper_kib": 0, "daemons": 0, "daemon_kib": 0, "names": [], "others": []}


def seen() -> Seen:
    return Seen(
        start={"hostctl": {"ready": [1.0, 3.0, 2.0]}, "docker": {"ready": [20.0]}, "podman": {"ready": [10.0]}},
        many={
            "hostctl": {**MANY, "ready": 5.0},
            "docker": {**MANY, "ready": 50.0, "helper_kib": 4000, "daemon_kib": 102400},
            "quadlet": {**MANY, "ready": 20.0, "helper_kib": 1000},
        },
        imports={
            "hostctl": {"seconds": [2.0], "bytes": [150e6]},
            "docker": {"seconds": [8.0], "bytes": [200e6]},
            "podman": {"seconds": [10.0], "bytes": [250e6]},
        },
    )


def test_ratios_are_to_the_better_peer() -> None:
    found = {row.key: row.ratio for row in measure_containers.rows(seen(), 10) if not row.absolute}
    assert found == {"start": 0.2, "start_10": 0.25, "memory": 0.0, "import": 0.25, "disk": 0.75}


def test_memory_is_of_one_container() -> None:
    (memory,) = (row for row in measure_containers.rows(seen(), 10) if row.key == "memory")
    assert memory.values == {"hostctl": 0.0, "docker": 400.0, "quadlet": 100.0}


@pytest.mark.parametrize("values", [{"hostctl": 1.0}, {"docker": 1.0}, {"hostctl": 1.0, "docker": 0.0}, {}])
def test_without_anything_to_compare_there_is_no_ratio(values: dict[str, float]) -> None:
    assert Row(key="start", text="start", unit="s", values=values).ratio is None


def test_table_is_markdown_and_leaves_open_what_was_not_measured() -> None:
    lines = measure_containers.table(measure_containers.rows(seen(), 10))
    assert lines[0] == "| | hostctl | Docker | podman run | Quadlet | ratio | target |"
    assert {line.count("|") for line in lines} == {8}
    assert lines[2] == "| start to the first answer | 2.00 s | 20.00 s | 10.00 s | - | 0.2 | 0.2 |"
    assert lines[5] == "| resident daemons | 0.0 MiB | 100.0 MiB | - | 0.0 MiB | - | 0 MiB |"


def test_every_value_is_a_figure_with_its_samples() -> None:
    made = measure_containers.as_figures(measure_containers.rows(seen(), 10), seen())
    first = made[0]
    assert (first.name, first.value, first.samples) == ("hostctl: start to the first answer", 2.0, (1.0, 3.0, 2.0))
    assert [each.target for each in made if each.name.startswith("ratio")] == [0.2, 0.2, 0, 0.25, 0.65]


def test_what_was_not_counted_is_named() -> None:
    found = {**MANY, "daemons": 1, "names": ["dockerd"], "others": ["agetty", "agetty"]}
    (line,) = measure_containers.resident({"docker": found})
    assert line == "Docker: 0 helpers and 1 daemons (dockerd); new on the host besides: 2 agetty"


def test_declaration_has_all_workloads() -> None:
    host = decode(measure_containers.declaration(12), HostDeclaration, "host.yaml")
    assert len(host.workloads) == 13


def oci_archive(path: Path, layer: bytes) -> bytes:
    config = b'{"os":"linux"}'
    packed = zstandard.ZstdCompressor().compress(layer)

    def described(data: bytes) -> dict[str, str]:
        return {"digest": f"sha256:{sha256(data).hexdigest()}"}

    manifest = json.dumps({"config": described(config), "layers": [described(packed)]}).encode()
    name = {"annotations": {"org.opencontainers.image.ref.name": "localhost/site:1"}}
    index = json.dumps({"manifests": [{**described(manifest), **name}]}).encode()
    files = {f"blobs/sha256/{sha256(data).hexdigest()}": data for data in (config, packed, manifest)}
    with tarfile.open(path, "w") as archive:
        for member, data in {**files, "index.json": index}.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return config


def test_archive_is_what_docker_would_save(tmp_path: Path) -> None:
    layer = b"layer" * 100000
    config = oci_archive(tmp_path / "oci.tar", layer)
    engines.docker_archive(tmp_path / "oci.tar", tmp_path / "docker.tar")
    with tarfile.open(tmp_path / "docker.tar") as archive:
        files = {info.name: stream.read() for info in archive if (stream := archive.extractfile(info))}
    (listed,) = json.loads(files["manifest.json"])
    assert listed["RepoTags"] == ["localhost/site:1"]
    assert files[listed["Config"]] == config
    assert [files[name] for name in listed["Layers"]] == [layer]
