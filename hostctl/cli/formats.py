"""``--format`` of verbs that print rows: the part of Docker's templates that scripts use.

``{{.Field}}``, ``{{.Outer.Inner}}``, ``{{json .Field}}`` and ``{{json .}}``; ``\\t`` and ``\\n``; ``table`` in front
aligns columns under their names; ``json`` alone is one object a line. Anything else of Go's templates is refused, not
guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from hostctl.cli.tables import table
from hostctl.errors import UsageError

_PLACE = re.compile(r"\{\{\s*(?P<json>json\s+)?\.(?P<path>[A-Za-z0-9_.]*)\s*\}\}")
EXAMPLE = "as in '{{.Name}}' or 'table {{.Name}}\\t{{.Status}}'"


def _value(row: object, path: str) -> object:
    for word in path.split(".") if path else ():
        if not isinstance(row, Mapping) or word not in row:
            known = ", ".join(f".{key}" for key in row) if isinstance(row, Mapping) else "nothing"
            raise UsageError(f"--format: there is no .{path}", hint=f"there is {known}")
        row = row[word]
    return row


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def render(template: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Return every row by the template, a line each.

    Raises:
        UsageError: it names what a row does not have, or is more than this understands.
    """
    if template == "json":
        return "\n".join(json.dumps(row) for row in rows)
    aligned = template.startswith("table ")
    text = template.removeprefix("table ").replace("\\t", "\t").replace("\\n", "\n")
    if "{{" in _PLACE.sub("", text):
        raise UsageError(f"--format: {template!r} is not understood", hint=EXAMPLE)

    def fill(row: Mapping[str, object]) -> str:
        def place(found: re.Match[str]) -> str:
            value = _value(row, found["path"])
            return json.dumps(value) if found["json"] else _shown(value)

        return _PLACE.sub(place, text)

    if not aligned:
        return "\n".join(fill(row) for row in rows)
    heads = [_PLACE.sub(lambda found: found["path"].upper(), cell) for cell in text.split("\t")]
    return table(heads, [fill(row).split("\t") for row in rows])
