"""The reference pages of the declarations, written from the types, so that they cannot be out of date unnoticed."""

from __future__ import annotations

import collections.abc
import json
import typing
from collections.abc import Iterator
from typing import cast

from hostctl.config.decode import field_types, is_record, is_union, required_fields
from hostctl.config.schema import KINDS, default_of, field_docs, type_doc

_BUILTIN = {str: "text", bool: "true or false", int: "whole number"}

_INTRODUCTION = """# {kind}.yaml

<!-- Written by `hostctl config reference {kind}` from the types in hostctl/config. Do not edit. -->

{doc}

One YAML document without anchors, aliases and tags. Each value is read by the type of its setting, so quotes are
only needed where YAML itself needs them. Unknown and repeated settings are errors. `hostctl config check FILE`
shows every mistake with its line; `hostctl config schema {kind}` prints the JSON Schema for editors.
"""


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _describe(annotation: object) -> str:
    """Return a type in words, with links to the sections of named types."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if is_union(annotation):
        return " or ".join(_describe(member) for member in arguments if member is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of {_describe(arguments[0])}"
    if origin is collections.abc.Mapping:
        return f"mapping of {_describe(arguments[0])} to {_describe(arguments[1])}"
    builtin = _BUILTIN.get(cast("type[object]", annotation))
    return builtin or _link(cast("type[object]", annotation).__name__)


def _named(annotation: object) -> Iterator[type[object]]:
    """Yield the types of ours that an annotation names."""
    for argument in typing.get_args(annotation):
        yield from _named(argument)
    if is_record(annotation) or hasattr(annotation, "parse"):
        yield cast("type[object]", annotation)


def _reachable(root: type[object]) -> tuple[list[type[object]], list[type[object]]]:
    """Return the records and the value types that a declaration leads to, in its order."""
    records: list[type[object]] = [root]
    values: list[type[object]] = []
    for record in records:  # grows while it is walked
        for annotation in field_types(record).values():
            for named in _named(annotation):
                found = records if is_record(named) else values
                if named not in found:
                    found.append(named)
    return records, values


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _settings(record: type[object]) -> Iterator[str]:
    fields, docs, required = field_types(record), field_docs(record), required_fields(record)
    if not fields:
        yield "It has no settings: write `{}`."
        return
    yield "| setting | value | default | |"
    yield "| --- | --- | --- | --- |"
    for name, annotation in fields.items():
        default = default_of(record, name) if name not in required else None
        shown = "*required*" if name in required else f"`{json.dumps(default)}`" if default is not None else ""
        if isinstance(default, dict) and default:
            shown = f"see {_link(cast('type[object]', annotation).__name__)}"
        yield f"| `{name}` | {_cell(_describe(annotation))} | {shown} | {_cell(docs.get(name, ''))} |"


def _value(value_type: type[object]) -> Iterator[str]:
    yield f"### {value_type.__name__}"
    yield ""
    yield type_doc(value_type)
    yield ""
    yield f"Example: `{cast(typing.Any, value_type).EXAMPLE}`"
    yield ""


def reference(kind: str) -> str:
    """Return the reference page of a kind of declaration in Markdown.

    Args:
        kind: a key of :data:`hostctl.config.schema.KINDS`.
    """
    root = KINDS[kind]
    records, values = _reachable(root)
    lines = [_INTRODUCTION.format(kind=kind, doc=type_doc(root))]
    for record in records:
        lines += [f"## {record.__name__}", ""]
        lines += [type_doc(record), ""] if record is not root else []
        lines += [*_settings(record), ""]
    lines += ["## Kinds of values", ""]
    for value_type in sorted(values, key=lambda each: each.__name__):
        lines += _value(value_type)
    return "\n".join(lines).rstrip("\n") + "\n"
