"""How a registry is reached, and the files that tell skopeo so: mirrors, certificates, credentials, signature policy.

The files lie in a folder of their own below ``/run``, readable by root alone, and go with the session that made them.
Formats: containers-registries.conf(5), containers-policy.json(5), containers-registries.d(5), containers-auth.json(5).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from hostctl.config.host import HostDeclaration
from hostctl.config.values import ImageReference, RegistryHost
from hostctl.run import Completed, run, watch

RUNTIME = Path("/run/hostctl/registries")
ANYTHING: Sequence[object] = [{"type": "insecureAcceptAnything"}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """Another place with the same images: ``location`` is host[:port][/name]."""

    location: str
    insecure: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How one registry is reached, and by which key its images must be signed.

    ``ca`` is a PEM text, ``key`` a PEM text or empty when no signature is asked for, ``credentials`` are the base64 of
    ``user:password`` by host[:port].
    """

    insecure: bool = False
    mirrors: tuple[Mirror, ...] = ()
    ca: str = ""
    key: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)

    def signer(self, reference: ImageReference) -> str:
        """Return what stands for the key, and the repository that it signs for, in the store's record of checked
        images; empty without a key."""
        return f"{sha256(self.key.encode()).hexdigest()}@{reference.place}" if self.key else ""

    def places(self, registry: str) -> tuple[Mirror, ...]:
        """Return where the images of this registry are looked for, in order: its mirrors, and itself."""
        return (*self.mirrors, Mirror(location=registry, insecure=self.insecure))


DIRECT = Access()
"""By HTTPS with the certificates that Debian trusts, without a name, and without a signature."""


def access(
    declaration: HostDeclaration | None,
    registry: str,
    credential: Callable[[str], str | None] = lambda host: None,
) -> Access:
    """Return how a registry is reached by a declaration (none: as if nothing were declared).

    Args:
        declaration: of this host.
        registry: host[:port].
        credential: gives the base64 of ``user:password`` for a host[:port], if there is one.
    """
    declared = declaration.registries if declaration else {}
    own = declared.get(RegistryHost(registry))

    def insecure(host: str) -> bool:
        found = declared.get(RegistryHost(host))
        return found is not None and found.insecure

    wanted = own.mirrors if own else ()
    mirrors = tuple(Mirror(location=str(mirror), insecure=insecure(mirror.host)) for mirror in wanted)
    hosts = dict.fromkeys([registry, *(mirror.host for mirror in wanted)])
    signatures = declaration.signatures(registry) if declaration else None
    return Access(
        insecure=insecure(registry),
        mirrors=mirrors,
        ca=(own.ca or "") if own else "",
        key=(signatures.key or "") if signatures else "",
        credentials={host: found for host in hosts if (found := credential(host))},
    )


def registries_conf(registry: str, place: Mirror) -> str:
    """Return the registries.conf (TOML) by which images of a registry come from a place, under the registry's names.

    Not as a mirror of it: skopeo stays with whoever has the manifest, also if that then lacks a layer or never ends.
    Strings of JSON are strings of TOML.
    """
    lines = ["unqualified-search-registries = []", 'short-name-mode = "disabled"', "[[registry]]"]
    lines += [f"prefix = {json.dumps(registry)}", f"location = {json.dumps(place.location)}"]
    return "\n".join([*lines, f"insecure = {str(place.insecure).lower()}", ""])


def policy(key: Path | None) -> str:
    """Return the policy.json: anything from a registry without a key, else what is signed by it for that repository."""
    identity = {"type": "matchRepository"}  # what cosign signs names no tag
    signed: dict[str, object] = {"type": "sigstoreSigned", "keyPath": str(key), "signedIdentity": identity}
    docker: object = ANYTHING if key is None else [signed]
    return json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {"": docker}, "oci": {"": ANYTHING}}})


def _as_is(words: Sequence[str]) -> Sequence[str]:
    return words


@dataclass(frozen=True, kw_only=True, slots=True)
class Skopeo:
    """The program: ``runtime`` is the folder for its sessions, in memory because of credentials; ``enter`` turns its
    command line into one that runs it where it is."""

    runtime: Path = RUNTIME
    enter: Callable[[Sequence[str]], Sequence[str]] = _as_is


SKOPEO = Skopeo()
"""The one of this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Runs skopeo with the files in ``folder``."""

    folder: Path
    skopeo: Skopeo

    def _argv(self, verb: str, words: Sequence[str]) -> list[str]:
        general = ["--registries-conf", str(self.folder / "registries.conf"), "--policy", str(self.folder / "policy")]
        general += ["--registries.d", str(self.folder / "registries.d"), "--tmpdir", str(self.folder)]
        options = ["--authfile", str(self.folder / "auth.json")]
        for side in ("--src-cert-dir", "--dest-cert-dir") if verb == "copy" else ("--cert-dir",):
            options += [side, str(self.folder / "certificates")]
        return list(self.skopeo.enter(["skopeo", *general, verb, *options, *words]))

    @property
    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)}

    def run(self, verb: str, *words: str, timeout: float, stdin: bytes | None = None) -> Completed:
        """Run ``skopeo VERB``; errors as :func:`hostctl.run.run`, ``timeout`` in seconds."""
        return run(self._argv(verb, words), timeout=timeout, stdin=stdin, env=self._environment)

    def watch(self, verb: str, *words: str, tick: Callable[[], None], every: float, timeout: float) -> Completed:
        """Run ``skopeo VERB`` and call ``tick`` meanwhile; see :func:`hostctl.run.watch`."""
        return watch(self._argv(verb, words), tick, every=every, timeout=timeout, env=self._environment)


def dead(runtime: Path) -> list[Path]:
    """Return the folders of sessions whose process was killed; nobody reads the credentials in them any more."""
    return [path for path in runtime.iterdir() if not _alive(path)] if runtime.is_dir() else []


def _alive(path: Path) -> bool:
    word = path.name.partition("-")[0]
    return word.isdigit() and Path("/proc", word).is_dir()


@contextmanager
def session(registry: str, access: Access, skopeo: Skopeo = SKOPEO, place: Mirror | None = None) -> Iterator[Session]:
    """Write the files for one registry, and remove them in the end; what a killed process left goes first.

    Args:
        registry: host[:port].
        access: how it is reached.
        skopeo: the program.
        place: of :meth:`Access.places`; none is the registry itself.
    """
    runtime = skopeo.runtime
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in dead(runtime):
        shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=runtime, prefix=f"{os.getpid()}-") as name:
        folder = Path(name)
        for inner in ("certificates", "registries.d"):
            (folder / inner).mkdir()
        if access.ca:
            (folder / "certificates/ca.crt").write_text(access.ca)
        key = folder / "cosign.pub" if access.key else None
        if key is not None:
            key.write_text(access.key)
            (folder / "registries.d/default.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
        (folder / "policy").write_text(policy(key))
        (folder / "registries.conf").write_text(registries_conf(registry, place or access.places(registry)[-1]))
        auths = {host: {"auth": found} for host, found in access.credentials.items()}
        (folder / "auth.json").write_text(json.dumps({"auths": auths}))
        yield Session(folder=folder, skopeo=skopeo)


def source(reference: ImageReference, digest: str | None) -> str:
    """Return a reference as skopeo names it; by ``digest`` if there is one, else by its tag."""
    where = f"docker://{reference.registry}/{reference.repository}"
    return f"{where}@{digest}" if digest else f"{where}:{reference.tag or 'latest'}"
