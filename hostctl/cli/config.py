"""``hostctl config``: checks, shows and documents declarations. Reads files only; nothing is changed anywhere."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from hostctl.cli import actions
from hostctl.config.dump import plain, to_yaml
from hostctl.config.host import HostDeclaration
from hostctl.config.load import decode_bytes, parse_host, parse_release, read_text
from hostctl.config.nodes import MAX_BYTES
from hostctl.config.problems import DeclarationError
from hostctl.config.release import ReleaseDeclaration
from hostctl.errors import EXIT_USAGE, HostctlError

EXAMPLES = """examples:
  hostctl config check host.yaml release.yaml   every mistake, with line and caret; exit code 2 if there is one
  hostctl config show host.yaml --full          the declaration as it is understood, with all defaults
  hostctl config show - --kind host --json      from standard input, as JSON
  hostctl config schema host > host.schema.json the JSON Schema, for editors
  hostctl config reference release              every setting, in Markdown
"""

_RELEASE_KEY = re.compile(r"""^["']?(release|kernel|packages|base|integrity)["']?\s*:""", re.MULTILINE)
_HOST_KEY = re.compile(r"""^["']?(hostname|workloads|users|volumes|registries)["']?\s*:""", re.MULTILINE)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    words = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add(words, "check", "say what is wrong with declarations; exit code 2 if anything is", EXAMPLES)
    check.add_argument("files", nargs="+", metavar="FILE", help="a host.yaml or release.yaml, - for standard input")
    show = actions.add(words, "show", "print a declaration as it is understood", EXAMPLES)
    show.add_argument("file", metavar="FILE", help="a host.yaml or release.yaml, - for standard input")
    show.add_argument("--full", action="store_true", help="also the settings that have their default")
    for action in (check, show):
        action.add_argument("--kind", choices=("host", "release"), help="what it is (default: seen by its contents)")
        action.add_argument("--json", action="store_true", help="print JSON")
    for name, text in (("schema", "print the JSON Schema"), ("reference", "print the reference page in Markdown")):
        action = actions.add(words, name, f"{text} of a kind of declaration", EXAMPLES)
        action.add_argument("kind", choices=("host", "release"), help="the kind of declaration")


def recognise(text: str, name: str) -> str:
    """Return ``host`` or ``release``: by the settings at the start of lines, else by the file's name.

    Args:
        text: contents of the file, which may be wrong in any way.
        name: of the file.
    """
    release, host = len(_RELEASE_KEY.findall(text)), len(_HOST_KEY.findall(text))
    if release != host:
        return "release" if release > host else "host"
    return "release" if "release" in Path(name).name else "host"


@dataclass(frozen=True, slots=True)
class _Read:
    kind: str
    declaration: HostDeclaration | ReleaseDeclaration


def _read(file: str, kind: str | None) -> _Read:
    if file == "-":
        name = "<stdin>"
        text = decode_bytes(sys.stdin.buffer.read(MAX_BYTES + 1), name)
    else:
        name = file
        text = read_text(Path(file))
    kind = kind or recognise(text, name)
    return _Read(kind, parse_release(text, name) if kind == "release" else parse_host(text, name))


def _check(files: list[str], kind: str | None, *, as_json: bool) -> int:
    code = 0
    results: list[object] = []
    for file in files:
        try:
            read = _read(file, kind)
        except HostctlError as error:
            code = EXIT_USAGE
            results.append(_as_json(file, error))
            if not as_json:
                print(error.render(), file=sys.stderr)
        else:
            results.append({"file": file, "kind": read.kind, "valid": True, "problems": []})
            if not as_json:
                print(f"{file}: a valid {read.kind} declaration")
    if as_json:
        print(json.dumps(results, indent=2))
    return code


def _as_json(file: str, error: HostctlError) -> object:
    if not isinstance(error, DeclarationError):
        return {"file": file, "valid": False, "problems": [{"message": error.brief}]}
    problems = [
        {"line": each.line, "column": each.column, "path": each.path, "message": each.message, "hint": each.hint}
        for each in error.problems
    ]
    return {"file": file, "valid": False, "problems": problems}


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked and return the exit code: 0, or 2 when a declaration is not valid."""
    if arguments.action == "check":
        return _check(arguments.files, arguments.kind, as_json=arguments.json)
    if arguments.action == "show":
        declaration = _read(arguments.file, arguments.kind).declaration
        tree = plain(declaration, full=arguments.full)
        print(json.dumps(tree, indent=2) if arguments.json else to_yaml(declaration, full=arguments.full).rstrip("\n"))
        return 0
    if arguments.action == "schema":
        from hostctl.config.schema import schema  # noqa: PLC0415 - reads sources, only for this

        print(json.dumps(schema(arguments.kind), indent=2))
        return 0
    from hostctl.config.reference import reference  # noqa: PLC0415 - reads sources, only for this

    print(reference(arguments.kind), end="")
    return 0
