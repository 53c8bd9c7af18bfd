"""How an image is built from a Containerfile: what is asked for, the workload that does it, and what it runs. Pure.

The workload is of the image that ``build`` of host.yaml names, which has buildah and crun: confined as any other, but
for CAP_SYS_ADMIN in its own user namespace, which mounts need, and with it the system calls that mount. Images come in
from the host's store and go out into it: it needs no registry.
Tested with buildah 1.39 and crun 1.21 of Debian 13; flags by buildah-build(1), buildah-pull(1), buildah-push(1).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from hostctl.agent import transient
from hostctl.agent.request import Request as Command
from hostctl.config.host import HostDeclaration
from hostctl.config.load import parse_host
from hostctl.config.values import ImageReference
from hostctl.errors import EXIT_USAGE, HostctlError
from hostctl.image.containerfile import inside
from hostctl.workload.instance import RUN

FOLDER = "/build"  # inside, where everything is
CONTEXT, FILE, IMAGE = "context", "Containerfile", "image"
TAG = "localhost/hostctl-build:latest"  # inside
CAPABILITY = "CAP_SYS_ADMIN"
WORDS = 64  # tags, or build arguments
LETTERS = 32 << 10
_NAME = re.compile(rf"{RUN}build-[0-9a-f]{{8}}")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_RUN = (  # isolation "chroot" runs a copy of buildah in a memfd, and hosts execute none (vm.memfd_noexec)
    *("--isolation", "rootless"),
    *("--runtime", "crun", "--runtime-flag", "cgroup-manager=disabled", "--runtime-flag", f"root={FOLDER}/crun"),
    *("--pid", "host"),  # the workload's: the kernel mounts no second /proc where parts of the first are masked
    *("--network", "host"),  # the workload's
)
_GENERAL = ("--root", f"{FOLDER}/storage", "--runroot", f"{FOLDER}/run", "--storage-driver", "vfs")


class BuildNotAllowedError(HostctlError):
    """The declaration does not say what images are built with."""

    id = "build-not-allowed"


class BuildRequestError(HostctlError):
    """What is to be built cannot be."""

    id = "build-invalid"
    exit_code = EXIT_USAGE


class BuildFailedError(HostctlError):
    """The builder ended with a failure; what it said went to the caller."""

    id = "build-failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked for: names of the image, the images that are needed, as they are written, and buildah's options."""

    tags: tuple[ImageReference, ...] = ()
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    target: str = ""
    quiet: bool = False


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > WORDS:
        raise BuildRequestError(f"{what}: at most {WORDS} are possible")
    for each in value:
        if not isinstance(each, str) or not each or "\0" in each or len(each) > LETTERS:
            raise BuildRequestError(f"{what}: one is no text of 1 to {LETTERS} letters")
    return tuple(value)


def _reference(text: str) -> ImageReference:
    try:
        return ImageReference(text)
    except ValueError as error:
        raise BuildRequestError(str(error)) from error


def decode(text: str) -> Request:
    """Return the request: a JSON object that may have tags, needs, arguments, target and quiet.

    Raises:
        BuildRequestError: it is none.
    """
    try:
        found = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise BuildRequestError("the request is no object") from error
    unknown = sorted(set(found) - {"tags", "needs", "arguments", "target", "quiet"})
    if unknown:
        raise BuildRequestError(f"{', '.join(map(str, unknown))}: not a setting of a build")
    request = Request(
        tags=tuple(map(_reference, _texts(found.get("tags", []), "tags"))),
        needs=_texts(found.get("needs", []), "needs"),
        arguments=_texts(found.get("arguments", []), "arguments"),
        target=str(found.get("target", "")),
        quiet=found.get("quiet") is True,
    )
    for tag in request.tags:
        if tag.digest:
            raise BuildRequestError(f"{tag} has a digest; what is built gets its own", hint="give a name with a tag")
    for need in request.needs:
        _reference(need)
    if any(not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", each, re.DOTALL) for each in request.arguments):
        raise BuildRequestError("a build argument is NAME=VALUE")
    if request.target and not _TARGET.fullmatch(request.target):
        raise BuildRequestError(f"{request.target!r} is no name of a stage")
    return request


def require_digests(declaration: HostDeclaration, request: Request) -> None:
    """Refuse a build that needs an image by a name that may come to mean another, where the declaration wants digests.

    Raises:
        BuildRequestError: it does; every such image is named.
    """
    named = [(each, ImageReference(each)) for each in request.needs]
    wrong = [(each, reference.registry) for each, reference in named if declaration.wants_digest(reference)]
    if wrong:
        raise BuildRequestError(
            "the Containerfile names images without their digest",
            details="\n".join(f"{each}: images of {registry} must be named by digest" for each, registry in wrong),
            hint="write NAME@sha256:… there; `hostctl images --digests` shows what is here",
        )


def new_name() -> str:
    """Return the name of a workload for one build."""
    return f"{RUN}build-{secrets.token_hex(4)}"


def add(text: str, name: str) -> str:
    """Return the declaration with the workload that builds.

    Args:
        text: the declaration in force.
        name: of the workload.

    Raises:
        BuildNotAllowedError: it does not say what images are built with.
    """
    declaration = parse_host(text, "host.yaml")
    policy = declaration.build
    if policy is None:
        raise BuildNotAllowedError(
            "this host builds no images", hint="build: {image: …} in host.yaml names an image that has buildah and crun"
        )
    settings: dict[str, object] = {
        "image": policy.image,
        "capabilities": [CAPABILITY],
        "working_dir": FOLDER,
        "user": "0:0",
        "restart": "no",
        "autostart": False,  # a restart of the host ends a build for good
        **({"memory": policy.memory} if policy.memory is not None else {}),
        **({"cpus": policy.cpus} if policy.cpus is not None else {}),
    }
    return transient.rewritten(declaration, {name: settings})


def may_be_one(name: str) -> bool:
    """Tell whether a workload has the name of one of a build."""
    return _NAME.fullmatch(name) is not None


def left_over(declaration: HostDeclaration) -> tuple[str, ...]:
    """Return the workloads of builds; nobody else can run one of such a name with that capability."""
    return tuple(
        str(name)
        for name, workload in declaration.workloads.items()
        if may_be_one(name) and [*map(str, workload.capabilities)] == [CAPABILITY]
    )


def _command(*words: str) -> Command:
    env = (f"HOME={FOLDER}", f"TMPDIR={FOLDER}")
    return Command(argv=("buildah", *_GENERAL, *words), user="0:0", workdir=FOLDER, env=env)


def base(number: int) -> str:
    """Return the folder, below :data:`FOLDER`, of an image that is brought in."""
    return f"base-{number}"


def pull(number: int) -> Command:
    """Return what takes an image that was brought in; it prints its id."""
    return _command("pull", "--quiet", f"oci:{FOLDER}/{base(number)}")


def image_id(printed: bytes) -> str:
    """Return the id that :func:`pull` printed.

    Raises:
        BuildFailedError: it printed something else.
    """
    found = _ID.fullmatch(printed[:200].decode("ascii", "replace").strip())
    if found is None:
        raise BuildFailedError("buildah does not say which image it took")
    return found[1]


def tag(found: str, name: str) -> Command:
    """Return what names an image inside: as it is written, and in full."""
    return _command("tag", found, *dict.fromkeys((inside(name), inside(str(ImageReference(name))))))


def build(request: Request) -> Command:
    """Return what builds."""
    words = [*_RUN, "--pull=never", "--layers=false", "--file", f"{FOLDER}/{FILE}", "--tag", TAG]
    words += ["--target", request.target] if request.target else []
    words += ["--quiet"] if request.quiet else []
    words += [word for argument in request.arguments for word in ("--build-arg", argument)]
    return _command("build", *words, f"{FOLDER}/{CONTEXT}")


def push() -> Command:
    """Return what writes the image that was built as a layout."""
    return _command("push", "--quiet", "--disable-compression", TAG, f"oci:{FOLDER}/{IMAGE}")


def folders(needs: Sequence[str]) -> tuple[str, ...]:
    """Return the folders that there must be before anything is brought in."""
    return (CONTEXT, *(base(number) for number in range(len(needs))))
