"""Credentials of registries, stored encrypted by systemd-creds and bound to this host (and its TPM, if it has one).

Nothing is ever in clear on a disk or in an argument list. Formats: systemd-creds(1), containers-auth.json(5).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from hostctl.config.values import RegistryHost
from hostctl.durable import sync_directory, write_file
from hostctl.errors import HostctlError
from hostctl.run import CommandError, run

SECONDS = 60.0
SECRET_BYTES = 64 << 10


class CredentialError(HostctlError):
    """A registry's credentials cannot be stored or read."""

    id = "registry-credentials"


def encode(user: str, password: str) -> str:
    """Return the base64 of ``user:password``.

    Raises:
        CredentialError: no registry could read it.
    """
    if not user or ":" in user or not (user + password).isprintable() or not password:
        raise CredentialError("a user has a name without a colon, and a password of one line")
    if len(user) + len(password) > SECRET_BYTES:
        raise CredentialError(f"user and password have more than {SECRET_BYTES} characters")
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class CredentialStore:
    """The folder of encrypted credentials, a file a registry."""

    folder: Path

    def _place(self, registry: str) -> tuple[Path, str]:
        name = f"registry-{RegistryHost(registry).replace(':', '+')}"
        return self.folder / f"{name}.cred", name

    def registries(self) -> tuple[str, ...]:
        """Return the registries that have credentials, by name."""
        names = (path.stem.removeprefix("registry-") for path in self.folder.glob("registry-*.cred"))
        return tuple(sorted(name.replace("+", ":") for name in names))

    def put(self, registry: str, secret: str) -> None:
        """Store what :func:`encode` returned.

        Raises:
            CredentialError: systemd-creds cannot encrypt it.
        """
        path, name = self._place(registry)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            argv = ["systemd-creds", "encrypt", f"--name={name}", "-", "-"]
            sealed = run(argv, stdin=json.dumps({"auth": secret}).encode(), timeout=SECONDS).stdout
        except CommandError as error:
            raise CredentialError(
                f"the credentials of {registry} cannot be encrypted", details=error.details
            ) from error
        write_file(path, sealed, mode=0o600)

    def get(self, registry: str) -> str | None:
        """Return what :meth:`put` stored; none when there is nothing.

        Raises:
            CredentialError: this host cannot decrypt it.
        """
        path, name = self._place(registry)
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            clear = run(["systemd-creds", "decrypt", f"--name={name}", "-", "-"], stdin=sealed, timeout=SECONDS).stdout
            return str(json.loads(clear)["auth"])
        except (CommandError, ValueError, KeyError) as error:
            raise CredentialError(
                f"the credentials of {registry} cannot be decrypted",
                details=error.details if isinstance(error, CommandError) else "",
                hint=f"they were made on another host or with another TPM: `hostctl login {registry}` again",
            ) from error

    def remove(self, registry: str) -> bool:
        """Forget a registry's credentials; tell whether there were any."""
        path, _ = self._place(registry)
        if not path.exists():
            return False
        path.unlink()
        sync_directory(self.folder)
        return True
