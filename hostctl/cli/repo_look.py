"""``hostctl repo verify``, ``stats`` and ``serve``: look at a repository without changing it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from hostctl.cli.repository import add_json, add_keys, add_repository, keyring_if_named, repository_of
from hostctl.errors import EXIT_FAILED, UsageError
from hostctl.repository.serve import serve
from hostctl.repository.stats import FULL, Stats, stats
from hostctl.repository.verify import verify

MIB = 1 << 20


def _configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--apply",
        action="store_true",
        help="also apply every payload as hosts do; needs room for two releases in $TMPDIR or /var/tmp",
    )
    add_repository(parser)
    add_keys(parser)
    add_json(parser)


def _verify(arguments: argparse.Namespace) -> int:
    repository = repository_of(arguments)
    keyring = keyring_if_named(arguments)
    found = verify(repository, trusted=None if keyring is None else keyring.root, apply=arguments.apply)
    if arguments.json:
        print(json.dumps({"ok": not found.errors, **asdict(found)}, indent=1))
    else:
        for finding in found.warnings:
            print(f"warning: {finding.file}: {finding.problem}")
        for finding in found.errors:
            print(f"wrong: {finding.file}: {finding.problem}")
        result = f"{len(found.errors)} things are wrong" if found.errors else "all is well"
        tried = f", {found.applied} payloads applied" if found.applied else ""
        print(f"{result}: {found.releases} releases, {found.files} files, {found.bytes / MIB:.1f} MiB read{tried}")
    return EXIT_FAILED if found.errors else 0


def _configure_stats(parser: argparse.ArgumentParser) -> None:
    add_repository(parser)
    add_json(parser)


def _stats(arguments: argparse.Namespace) -> int:
    found = stats(repository_of(arguments))
    if arguments.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print("\n".join(_lines(found)))
    return 0


def _lines(found: Stats) -> Sequence[str]:
    lines = [f"{'channel':<12} {'release':<28} {'path':<24} {'bytes':>13} {'of full':>8}"]
    for one in found.releases:
        for way in one.ways:
            path = FULL if way.path == FULL else f"delta from {way.from_version}"
            share = f"{100 * way.bytes / one.full:.2f} %"
            lines.append(f"{one.channel:<12} {one.name + '_' + one.version:<28} {path:<24} {way.bytes:>13} {share:>8}")
    if found.fetches:
        lines += ["", f"{'channel':<12} {'a host that runs':<28} {'to take':<24} {'fetches':>13} {'path':>8}"]
    lines += [
        f"{one.channel:<12} {one.name + '_' + one.running:<28} {one.newest:<24} {one.bytes:>13} {one.path:>8}"
        for one in found.fetches
    ]
    stored = f"{found.payload_files} payloads take {found.payload_bytes} bytes"
    return [*lines, "", f"{stored}; metadata take {found.metadata_bytes} bytes"]


def _configure_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8000",
        metavar="ADDRESS:PORT",
        help="where to listen; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument("--log", action="store_true", help="print every request on standard error")
    add_repository(parser)
    add_json(parser)


def _serve(arguments: argparse.Namespace) -> int:
    address, _, port = arguments.listen.rpartition(":")
    if not address or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen: {arguments.listen!r} is not an address and a port", hint="as in 127.0.0.1:8000")
    repository = repository_of(arguments)

    def ready(url: str) -> None:
        text = json.dumps({"url": url}) if arguments.json else f"serving {repository} at {url} (not for production)"
        print(text, flush=True)

    serve(repository, address.strip("[]"), int(port), ready, requests=arguments.log)
    return 0


ACTIONS = (
    (
        "verify",
        "check every signature, date and file of a repository",
        _configure_verify,
        _verify,
        """\
examples:
  hostctl repo verify --repository /srv/updates
  hostctl repo verify --repository /srv/updates --keys keys      and that hosts with these keys trust it
  hostctl repo verify --repository /srv/updates --apply          and that every payload makes its release
Exit status: 0 if hosts can use all of it, 1 if something is wrong. Warnings do not count.
""",
    ),
    (
        "stats",
        "print what hosts would fetch: full payloads and deltas in bytes",
        _configure_stats,
        _stats,
        """\
examples:
  hostctl repo stats --repository /srv/updates
  hostctl repo stats --repository /srv/updates --json
""",
    ),
    (
        "serve",
        "serve a repository over HTTP for trying it out, not for production",
        _configure_serve,
        _serve,
        """\
examples:
  hostctl repo serve --repository /srv/updates
  hostctl repo serve --repository /srv/updates --listen 0.0.0.0:8080 --log
This is for trying out, not for production: there any web server or CDN serves the same static files, over HTTPS.
""",
    ),
)
