"""Which images a Containerfile needs, honest ones and others."""

from __future__ import annotations

import pytest

from hostctl.image.containerfile import ContainerfileError, inside, needed, renamed

DIGEST = f"r.example/base@sha256:{'1' * 64}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("FROM nginx", ("nginx",)),
        ("# syntax=x\n\n  from  nginx:1  as  one \nFROM one\nFROM scratch", ("nginx:1",)),
        (
            "FROM --platform=linux/amd64 r.example/a:1 AS one\nFROM one AS two\nCOPY --from=two /x /y",
            ("r.example/a:1",),
        ),
        ("FROM a AS one\nCOPY --from=0 /x /y\nCOPY --chown=1:1 --from=r.example/b:2 /x /y", ("a", "r.example/b:2")),
        ("FROM a\nADD --from=b x y\nRUN --mount=type=bind,from=c,source=/x ls", ("a", "b", "c")),
        ("ARG V=1\nARG N=r.example/a\nFROM ${N}:$V", ("r.example/a:1",)),
        ("FROM a:${V:-7}", ("a:7",)),
        ("ARG V\nARG W='x y'\nFROM a:${V:-7}", ("a:7",)),
        ("FROM a \\\n  # a comment\n  AS one\nFROM one", ("a",)),
        ("FROM a\nRUN <<EOF\nFROM not-this\nEOF\nFROM b", ("a", "b")),
        ("FROM a\nRUN cat <<-'X' >/x && cat <<Y\n\tFROM no\n\tX\nFROM no\nY\nFROM b", ("a", "b")),
        ("FROM a AS Build\nFROM build", ("a",)),
        (f"FROM {DIGEST}", (DIGEST,)),
        ("FROM a\nRUN <<EOF\nFROM endless", ("a",)),
    ],
)
def test_what_is_needed(text: str, names: tuple[str, ...]) -> None:
    assert needed(text, {}) == names


def test_build_arguments_go_before_defaults() -> None:
    assert needed("ARG V=1\nFROM a:$V", {"V": "2", "X": "3"}) == ("a:2",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no FROM"),
        ("RUN ls", "no FROM"),
        ("FROM", "needs an image"),
        ("FROM --platform=x", "needs an image"),
        ("FROM a:$V", "V is not known"),
        ("ARG V\nFROM a:$V", "V is not known"),
        ("FROM a\nARG V=1\nFROM b:$V", "V is not known"),
        ("\n".join(f"FROM a{number}" for number in range(40)), "more than 32"),
    ],
)
def test_what_cannot_be_told_is_refused(text: str, said: str) -> None:
    with pytest.raises(ContainerfileError, match=said):
        needed(text, {})


NONSENSE = ("\\" * 1_000_000, "FROM a\n" + "RUN \\\n" * 200_000, "ARG '\nFROM a", "FROM a\x00b\x1b", "\ud800")


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_ends(text: str) -> None:
    try:
        needed(text, {})
    except ContainerfileError:
        return


def test_an_image_by_digest_has_another_name_inside() -> None:
    assert inside("nginx:1") == "nginx:1"
    assert inside(DIGEST) == f"localhost/hostctl-base:{'1' * 64}"
    text = f"ARG A={DIGEST}\nFROM $A\nCOPY --from={DIGEST} /a /b\nFROM nginx"
    changed = renamed(text, needed(text, {}))
    assert needed(changed, {}) == (inside(DIGEST), "nginx")
