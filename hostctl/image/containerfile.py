"""Which other images a Containerfile needs: those of FROM, of COPY --from and of RUN --mount=from. Pure.

Only names are read, so that the host can bring these images itself, by its own registries and policies; what the rest
means is for the builder. A name that cannot be told from the text is an error rather than a guess.
Format: containers/common, docs/Containerfile.5.md; https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from hostctl.errors import EXIT_USAGE, HostctlError

BYTES = 1 << 20
IMAGES = 32
SCRATCH = "scratch"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_HEREDOC = re.compile(r"<<(-?)\s*([\"']?)(\w+)\2")
_MOUNT_FROM = re.compile(r"--mount=\S*?\bfrom=([^,\s]+)")


class ContainerfileError(HostctlError):
    """A Containerfile cannot be built here."""

    id = "containerfile"
    exit_code = EXIT_USAGE


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield instructions in capital letters with what follows them; comments and here-documents are passed over."""
    lines = iter(text.splitlines())
    for line in lines:
        whole = line.strip()
        if not whole or whole.startswith("#"):
            continue
        parts: list[str] = []
        while whole.endswith("\\"):
            parts.append(whole[:-1])
            whole = next((each.strip() for each in lines if not each.lstrip().startswith("#")), "")
        word, _, rest = "".join([*parts, whole]).partition(" ")
        yield word.upper(), rest.strip()
        for dash, _, end in _HEREDOC.findall(rest) if word.upper() in ("RUN", "COPY", "ADD") else ():
            for inner in lines:
                if (inner.lstrip("\t") if dash else inner) == end:
                    break


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with its variables replaced.

    Raises:
        ContainerfileError: one is not known.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        found = variables.get(name) or match[2]
        if found is None:
            raise ContainerfileError(f"{text}: {name} is not known before the first FROM", hint=f"--build-arg {name}=…")
        return found

    return _VARIABLE.sub(value, text)


def _arguments(rest: str, given: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return what an ARG before the first FROM defines."""
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    made = {}
    for word in words:
        name, equals, default = word.partition("=")
        if name in given:
            made[name] = given[name]
        elif equals:
            made[name] = expanded(default, known)
    return made


def needed(text: str, given: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the images that are needed, as they are written, each once.

    Args:
        text: the Containerfile.
        given: build arguments.

    Raises:
        ContainerfileError: it has no FROM, names more than :data:`IMAGES`, or one that cannot be told.
    """
    known: dict[str, str] = {}
    stages: set[str] = set()
    found: dict[str, None] = {}
    count = 0
    for word, rest in instructions(text):
        if word == "ARG" and not count:
            known |= _arguments(rest, given, known)
        elif word == "FROM":
            words = [each for each in rest.split() if not each.startswith("--")]
            if not words:
                raise ContainerfileError("FROM needs an image")
            _note(expanded(words[0], known), stages, found)
            if len(words) == 3 and words[1].upper() == "AS":
                stages.add(words[2].lower())
            stages.add(str(count))
            count += 1
        elif word in ("COPY", "ADD"):
            flags = [each for each in rest.split() if each.startswith("--from=")]
            for flag in flags:
                _note(expanded(flag.removeprefix("--from="), known), stages, found)
        elif word == "RUN":
            for name in _MOUNT_FROM.findall(rest):
                _note(expanded(name, known), stages, found)
    if not count:
        raise ContainerfileError("there is no FROM in it")
    if len(found) > IMAGES:
        raise ContainerfileError(f"it needs more than {IMAGES} images")
    return tuple(found)


def _note(name: str, stages: set[str], found: dict[str, None]) -> None:
    if name.lower() not in stages and name != SCRATCH:
        found[name] = None


def inside(name: str) -> str:
    """Return what an image is called where it is built with: as it is written, unless that has a digest.

    An image's manifest is another one there, so that it would not be found by that of its registry.
    """
    _, at, digest = name.partition("@sha256:")
    return f"localhost/hostctl-base:{digest}" if at else name


def renamed(text: str, names: Iterable[str]) -> str:
    """Return a text in which images that are named by digest are called as :func:`inside` says."""
    for name in names:
        text = text.replace(name, inside(name)) if "@sha256:" in name else text
    return text
