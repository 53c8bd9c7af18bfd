"""What a root file system is made of, and that a pass lays what is missing, and nothing else. The kernel's part of it,
mounting, needs EROFS and runs in virtual machines; here it is only written down."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostctl import mounting
from hostctl.config.values import ConfigMount, ImageReference, TimeZone, TmpfsMount, VolumeMount
from hostctl.config.workload import Workload
from hostctl.image.oci import ImageConfig
from hostctl.image.store import StoredImage
from hostctl.layout import HostLayout
from hostctl.workload import root, root_plan, roots
from hostctl.workload.root import Points, RootPlan, RootPlanError
from hostctl.workload.spec import WorkloadSpec

LOW, HIGH, OTHER = "a" * 32, "b" * 32, "c" * 32
FIRST = 0x10000000


def spec(**fields: Any) -> WorkloadSpec:  # noqa: ANN401
    stored = StoredImage(
        reference="registry.example/web:1",
        digest="sha256:" + "1" * 64,
        config=ImageConfig(diff_ids=(), cmd=("/bin/web",), working_dir="/srv/app"),
        layers=tuple(Path(f"/i/sha256-{layer}{layer}.erofs") for layer in (LOW, HIGH)),
        bytes=1,
    )
    workload = Workload(image=ImageReference.parse("registry.example/web:1"), **fields)
    return WorkloadSpec(name="web", workload=workload, image=stored, range_number=0)


def test_a_plan_has_every_mount_point_outer_before_inner() -> None:
    made = root_plan.plan(
        spec(volumes=(VolumeMount.parse("data:/srv/my data/100%"),), tmpfs=(TmpfsMount.parse("/x*"),))
    )
    assert (made.first_id, made.layers, made.writable) == (FIRST, (LOW, HIGH), True)
    assert made.files == {LOW: f"/i/sha256-{LOW}{LOW}.erofs", HIGH: f"/i/sha256-{HIGH}{HIGH}.erofs"}
    wanted = ["/dev", "/etc", "/proc", "/run", "/srv", "/srv/app", "/srv/my data", "/srv/my data/100%", "/sys", "/tmp"]
    assert list(made.folders) == [*wanted, "/x*"]
    assert made.empty == ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
    assert not root_plan.plan(spec(read_only=True)).writable


def test_other_images_and_a_time_zone_are_part_of_it() -> None:
    other = dataclasses.replace(spec().image, layers=(Path(f"/i/sha256-{OTHER}{OTHER}.erofs"),))
    host = dataclasses.replace(spec(timezone=TimeZone("UTC")), image_volumes={"/models": other}, zone=b"TZif")
    made = root_plan.plan(host)
    assert made.zone == "/usr/share/zoneinfo/UTC"
    assert "/usr/share/zoneinfo" in made.folders
    assert "/models" in made.folders
    assert made.images == {Path(host.volume_root("/models")).name: (OTHER,)}
    assert set(made.files) == {LOW, HIGH, OTHER}
    assert made.points == {Path(host.volume_root("/models")).name: Points()}
    assert root.decode(root.encode(made)) == made
    assert root.encode(made) == root.encode(root_plan.plan(host))


def test_what_is_mounted_in_another_image_has_its_mount_points_there(layout: HostLayout, kernel: Kernel) -> None:
    other = dataclasses.replace(spec().image, layers=(Path(f"/i/sha256-{OTHER}{OTHER}.erofs"),))
    fields = {"volumes": (VolumeMount.parse("data:/etc/a/b"),), "configs": (ConfigMount.parse("x:/etc/c/x.conf"),)}
    host = dataclasses.replace(spec(**fields), image_volumes={"/etc": other, "/etcetera": other})
    plan = root_plan.plan(host)
    etc, etcetera = (Path(host.volume_root(path)).name for path in ("/etc", "/etcetera"))
    files = ("/c/x.conf", "/hostname", "/hosts", "/resolv.conf")
    assert plan.points == {etc: Points(folders=("/a", "/a/b", "/c"), empty=files), etcetera: Points()}
    bundle(layout, "web", plan)
    roots.lay_all(layout)
    points = layout.runtime / "workloads/web/points"
    assert f"overlay {OTHER} {etc} at workloads/web/images/{etc}" in kernel.did()
    assert sorted(f"/{path.relative_to(points / etc)}" for path in (points / etc).rglob("*") if path.is_file()) == [
        *files
    ]
    assert (points / etc / "a/b").stat().st_uid == FIRST
    assert not list((points / etcetera).iterdir())
    bundle(layout, "web", root_plan.plan(dataclasses.replace(host, image_volumes={"/etc": other})))
    roots.lay_all(layout)
    assert [path.name for path in points.iterdir()] == [etc]


@pytest.mark.parametrize(
    "change",
    [
        {"layers": []},
        {"layers": [OTHER]},
        {"layers": "ab"},
        {"files": {"../x": "/i"}},
        {"files": {LOW: "i", HIGH: "/i"}},
        {"folders": ["/a/../../etc"]},
        {"empty": ["etc/hosts"]},
        {"images": {"..": [LOW]}},
        {"images": {"0" * 65: [LOW]}},
        {"points": {"..": {"folders": [], "empty": []}}},
        {"points": {LOW: {"folders": ["/../x"], "empty": []}}},
        {"zone": "/usr/../etc/shadow"},
        {"first_id": 0},
        {"first_id": 1 << 32},
        {"first_id": "x"},
        {"folders": None},
    ],
)
def test_what_no_plan_is_made_like_is_refused(change: dict[str, object]) -> None:
    document = json.loads(root.encode(root_plan.plan(spec())))
    with pytest.raises(RootPlanError):
        root.decode(json.dumps({**document, **change}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b" " * (root.MAX_BYTES + 1)])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(RootPlanError):
        root.decode(data)


def test_only_what_differs_is_laid() -> None:
    wanted = {"same": b"1", "new": b"1", "other": b"2", "cut": b"3"}
    laid = {"same": b"1", "other": b"1", "gone": b"1", "cut": b""}
    assert roots.decide(wanted, laid) == roots.Work(remove=("gone",), lay=("cut", "new", "other"))
    assert roots.decide(wanted, wanted) == roots.Work(remove=(), lay=())


class Kernel:
    """Writes down what would be mounted; a name in ``refuses`` is of a mount that fails.

    Unless it ``shows`` what was mounted aside, that is refused too.
    """

    def __init__(self, base: Path, patch: pytest.MonkeyPatch) -> None:
        self.base, self.log, self.mounted = base, list[str](), set[Path]()
        self.refuses, self.shows = "", True
        patch.setattr(mounting, "erofs", lambda file, where: self._mount("erofs", where, str(file)))
        patch.setattr(mounting, "mapped", lambda source, where, users: self._mount("mapped", where, source.name))
        patch.setattr(mounting, "overlay", self._overlay)
        patch.setattr(mounting, "unmount", self._unmount)
        patch.setattr(mounting, "aside", self._aside)
        patch.setattr(os.path, "ismount", lambda path: Path(path) in self.mounted)
        patch.setattr(roots, "user_namespace_of", self._users)

    def _mount(self, kind: str, where: Path, what: str) -> None:
        assert where.is_dir()
        if self.refuses and self.refuses in str(where):
            raise OSError(5, "refused")
        self.mounted.add(where)
        self.log.append(f"{kind} {what} at {where.relative_to(self.base / 'run/hostctl')}")

    def _overlay(
        self, lower: Sequence[Path], where: Path, *, upper: Path | None = None, work: Path | None = None
    ) -> None:
        assert all(path.is_dir() for path in lower)
        assert (upper is None) == (work is None)
        if upper is not None and work is not None:
            assert upper.is_dir() and not list(upper.iterdir()) and not list(work.iterdir())
        self._mount("writable" if upper else "overlay", where, " ".join(path.name for path in lower))

    def _unmount(self, where: Path) -> None:
        if where in self.mounted:
            self.mounted.remove(where)
            self.log.append(f"off {where.relative_to(self.base / 'run/hostctl')}")

    @contextmanager
    def _aside(self) -> Iterator[list[Path]]:
        before, shown = set(self.mounted), list[Path]()
        yield shown
        self.mounted = before | set(shown if self.shows else ())
        if not self.shows:
            raise OSError(1, "refused")

    @contextmanager
    def _users(self, start: int) -> Iterator[int]:
        assert start == FIRST
        yield 7

    def did(self) -> list[str]:
        """Return what happened since this was asked last."""
        log, self.log = self.log, []
        return log


@pytest.fixture
def layout(tmp_path: Path) -> HostLayout:
    return HostLayout(root=tmp_path)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def bundle(layout: HostLayout, key: str, plan: RootPlan) -> None:
    folder = layout.current / "bundles" / key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / root.FILE).write_bytes(root.encode(plan))
    (folder / root.LOCALTIME).write_bytes(b"TZif")


def test_a_root_is_laid_once_and_fresh_and_taken_off_with_its_layers(layout: HostLayout, kernel: Kernel) -> None:
    upper = layout.workloads / "web/upper"
    upper.mkdir(parents=True)
    (upper / "old").touch()
    bundle(layout, "web", root_plan.plan(spec()))
    roots.lay_all(layout)
    assert kernel.did() == [
        f"erofs /i/sha256-{LOW}{LOW}.erofs at layers/{LOW}",
        f"erofs /i/sha256-{HIGH}{HIGH}.erofs at layers/{HIGH}",
        f"mapped {LOW} at workloads/web/{LOW}",
        f"mapped {HIGH} at workloads/web/{HIGH}",
        f"writable {HIGH} {LOW} base at workloads/web/rootfs",
    ]
    assert not list(upper.iterdir())
    assert (upper.stat().st_uid, upper.stat().st_mode & 0o7777) == (FIRST, 0o755)
    assert (layout.workloads / "web/work").stat().st_uid == 0
    assert (layout.workloads / "web").stat().st_mode & 0o7777 == 0o700
    found = (layout.runtime / "workloads/web").stat()  # the runtime goes through it as the workload's root
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, FIRST, 0o710)
    assert (layout.runtime / "layers").stat().st_mode & 0o7777 == 0o700
    base = layout.runtime / "workloads/web/base"
    assert (base / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (base / "srv/app").stat().st_uid == FIRST
    assert (base / "etc/hosts").stat().st_size == 0
    roots.lay_all(layout)
    assert kernel.did() == []
    (layout.current / "bundles/web/root.json").unlink()
    roots.lay_all(layout)
    assert kernel.did()[0] == "off workloads/web/rootfs"
    assert kernel.mounted == set()


def test_an_instance_that_is_gone_back_from_has_its_root_until_the_change_has_ended(
    layout: HostLayout, kernel: Kernel
) -> None:
    for key in ("web.a", "web.b"):
        bundle(layout, key, root_plan.plan(spec()))
    layout.changing_network.parent.mkdir(parents=True, exist_ok=True)
    layout.changing_network.touch()
    roots.lay_all(layout)
    kernel.did()
    (layout.current / "bundles/web.b/root.json").unlink()
    roots.lay_all(layout)
    assert kernel.did() == []
    layout.changing_network.unlink()
    (layout.current / "generation.json").write_text('{"instances": {"web": "a"}}')
    roots.lay_all(layout)
    assert kernel.did()[0] == "off workloads/web.b/rootfs"


@pytest.mark.usefixtures("few_files")
def test_what_a_run_left_is_removed_however_deep_it_is(layout: HostLayout, kernel: Kernel) -> None:
    upper = layout.workloads / "web/upper"
    upper.mkdir(parents=True)
    folder = os.open(upper, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("a", dir_fd=folder)
        folder, outer = os.open("a", os.O_RDONLY, dir_fd=folder), folder
        os.close(outer)
    os.close(folder)
    bundle(layout, "web", root_plan.plan(spec()))
    roots.lay_all(layout)
    assert kernel.did()[-1].startswith("writable")


def test_one_that_is_read_only_with_a_zone_and_another_image(layout: HostLayout, kernel: Kernel) -> None:
    other = dataclasses.replace(spec().image, layers=(Path(f"/i/sha256-{OTHER}{OTHER}.erofs"),))
    host = spec(read_only=True, timezone=TimeZone("UTC"))
    plan = root_plan.plan(dataclasses.replace(host, image_volumes={"/models": other}, zone=b"TZif"))
    bundle(layout, "web", plan)
    roots.lay_all(layout)
    (where,) = plan.images
    assert kernel.did()[-2:] == [
        f"overlay {OTHER} {where} at workloads/web/images/{where}",
        f"overlay top {HIGH} {LOW} base at workloads/web/rootfs",
    ]
    folder = layout.runtime / "workloads/web"
    for path in ("base/usr/share/zoneinfo/UTC", "top/etc/localtime"):
        assert (folder / path).read_bytes() == b"TZif"
    assert not layout.workloads.exists()


def test_what_cannot_be_laid_keeps_no_other_from_it_and_is_tried_again(layout: HostLayout, kernel: Kernel) -> None:
    for key in ("bad", "torn", "web"):
        bundle(layout, key, root_plan.plan(spec()))
    (layout.current / "bundles/torn/root.json").write_bytes(b"{")
    kernel.refuses = "bad/rootfs"
    with pytest.raises(roots.RootError, match="2 of 3") as caught:
        roots.lay_all(layout)
    assert "bad has no root file system: [Errno 5]" in caught.value.details
    assert layout.runtime / "workloads/web/rootfs" in kernel.mounted
    kernel.refuses = ""
    kernel.did()
    bundle(layout, "torn", root_plan.plan(spec()))
    roots.lay_all(layout)
    done = kernel.did()
    assert {line.rpartition(" ")[2] for line in done if line.startswith("writable")} == {
        "workloads/bad/rootfs",
        "workloads/torn/rootfs",
    }
    assert not [line for line in done if "web" in line]


def test_what_could_not_be_shown_is_laid_again(layout: HostLayout, kernel: Kernel) -> None:
    bundle(layout, "web", root_plan.plan(spec()))
    kernel.shows = False
    with pytest.raises(roots.RootError, match="1 workloads have no root file system"):
        roots.lay_all(layout)
    assert kernel.mounted == set()
    kernel.shows = True
    roots.lay_all(layout)
    assert layout.runtime / "workloads/web/rootfs" in kernel.mounted


def test_when_the_host_stops_everything_is_taken_off(layout: HostLayout, kernel: Kernel) -> None:
    for key in ("one", "two"):
        bundle(layout, key, root_plan.plan(spec()))
    roots.lay_all(layout)
    roots.clear(layout)
    assert kernel.mounted == set()
    roots.lay_all(layout)
    assert layout.runtime / "workloads/one/rootfs" in kernel.mounted


def test_an_instance_that_has_left_has_no_root_though_its_bundle_is_there(layout: HostLayout, kernel: Kernel) -> None:
    for key in ("site.a", "site.b", "other.2", "web"):
        bundle(layout, key, root_plan.plan(spec()))
    (layout.current / "generation.json").write_text(json.dumps({"instances": {"site": "b"}}))
    layout.changing_network.parent.mkdir(parents=True)
    layout.changing_network.touch()
    roots.lay_all(layout)
    assert {path.parent.name for path in kernel.mounted if path.name == "rootfs"} == {
        *("site.a", "site.b", "other.2", "web"),
    }
    layout.changing_network.unlink()
    roots.lay_all(layout)
    assert {path.parent.name for path in kernel.mounted if path.name == "rootfs"} == {"site.b", "other.2", "web"}
