"""``hostctl login`` and ``logout``: the password of a registry, stored encrypted on this host."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys

from hostctl.agent import client
from hostctl.errors import UsageError

HUB = "docker.io"
LONGEST = 64 << 10
EXAMPLES = """examples:
  hostctl login -u me registry.example                                  asks for the password
  hostctl login -u me --password-stdin registry.example < password
  hostctl logout registry.example

The registry is asked first. The password is encrypted by systemd-creds for this host, and never in an argument list
or in clear on the disk.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; those of login only where it is one."""
    parser.add_argument("registry", nargs="?", default=HUB, help=f"host[:port]; {HUB} by default")
    if not parser.prog.endswith("logout"):
        parser.add_argument("-u", "--username", metavar="USER", help="asked for by default")
        parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _password(arguments: argparse.Namespace) -> str:
    if arguments.password_stdin:
        return sys.stdin.read(LONGEST)
    if not os.isatty(0):
        raise UsageError("there is no terminal to ask at", hint="--password-stdin reads it from standard input")
    return getpass.getpass("Password: ")


def _login(arguments: argparse.Namespace) -> str:
    user = arguments.username
    if user is None and (arguments.password_stdin or not os.isatty(0)):
        raise UsageError("a user is needed", hint="--username USER")
    user = user or input("Username: ")
    secret = os.memfd_create("password")
    os.write(secret, _password(arguments).encode())
    os.lseek(secret, 0, os.SEEK_SET)
    said = client.ask("Login", arguments.registry, user, descriptors=(secret,))
    return json.dumps(said) if arguments.json else "Login Succeeded"


def _logout(arguments: argparse.Namespace) -> str:
    said = client.ask("Logout", arguments.registry)
    if arguments.json:
        return json.dumps(said)
    return f"{'Removed the password of' if said['removed'] else 'There was no password of'} {said['registry']}"


def run(arguments: argparse.Namespace) -> int:
    """Log in or out."""
    print(_login(arguments) if arguments.verb == "login" else _logout(arguments))
    return 0
