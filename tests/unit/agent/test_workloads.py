"""A declaration with workloads becomes a generation: images from a real store, units, bundles, ids and addresses."""

from __future__ import annotations

import json
import py_compile
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from hostctl.agent import generation, images
from hostctl.agent.generation import Draft, Stored
from hostctl.agent.stage import HostStager
from hostctl.agent.workloads import AppArmorProfileMissingError, HostWorkloads, ProfileMissingError, ZoneMissingError
from hostctl.config.load import parse_host
from hostctl.layout import HostLayout
from hostctl.workload import probe, root

LAYER = "sha256:" + "c" * 64
HOST = """
version: 1
hostname: a
workloads:
  web: {image: 'registry.example/web:1', ports: ['8080:80']}
  job: {image: 'registry.example/web:1', network: none, restart: on-failure}
"""
PROFILE = '{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": []}'


def put(folder: Path, kind: str, document: object) -> str:
    """Store a document by its digest, as the image store does."""
    data = json.dumps(document).encode()
    hexadecimal = sha256(data).hexdigest()
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / f"sha256-{hexadecimal}.json").write_bytes(data)
    return f"sha256:{hexadecimal}"


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    made = HostLayout(root=tmp_path)
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [LAYER]},
        "config": {"Cmd": ["/bin/web"], "Env": ["A=1"]},
    }
    digest = put(made.baked_images, "configs", config)
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": LAYER, "size": 1}
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 1}
    manifest = put(made.baked_images, "manifests", {"schemaVersion": 2, "config": described, "layers": [layer]})
    (made.baked_images / "layers").mkdir()
    (made.baked_images / f"layers/{LAYER.replace(':', '-')}.erofs").touch()
    (made.baked_images / "names.json").write_text(json.dumps({"registry.example/web:1": manifest}))
    profile = tmp_path / "usr/share/containers/seccomp.json"
    profile.parent.mkdir(parents=True)
    profile.write_text(PROFILE)
    return made


def staged(layout: HostLayout, source: str, former: Stored | None, number: int, draft: Draft | None = None) -> Stored:
    stager = HostStager(layout=layout, release="1", workloads=HostWorkloads(layout=layout))
    decided = draft or Draft(number=number)
    return generation.store(layout, stager(source, parse_host(source, "host.yaml"), former, decided))


def test_a_generation_holds_everything_that_its_workloads_need(layout: HostLayout) -> None:
    stored = staged(layout, HOST, None, 1)
    assert stored.record.images["web"].reference == "registry.example/web:1"
    assert (stored.path / "etc/systemd/system/multi-user.target.wants/workload-web.service").resolve().is_file()
    config = json.loads((stored.path / "bundles/web/config.json").read_bytes())
    assert config["process"]["args"][-1] == "/bin/web"
    network = json.loads((stored.path / "network.json").read_bytes())
    assert list(network["workloads"]) == ["web"]
    own = network["workloads"]["web"]
    assert own["ports"] == ["8080:80"]
    assert f"{own['address']} web\n" in (stored.path / "etc/hosts").read_text()
    tmpfiles = (stored.path / "etc/hostctl/workloads/web.fresh.conf").read_text()
    assert f" {own['userns_start']} {own['userns_start']} -" in tmpfiles


def test_images_that_came_with_the_release_are_not_missed(layout: HostLayout) -> None:
    assert images.lacking_here(layout, parse_host(HOST, "host.yaml")) == ()
    far = HOST + "  far: {image: 'registry.example/far:1', image_volumes: {/data: 'registry.example/data:1'}}\n"
    lacking = images.lacking_here(layout, parse_host(far, "host.yaml"))
    assert lacking == ("registry.example/far:1", "registry.example/data:1")


def test_what_did_not_change_is_rendered_the_same_beside_a_new_workload(layout: HostLayout) -> None:
    first = staged(layout, HOST, None, 1)
    more = HOST + "  again: {image: 'registry.example/web:1'}\n"
    second = staged(layout, more, first, 2)
    units = sorted(path.relative_to(first.path) for path in first.path.glob("etc/systemd/system/*"))
    assert len([path for path in units if path.suffix]) >= 3
    for path in units:
        if (first.path / path).is_file():
            assert (first.path / path).read_bytes() == (second.path / path).read_bytes()
    same = [json.loads((each.path / "network.json").read_bytes())["workloads"]["web"] for each in (first, second)]
    assert same[0] == same[1]
    third = staged(layout, HOST, second, 3)
    assert third.record.ranges["again"] == 2


def test_ranges_of_what_was_run_are_given_up_once_nothing_knows_it(layout: HostLayout) -> None:
    run = "  run-1a2b3c4d: {image: 'registry.example/web:1'}\n  run-build-1a2b3c4d: {image: 'registry.example/web:1'}\n"
    first = staged(layout, HOST + run, None, 1)
    names = {"run-1a2b3c4d", "run-build-1a2b3c4d"}
    assert names < set(first.record.ranges)
    second = staged(layout, HOST, first, 2)
    assert names < set(second.record.ranges)  # the first can be gone back to
    (layout.workloads / "run-1a2b3c4d/upper").mkdir(parents=True)
    shutil.rmtree(first.path)
    third = staged(layout, HOST, second, 3)
    assert names & set(third.record.ranges) == {"run-1a2b3c4d"}  # what it wrote is still there
    shutil.rmtree(layout.workloads / "run-1a2b3c4d")
    fourth = staged(layout, HOST + "  again: {image: 'registry.example/web:1'}\n", third, 4)
    assert not names & set(fourth.record.ranges)
    assert fourth.record.ranges["again"] == first.record.ranges["run-1a2b3c4d"]


def test_a_declared_workloads_range_stays_its_own(layout: HostLayout) -> None:
    first = staged(layout, HOST + "  again: {image: 'registry.example/web:1'}\n", None, 1)
    second = staged(layout, HOST, first, 2)
    shutil.rmtree(first.path)
    assert staged(layout, HOST, second, 3).record.ranges == first.record.ranges


def test_a_check_is_run_as_it_was_compiled_where_it_was(
    layout: HostLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "probe.py"
    source.write_text("")
    monkeypatch.setattr(probe, "__file__", str(source))
    text = HOST.replace("ports:", "healthcheck: {tcp: 'localhost:80'}, ports:")

    def program(number: int) -> str:
        unit = staged(layout, text, None, number).path / "etc/systemd/system/workload-web.health.service"
        return next(line.split()[3] for line in unit.read_text().splitlines() if line.startswith("ExecStart="))

    assert program(1) == str(source)
    compiled = py_compile.compile(str(source))
    assert program(2) == compiled != str(source)


def test_a_declared_hosts_file_goes_before_the_names_of_workloads(layout: HostLayout) -> None:
    stored = staged(layout, HOST + "files: {/etc/hosts: {content: mine}}\n", None, 1)
    assert (stored.path / "etc/hosts").read_text() == "mine"


def test_a_declared_time_zone_comes_from_the_release_and_reservations_hold_above_the_workloads(
    layout: HostLayout,
) -> None:
    wanted = HOST.replace("['8080:80']", "['8080:80'], timezone: UTC, memory_reservation: 8M")
    with pytest.raises(ZoneMissingError):
        staged(layout, wanted, None, 1)
    (layout.root / "usr/share/zoneinfo").mkdir(parents=True)
    (layout.root / "usr/share/zoneinfo/UTC").write_bytes(b"TZif2")
    stored = staged(layout, wanted, None, 1)
    assert (stored.path / "bundles/web/localtime").read_bytes() == b"TZif2"
    assert "MemoryLow=8388608\n" in (stored.path / "etc/systemd/system/system.slice.d/50-hostctl.conf").read_text()


def test_a_profile_that_the_release_lacks_is_refused_before_anything_is_made(layout: HostLayout) -> None:
    wanted = HOST.replace("['8080:80']", "['8080:80'], apparmor: tight")
    with pytest.raises(AppArmorProfileMissingError) as caught:
        staged(layout, wanted, None, 1)
    assert "workloads.web.apparmor: tight" in caught.value.details
    assert "release.yaml" in caught.value.hint
    layout.apparmor.mkdir(parents=True)
    (layout.apparmor / "other").touch()
    with pytest.raises(AppArmorProfileMissingError) as caught:
        staged(layout, wanted, None, 1)
    assert caught.value.hint == "it has other"
    (layout.apparmor / "tight").touch()
    stored = staged(layout, wanted, None, 1)
    config = json.loads((stored.path / "bundles/web/config.json").read_bytes())
    assert config["process"]["apparmorProfile"] == "tight"


def test_an_image_that_is_mounted_is_pinned_and_kept_as_any_other(layout: HostLayout) -> None:
    wanted = HOST.replace("['8080:80']", "['8080:80'], image_volumes: {/models: 'registry.example/web:1'}")
    stored = staged(layout, wanted, None, 1)
    pin = stored.record.mounted["web:/models"]
    assert (pin.reference, pin.digest) == ("registry.example/web:1", stored.record.images["web"].digest)
    assert generation.load(stored.path).record == stored.record
    assert pin.digest in generation.pinned(layout)
    plan = root.decode((stored.path / "bundles/web/root.json").read_bytes())
    assert list(plan.images.values()) == [plan.layers]


def test_without_a_system_call_profile_nothing_is_run_but_a_host_without_workloads_is_fine(layout: HostLayout) -> None:
    (layout.root / "usr/share/containers/seccomp.json").unlink()
    with pytest.raises(ProfileMissingError):
        staged(layout, HOST, None, 1)
    assert staged(layout, "version: 1\nhostname: a\n", None, 1).record.images == {}


def test_the_bundle_of_what_did_not_change_is_the_same_beside_a_new_workload(layout: HostLayout) -> None:
    first = staged(layout, HOST, None, 1)
    second = staged(layout, HOST + "  again: {image: 'registry.example/web:1'}\n", first, 2)
    for file in (first.path / "bundles/web").iterdir():
        assert file.read_bytes() == (second.path / "bundles/web" / file.name).read_bytes()


def test_an_instance_that_is_about_to_leave_is_taken_over_as_it_is(layout: HostLayout) -> None:
    source = HOST.replace("['8080:80']", "['8080:80'], notify: true, update: {order: start-first}")
    first = staged(layout, source, None, 1, Draft(number=1, instances={"web": "a"}))
    changed = source.replace("notify: true", "notify: true, env: {A: '2'}")
    second = staged(layout, changed, first, 2, Draft(number=2, instances={"web": "b"}, leaving=("web.a",)))
    assert second.record.instances == {"web": "b"}
    old = [path.relative_to(first.path) for path in first.path.rglob("*web.a*") if not path.is_symlink()]
    old += [path.relative_to(first.path) for path in (first.path / "bundles/web.a").iterdir()]
    assert {path.name for path in old} >= {"workload-web.a.service", "web.a.fresh.conf", "config.json", "root.json"}
    for path in old:
        if (first.path / path).is_file():
            assert (first.path / path).read_bytes() == (second.path / path).read_bytes()
    units = second.path / "etc/systemd/system"
    assert (units / "workload-web.service").readlink() == Path("workload-web.b.service")
    assert [path.name for path in (units / "multi-user.target.wants").glob("workload-web*")] == [
        "workload-web.b.service"
    ]
    network = json.loads((second.path / "network.json").read_bytes())["workloads"]
    assert list(network) == ["web.b"]
    config = json.loads((second.path / "bundles/web.b/config.json").read_bytes())
    assert {"type": "network", "path": "/run/netns/workload-web.b"} in config["linux"]["namespaces"]
    third = staged(layout, changed, second, 3, Draft(number=3, instances={"web": "b"}))
    assert not list(third.path.rglob("*web.a*"))
