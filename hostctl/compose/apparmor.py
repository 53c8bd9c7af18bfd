"""Compiles a release's AppArmor profiles, so that its hosts need no compiler and no policy in text.

The compiler, what profiles may include and the kernel's features that they are compiled for come from the tools root;
neither the builder's kernel nor its own policy is asked, so two builds give the same bytes. A file holds one profile,
with its children: its name is how workloads name it. It must not attach itself to programs, because it would then
confine those of the host as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hostctl.compose.tools import ToolsRoot
from hostctl.config.values import AppArmorProfile
from hostctl.errors import HostctlError
from hostctl.run import CommandTimeoutError, run, tail

FOLDER = "usr/share/hostctl/apparmor"
"""Where a host finds compiled profiles (hostctl.layout, hostctl-apparmor.service)."""
FEATURES = "/usr/share/apparmor-features/features"
"""The features of the suite's kernel, pinned by Debian's package."""
SOURCE_LIMIT = 256 << 10  # bytes of a profile's text; the largest of Debian's has 30 KiB
POLICY_LIMIT = 4 << 20  # bytes of a compiled one: a block of dd in hostctl-apparmor.service
SECONDS = 120.0  # patterns can make a compiler think for a very long time

_SAID = re.compile(r"^AppArmor parser error.* in profile (?P<file>.+?) at line (?P<line>\d+): (?P<what>.+)$", re.M)


class AppArmorError(HostctlError):
    """Profiles of the release cannot be used."""

    id = "apparmor-profile"


class _ProblemError(Exception):
    """What is wrong with one profile."""


def compile_profiles(sources: Sequence[tuple[str, bytes]], tools: ToolsRoot, output: Path) -> None:
    """Write a file NAME for each profile to ``output``, in the kernel's format.

    Args:
        sources: how the declaration names each file, and what is in it.
        tools: whose ``apparmor_parser`` to run.
        output: an empty folder.

    Raises:
        AppArmorError: some cannot be used; what is wrong with each is told, with file and line.
    """
    problems: list[str] = []
    for declared, source in sources:
        try:
            _add(declared, source, tools, output)
        except _ProblemError as problem:
            problems.append(str(problem))
    if problems:
        raise AppArmorError("the release's AppArmor profiles cannot be used", details="\n".join(problems))


def _add(declared: str, source: bytes, tools: ToolsRoot, output: Path) -> None:
    """Compile one profile into ``output``."""
    if len(source) > SOURCE_LIMIT:
        raise _ProblemError(f"{declared}: it is longer than {SOURCE_LIMIT >> 10} KiB")
    text = output / ".profile"  # no name of a profile
    text.write_bytes(source)
    try:
        name = _name(declared, text, tools)
        if (output / name).exists():
            raise _ProblemError(f"{declared}: another file already has the profile {name}")
        _parser(declared, text, tools, "--ofile", str(output / name))
    finally:
        text.unlink()
    _check(declared, name, (output / name).read_bytes())


def read_profiles(folder: Path, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return the files of ``folder`` that a declaration names, as :func:`compile_profiles` takes them.

    Raises:
        AppArmorError: some are missing.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise AppArmorError("an AppArmor profile of the release is missing", details="\n".join(missing))
    return [(name, (folder / name).read_bytes()) for name in names]


def _parser(declared: str, text: Path, tools: ToolsRoot, *words: str) -> str:
    """Run the compiler and return what it prints."""
    argv = ["apparmor_parser", "--config-file", "/dev/null", "--skip-kernel-load", "--skip-cache", "--jobs=1"]
    argv += ["--features-file", FEATURES, *words, str(text)]
    try:
        done = run(tools.argv(argv, binds=[text.parent]), timeout=SECONDS, check=False)
    except CommandTimeoutError as error:
        raise _ProblemError(f"{declared}: compiling it takes longer than {SECONDS:g} s") from error
    if done.status:
        raise _ProblemError(complaint(declared, text, tail(done.stderr or done.stdout)))
    return done.text


def complaint(declared: str, text: Path, said: str) -> str:
    """Return what the compiler said of a file, in the words of whoever wrote it.

    Args:
        declared: how the declaration names the file.
        text: where the compiler found it.
        said: its error output.
    """
    found = _SAID.search(said)
    if found is None:
        return f"{declared}: {said.replace(str(text), declared)}"
    if found["file"] == str(text):
        return f"{declared}:{found['line']}: {found['what']}"
    return f"{declared}: {found['file']}:{found['line']}: {found['what']}"


def _name(declared: str, text: Path, tools: ToolsRoot) -> AppArmorProfile:
    """Return the name of the one profile in a file; those of its children begin with it."""
    names = _parser(declared, text, tools, "--names").split("\n")
    own = [name for name in names if name and "//" not in name]
    if len(own) != 1:
        raise _ProblemError(f"{declared}: must hold one profile, not {len(own)}")
    try:
        return AppArmorProfile(own[0])
    except ValueError as error:
        raise _ProblemError(f"{declared}: {error}") from error


def _check(declared: str, name: str, policy: bytes) -> None:
    """Refuse a compiled profile that hosts could not load, or that attaches itself to programs.

    Raises:
        _ProblemError: it is one; in the second case something comes between its name and its flags.
    """
    if len(policy) > POLICY_LIMIT:
        raise _ProblemError(f"{declared}: compiled it is larger than {POLICY_LIMIT >> 20} MiB")
    if _string("profile", name) + _tag("flags") not in policy:
        raise _ProblemError(f"{declared}: a profile must not name the programs that it is for, workloads name it")


def _tag(name: str) -> bytes:
    """Return a tag of the kernel's format (security/apparmor/policy_unpack.c)."""
    return b"\x04" + len(name + "\0").to_bytes(2, "little") + f"{name}\0".encode()


def _string(tag: str, value: str) -> bytes:
    """Return the beginning of a structure whose first member is a string."""
    return _tag(tag) + b"\x07\x05" + len(value + "\0").to_bytes(2, "little") + f"{value}\0".encode()
