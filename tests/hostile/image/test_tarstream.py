"""Layers made to harm: every one is refused, and nothing is left behind."""

import io
import json
import tarfile

import pytest

from hostctl.image.oci import ImageFormatError, is_index, parse_config, parse_manifest
from hostctl.image.tarstream import LayerError, rewrite

HEX = "sha256:" + "a" * 64


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0, pax: tuple[str, str] | None = None
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    info.pax_headers = dict([pax] if pax else [])
    return info.tobuf(tarfile.PAX_FORMAT) + b"x" * size + b"\0" * (-size % 512)


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (entry("../evil"), "unsafe name"),
        (entry("a/../../evil"), "unsafe name"),
        (entry("a/.wh..."), "unsafe name"),
        (entry("a/.wh."), "unsafe name"),
        (entry("null", tarfile.CHRTYPE), "device"),
        (entry("disk", tarfile.BLKTYPE), "device"),
        (entry("s", tarfile.GNUTYPE_SPARSE), "device or of an unknown type"),
        (entry("f", pax=("GNU.sparse.major", "1")), "sparse"),
        (entry("f", pax=("size", "-5")), "size '-5'"),
        (entry("f", pax=("size", str((1 << 40) + 1))), "of 1099511627777 bytes"),
        (entry("f", pax=("path", "../x")), "unsafe name"),
        (entry("h", tarfile.LNKTYPE, "../../etc/shadow"), "unsafe name"),
        (entry("h", tarfile.LNKTYPE, "etc/shadow"), "no file before it"),
        (entry("etc", tarfile.SYMTYPE, "/") + entry("etc/passwd"), "no folder"),
        (entry("proc", tarfile.SYMTYPE, "/sys"), "no folder"),
        (entry("d", tarfile.DIRTYPE) + entry("d"), "both as a folder"),
        (entry("/".join("d" * 101)), "overlong"),
        (entry("n" * 256), "overlong"),
        (entry("f", size=600)[:700], "cut off"),
        (b"junk" * 128, "malformed header"),
    ],
)
def test_refused(stream: bytes, says: str) -> None:
    with pytest.raises(LayerError, match=says):
        rewrite(io.BytesIO(stream + b"\0" * 1024), lambda _: None) if "cut" not in says else rewrite(
            io.BytesIO(stream), lambda _: None
        )


def test_a_size_beyond_any_number_of_a_file_system_is_refused() -> None:
    info = tarfile.TarInfo("f")
    info.size = 1 << 80
    with pytest.raises(LayerError, match="of 1208925819614629174706176 bytes"):
        rewrite(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT)), lambda _: None)


def test_overlong_extended_header_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    source = io.BytesIO(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(LayerError, match="overlong extended header"):
        rewrite(source, lambda _: None)


def test_absolute_names_become_relative_and_attributes_go() -> None:
    out = io.BytesIO()
    stream = entry("/etc/", tarfile.DIRTYPE) + entry("/etc/x", size=3, pax=("SCHILY.xattr.trusted.overlay.opaque", "y"))
    assert rewrite(io.BytesIO(stream + b"\0" * 1024), out.write) == 2
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["etc", "etc/x"]
    assert members[1].pax_headers == {}


def test_manifest_that_is_two_things() -> None:
    with pytest.raises(ImageFormatError, match="either"):
        is_index(b'{"layers": [], "manifests": []}')
    with pytest.raises(ImageFormatError, match="twice"):
        is_index(b'{"layers": [], "layers": []}')


def test_limits() -> None:
    with pytest.raises(ImageFormatError, match="more than"):
        parse_manifest(b" " * ((4 << 20) + 1))
    with pytest.raises(ImageFormatError, match="at most 127"):
        parse_manifest(b'{"schemaVersion":2,"layers":[' + b",".join([b"{}"] * 128) + b"]}")
    with pytest.raises(ImageFormatError, match="not JSON"):
        parse_manifest(b"[" * 100000)
    with pytest.raises(ImageFormatError, match="NAME=value"):
        parse_config(b'{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]},"config":{"Env":["x"]}}')


@pytest.mark.parametrize(
    "config",
    [
        {"WorkingDir": "/a" * 2048},  # a path that no kernel takes, and whose parents would fill the memory
        {"WorkingDir": "/\ud800"},
        {"User": "\udfff"},
        {"Env": ["NAME=\ud800"]},
        {"Cmd": ["x", "\ud800"]},
        {"ExposedPorts": {"\ud800": {}}},
    ],
)
def test_words_that_cannot_be_passed_on_are_refused(config: dict[str, object]) -> None:
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}, "config": config}
    with pytest.raises(ImageFormatError):
        parse_config(json.dumps(document).encode())
