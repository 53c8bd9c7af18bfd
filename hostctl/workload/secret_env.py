"""Puts secrets into a workload's environment: writes files of its bundle with them to memory, before each start.

A program of its own (``python3 -I -S secret_env.pyc BUNDLE TARGET FILE,… VARIABLE=SECRET…``), run by the workload's
service, and only for a workload that declares ``env_secrets``. The files are config.json, by which the container is
started and commands run in it, and what its check is run by. systemd has decrypted the secrets into
``$CREDENTIALS_DIRECTORY`` (systemd.exec(5), "Credentials"). What is written is root's alone and lies on a tmpfs.
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
    """Return a container's config.json, or a process as it has one, with variables on top of those that it has."""
    document = json.loads(template)
    process = document.get("process", document)
    names = {entry.partition("=")[0] for entry in variables}
    kept = [entry for entry in process["env"] if entry.partition("=")[0] not in names]
    process["env"] = [*kept, *variables]
    return json.dumps(document).encode()


def main(bundle: str, target: str, files: list[str], words: list[str], folder: str) -> int:
    """Write ``files`` of ``bundle`` to ``target`` with the secrets in ``folder`` that ``words`` name."""
    variables = []
    for word in words:
        name, _, secret = word.partition("=")
        with open(f"{folder}/{secret}", "rb") as file:  # noqa: PTH123 - pathlib is an import of 15 ms
            variables.append(variable(name, file.read()))
    for each in files:
        with open(f"{bundle}/{each}", "rb") as file:  # noqa: PTH123 - as above
            made = merged(file.read(), variables)
        descriptor = os.open(f"{target}/{each}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(made)
        os.replace(f"{target}/{each}.tmp", f"{target}/{each}")  # noqa: PTH105 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4:], os.environ["CREDENTIALS_DIRECTORY"]))
