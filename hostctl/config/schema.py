"""JSON Schema 2020-12 of the declarations, derived from the same types that decode them.

The schema is for editors and other tools. It is no second truth: rules between settings, which the types'
``__post_init__`` holds, are not in it, so what it accepts may still be refused by ``hostctl config check``.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import textwrap
import types
import typing
from typing import cast

from hostctl.config.decode import field_types, is_record, is_union, required_fields
from hostctl.config.dump import Plain, plain
from hostctl.config.host import HostDeclaration
from hostctl.config.release import ReleaseDeclaration

KINDS: dict[str, type[object]] = {"host": HostDeclaration, "release": ReleaseDeclaration}
"""The kinds of declarations by name."""

Schema: typing.TypeAlias = dict[str, Plain]


@functools.cache
def _module_docs(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """Return, by class and field, the strings that follow the fields in a module's source."""
    docs: dict[str, dict[str, str]] = {}
    for statement in ast.parse(inspect.getsource(module)).body:
        if isinstance(statement, ast.ClassDef):
            pairs = zip(statement.body, statement.body[1:], strict=False)
            docs[statement.name] = {
                field.target.id: inspect.cleandoc(text.value.value)
                for field, text in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return docs


def field_docs(declared: type[object]) -> dict[str, str]:
    """Return the documentation of a dataclass' fields by name; empty where the source is not installed."""
    module = inspect.getmodule(declared)
    try:
        return _module_docs(module).get(declared.__name__, {}) if module else {}
    except OSError:
        return {}


def type_doc(declared: object) -> str:
    """Return a type's own documentation as one paragraph."""
    return " ".join(textwrap.dedent(getattr(declared, "__doc__", None) or "").split())


def default_of(declared: type[object], name: str) -> Plain:
    """Return the default of an optional field as JSON holds it, with all settings given."""
    field = {field.name: field for field in cast(typing.Any, declared).__dataclass_fields__.values()}[name]
    return plain(field.default_factory() if callable(field.default_factory) else field.default, full=True)


def _json_types(value_type: type[object]) -> list[Plain]:
    """Return what a YAML reader may take a text of this type for: ``1.10`` is a number to it, ``true`` a boolean."""
    samples = {"integer": ("1", "8080", "644"), "number": ("0.5", "1.5"), "boolean": ("true",)}
    found: list[Plain] = ["string"]
    for name, texts in samples.items():
        for text in texts:
            try:
                cast(typing.Any, value_type).parse(text)
            except ValueError:
                continue
            found.append(name)
            break
    return [name for name in found if name != "integer" or "number" not in found]


class _Schemas:
    """Collects the definitions that a declaration leads to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Plain] = {}

    def of(self, annotation: object) -> Schema:
        """Return the schema of a type, by reference where it has a name."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if is_union(annotation):
            members: list[Plain] = [self.of(member) for member in arguments if member is not type(None)]
            members += [{"type": "null"}] if type(None) in arguments else []
            return {"anyOf": members}
        if origin is typing.Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
        if origin is tuple:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is collections.abc.Mapping:
            keys = self.of(arguments[0]) if arguments[0] is not str else {}
            return {"type": "object", "propertyNames": keys, "additionalProperties": self.of(arguments[1])}
        return self._single(cast("type[object]", annotation))

    def _single(self, annotation: type[object]) -> Schema:
        builtin: dict[type[object], Schema] = {
            str: {"type": ["string", "number", "boolean"]},
            bool: {"type": "boolean"},
            int: {"type": "integer"},
        }
        if annotation in builtin:
            return builtin[annotation]
        name = annotation.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # holds the place, so that order is that of the declaration
            self.definitions[name] = self.record(annotation) if is_record(annotation) else _value(annotation)
        return {"$ref": f"#/$defs/{name}"}

    def record(self, declared: type[object]) -> Schema:
        """Return the schema of a dataclass."""
        docs, required = field_docs(declared), required_fields(declared)
        properties: dict[str, Plain] = {}
        for name, annotation in field_types(declared).items():
            described = self.of(annotation)
            if name in docs:
                described["description"] = docs[name]
            if name not in required:
                described["default"] = default_of(declared, name)
            properties[name] = described
        schema: Schema = {"type": "object", "description": type_doc(declared), "properties": properties}
        if required:
            schema["required"] = list(required)
        schema["additionalProperties"] = False
        return schema


def _value(declared: type[object]) -> Schema:
    value_type = cast(typing.Any, declared)
    return {
        "type": _json_types(declared),
        "description": type_doc(declared),
        "pattern": f"^(?:{value_type.PATTERN})$",
        "examples": [value_type.EXAMPLE],
    }


def schema(kind: str) -> Schema:
    """Return the JSON Schema of a kind of declaration.

    Args:
        kind: a key of KINDS.
    """
    schemas = _Schemas()
    root = schemas.record(KINDS[kind])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{kind}.yaml of hostctl",
        **root,
        "$defs": schemas.definitions,
    }
