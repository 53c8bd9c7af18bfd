"""Headers of tar entries are those that tarfile makes, to the byte, and it reads them back."""

import random
import tarfile

import pytest

from hostctl.image.tarstream import header

NAMES = (".", "a", "etc/passwd", "n" * 99, "n" * 100, "n" * 101, "d/" * 120 + "f", "\udcff", "grün", "a\nb", " a ", "-")
KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
NUMBERS = (0, 1, 65535, 8**7 - 1, 8**7)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    """Return an entry."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def same(info: tarfile.TarInfo) -> None:
    """Look that an entry's header is what it should be, and is read as the same entry."""
    made = header(info)
    assert made == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    assert len(made) % 512 == 0
    if len(made) == 512:
        read = tarfile.TarInfo.frombuf(made, "utf-8", "surrogateescape")
        for key in ("name", "type", "linkname", "size", "mode", "uid", "gid"):
            assert getattr(read, key) == getattr(info, key)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_names_and_links(name: str, kind: bytes) -> None:
    for link in NAMES if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ("",):
        same(entry(name, kind, link))


@pytest.mark.parametrize("size", [0, 1, 511, 8**11 - 1, 8**11, 1 << 40])
def test_sizes(size: int) -> None:
    same(entry("f", size=size))


@pytest.mark.parametrize("number", NUMBERS)
def test_owners_and_modes(number: int) -> None:
    for key in ("uid", "gid"):
        info = entry("f")
        setattr(info, key, number)
        info.mode = number & 0o7777
        same(info)


def test_whatever_fits() -> None:
    chance = random.Random(7)  # noqa: S311 - the same every time, no secret
    letters = "".join(map(chr, range(1, 128))).replace("/", "")
    for _ in range(2000):
        kind = chance.choice(KINDS)
        link = "".join(chance.choices(letters, k=chance.randint(1, 110))) if kind in KINDS[2:] else ""
        info = entry("".join(chance.choices(letters, k=chance.randint(1, 110))), kind, link)
        info.size = chance.randrange(1 << chance.randint(1, 40)) if kind == tarfile.REGTYPE else 0
        info.mode, info.uid, info.gid = (chance.randrange(limit) for limit in (4096, 65536, 65536))
        same(info)
