"""Asks a registry whether it knows a user, before the password is stored."""

from __future__ import annotations

from hostctl.image.refusal import refusal
from hostctl.image.registry import SKOPEO, Access, Skopeo, session
from hostctl.run import CommandError

SECONDS = 60.0


def check(registry: str, user: str, password: str, access: Access, skopeo: Skopeo = SKOPEO) -> None:
    """Ask the registry whether it knows a user.

    Raises:
        PullError: it does not, or cannot be asked.
    """
    words = ["--username", user, "--password-stdin", *(["--tls-verify=false"] if access.insecure else []), registry]
    with session(registry, access, skopeo) as opened:
        try:
            opened.run("login", *words, timeout=SECONDS, stdin=password.encode())
        except CommandError as error:
            raise refusal(f"the login to {registry}", registry, error) from error
