"""Puts secrets into a workload's environment: writes its config.json with them to memory, once a boot or change.

A program of its own (``python3 -I -S secret_env.pyc TEMPLATE TARGET VARIABLE=SECRET…``), run by the service that mounts
the workload's root file system, and only for a workload that declares ``env_secrets``. systemd has decrypted them into
``$CREDENTIALS_DIRECTORY`` (systemd.exec(5), "Credentials"). The target is root's alone and lies on a tmpfs.
"""

from __future__ import annotations

import json
import os
import sys


class SecretValueError(ValueError):
    """A secret cannot be an environment variable."""


def variable(name: str, data: bytes) -> str:
    """Return ``NAME=value`` of a secret; one line's end at its end is not part of it.

    Raises:
        SecretValueError: it is not UTF-8, or has a zero byte.
    """
    try:
        value = data.decode()
    except UnicodeDecodeError as error:
        raise SecretValueError(f"the secret for {name} is not text") from error
    if "\0" in value:
        raise SecretValueError(f"the secret for {name} contains a zero byte")
    return f"{name}={value.removesuffix(chr(10))}"


def merged(template: bytes, variables: list[str]) -> bytes:
    """Return a container's config.json with variables on top of those that it has."""
    document = json.loads(template)
    names = {entry.partition("=")[0] for entry in variables}
    kept = [entry for entry in document["process"]["env"] if entry.partition("=")[0] not in names]
    document["process"]["env"] = [*kept, *variables]
    return json.dumps(document).encode()


def main(template: str, target: str, words: list[str], folder: str) -> int:
    """Write ``target`` from ``template`` with the secrets in ``folder`` that ``words`` name."""
    variables = []
    for word in words:
        name, _, secret = word.partition("=")
        with open(f"{folder}/{secret}", "rb") as file:  # noqa: PTH123 - pathlib is an import of 15 ms
            variables.append(variable(name, file.read()))
    with open(template, "rb") as file:  # noqa: PTH123 - as above
        made = merged(file.read(), variables)
    descriptor = os.open(f"{target}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(made)
    os.replace(f"{target}.tmp", target)  # noqa: PTH105 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:], os.environ["CREDENTIALS_DIRECTORY"]))
