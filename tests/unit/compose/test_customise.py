"""What leaves the bootstrapped tree, what stays, and what is laid over it."""

import io
import tarfile
from pathlib import Path

import pytest

from hostctl.compose.customise import Additions, CustomiseError, Source, customise


def bootstrap(path: Path, files: dict[str, bytes], *, modes: dict[str, int] | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            info.mode = (modes or {}).get(name, 0o644)
            info.uid = 7
            info.mtime = 1234567
            archive.addfile(info, io.BytesIO(data))
    return path


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {info.name: info for info in archive.getmembers()}


def test_a_dropped_package_leaves_but_shared_files_stay(tmp_path: Path) -> None:
    source = bootstrap(
        tmp_path / "in.tar",
        {
            "usr/bin/apt": b"apt",
            "usr/lib/shared": b"both",
            "usr/bin/kept": b"kept",
            "var/lib/dpkg/info/apt.list": b"/.\n/bin/apt\n/usr/lib/shared\n",
            "var/lib/dpkg/info/bash.list": b"/.\n/usr/lib/shared\n/usr/bin/kept\n",
        },
    )
    customise(source, Additions(), tmp_path / "out.tar")
    found = members(tmp_path / "out.tar")
    assert "usr/bin/apt" not in found
    assert {"usr/lib/shared", "usr/bin/kept"} <= found.keys()
    assert not [name for name in found if name.startswith("var/")]


def test_only_named_programs_keep_setuid_and_owners_stay(tmp_path: Path) -> None:
    source = bootstrap(
        tmp_path / "in.tar",
        {"usr/bin/su": b"", "usr/bin/sudo": b""},
        modes={"usr/bin/su": 0o4755, "usr/bin/sudo": 0o4755},
    )
    customise(source, Additions(), tmp_path / "out.tar")
    found = members(tmp_path / "out.tar")
    assert found["usr/bin/su"].mode == 0o755
    assert found["usr/bin/sudo"].mode == 0o4755
    assert found["usr/bin/su"].uid == 7


def test_the_result_does_not_depend_on_times_modes_of_the_checkout_or_order(tmp_path: Path) -> None:
    results = []
    for number, mode in enumerate((0o600, 0o664)):
        folder = tmp_path / f"overlay{number}"
        (folder / "etc").mkdir(parents=True)
        (folder / "etc/issue").write_text("host\n")
        (folder / "etc/issue").chmod(mode)
        source = bootstrap(tmp_path / f"in{number}.tar", {"usr/bin/b": b"b", "usr/bin/a": b"a"})
        output = tmp_path / f"out{number}.tar"
        customise(source, Additions(sources=(Source(folder=folder),)), output)
        results.append(output.read_bytes())
    assert results[0] == results[1]


def test_later_additions_replace_earlier_ones(tmp_path: Path) -> None:
    folder = tmp_path / "overlay"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib/file").write_text("overlay")
    source = bootstrap(tmp_path / "in.tar", {"usr/lib/file": b"package"})
    customise(source, Additions(sources=(Source(folder=folder),)), tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        stream = archive.extractfile("usr/lib/file")
        assert stream is not None
        assert stream.read() == b"overlay"
        assert "lib/file" not in archive.getnames()


@pytest.mark.parametrize("name", ["../etc/passwd", "usr/../../etc/passwd"])
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    source = bootstrap(tmp_path / "in.tar", {name: b"x"})
    with pytest.raises(CustomiseError, match="etc/passwd"):
        customise(source, Additions(), tmp_path / "out.tar")


def test_host_keys_made_while_installing_never_reach_an_image(tmp_path: Path) -> None:
    source = bootstrap(tmp_path / "in.tar", {"etc/ssh/ssh_host_ed25519_key": b"secret", "etc/ssh/moduli": b"m"})
    customise(source, Additions(), tmp_path / "out.tar")
    assert [name for name in members(tmp_path / "out.tar") if name.startswith("etc/ssh/")] == ["etc/ssh/moduli"]


def test_the_root_itself_is_writable_by_root_only(tmp_path: Path) -> None:
    customise(bootstrap(tmp_path / "in.tar", {}), Additions(), tmp_path / "out.tar")
    assert members(tmp_path / "out.tar")["."].mode == 0o755
