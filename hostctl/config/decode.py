"""Node tree to declaration, directed by the types: each scalar is read by the type of the setting it fills.

So ``no``, ``0080`` and ``1.10`` mean what the setting says, not what YAML 1.1 guesses. All problems are collected;
a declaration is only made when there is none. ``__post_init__`` of a declared type may raise ValueError with one
message an argument; a message that starts with a dotted path and a colon is positioned at that setting.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Hashable
from typing import TypeVar, cast

from hostctl.config.nodes import Document, Mapping, Node, Scalar, Sequence
from hostctl.config.problems import DeclarationError, Problem
from hostctl.config.text import quoted

Declared = TypeVar("Declared")

MAX_PROBLEMS = 100
"""Past so many nobody reads on."""

_BOOLEANS = {"true": True, "false": False}
_OTHER_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


class _Failed:
    """Stands for a value that could not be read; its problem is recorded."""


_FAILED = _Failed()


def decode(text: str, declaration: type[Declared], name: str) -> Declared:
    """Read a YAML text as a declaration.

    Args:
        text: the file's contents.
        declaration: a frozen dataclass.
        name: what to call the file in errors.

    Raises:
        DeclarationError: with every problem found.
    """
    document = Document(text, name)
    root = document.tree()
    decoder = _Decoder(document)
    value = decoder.value(root, declaration, "", root)
    if decoder.problems:
        problems = sorted(decoder.problems, key=lambda problem: (problem.line, problem.column))
        if len(problems) > MAX_PROBLEMS:
            hint = f"{len(problems) - MAX_PROBLEMS} further problems are not shown"
            problems = [*problems[: MAX_PROBLEMS - 1], dataclasses.replace(problems[MAX_PROBLEMS - 1], hint=hint)]
        raise DeclarationError(name, tuple(problems))
    return cast(Declared, value)


_hints = functools.cache(typing.get_type_hints)


def field_types(declared: type[object]) -> dict[str, object]:
    """Return the types of a dataclass' fields by name, in order."""
    hints = _hints(cast(Hashable, declared))
    return {field.name: hints[field.name] for field in dataclasses.fields(cast(typing.Any, declared))}


def required_fields(declared: type[object]) -> list[str]:
    """Return the names of the fields without a default."""
    return [
        field.name
        for field in dataclasses.fields(cast(typing.Any, declared))
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def is_union(annotation: object) -> bool:
    """Tell whether a type is ``A | B``."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def is_record(annotation: object) -> bool:
    """Tell whether a type is a mapping with fixed settings, and not a value that is written as one text."""
    return dataclasses.is_dataclass(annotation) and not hasattr(annotation, "parse")


def close(text: str, known: collections.abc.Iterable[str]) -> str:
    """Return a question that names the nearest of the known words, or nothing."""
    near = difflib.get_close_matches(text, list(known), 1) if len(text) <= 64 else []
    return f"did you mean {near[0]!r}?" if near else ""


def _visible(node: Node, place: Node) -> Node:
    """Return where to point at: at the key, when the value is nothing at all."""
    return place if isinstance(node, Scalar) and node.missing and not node.text else node


def _whole_number(text: str) -> int:
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text) is None:
        raise ValueError(f"{quoted(text)} is not a whole number")
    return int(text)


def _word(text: str) -> str:
    """Return a key as part of a path: itself, unless it is long or unreadable."""
    return text if len(text) <= 60 and text.isprintable() and text.strip() == text != "" else quoted(text)


def _join(path: str, key: str) -> str:
    return f"{path}.{_word(key)}" if path else _word(key)


class _Decoder:
    """Walks the types and the tree together. Recursion is bounded by the types, which are not recursive."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def fail(self, node: Node, path: str, message: str, hint: str = "") -> _Failed:
        self.problems.append(self.document.problem(node, path, message, hint))
        return _FAILED

    def value(self, node: Node, annotation: object, path: str, place: Node) -> object:
        """Read ``node`` as ``annotation``; ``place`` is where a problem of the whole value is shown, its key."""
        if is_union(annotation):
            return self._union(node, typing.get_args(annotation), path, place)
        if is_record(annotation):
            return self._record(node, cast("type[object]", annotation), path, place)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is tuple:
            return self._sequence(node, arguments[0], path, place)
        if origin is collections.abc.Mapping:
            return self._mapping(node, (arguments[0], arguments[1]), path, place)
        return self._single(node, annotation, path, place)

    def _single(self, node: Node, annotation: object, path: str, place: Node) -> object:
        if not isinstance(node, Scalar):
            kind = "a list" if isinstance(node, Sequence) else "a mapping"
            return self.fail(node, path, f"this is {kind}, but a single value is expected")
        if node.missing:
            return self.fail(_visible(node, place), path, "the value is missing")
        if typing.get_origin(annotation) is typing.Literal:
            return self._literal(node, typing.get_args(annotation), path)
        return self._scalar(node, annotation, path)

    def _union(self, node: Node, members: tuple[object, ...], path: str, place: Node) -> object:
        if type(None) in members and isinstance(node, Scalar) and node.missing:
            return None
        literals = [m for m in members if typing.get_origin(m) is typing.Literal]
        choices = [choice for literal in literals for choice in typing.get_args(literal)]
        if isinstance(node, Scalar) and node.text in choices:
            return node.text
        others = [m for m in members if m is not type(None) and m not in literals]
        if len(others) > 1:  # one, or a list of them
            others = [m for m in others if (typing.get_origin(m) is tuple) == isinstance(node, Sequence)]
        (other,) = others
        before = len(self.problems)
        value = self.value(node, other, path, place)
        if choices and len(self.problems) > before:
            text = node.text if isinstance(node, Scalar) else ""
            hint = close(text, choices) or f"or write {' or '.join(map(repr, choices))}"
            self.problems[-1] = dataclasses.replace(self.problems[-1], hint=hint)
        return value

    def _literal(self, node: Scalar, choices: tuple[object, ...], path: str) -> object:
        for choice in choices:
            if node.text == str(choice):
                return choice
        words = [str(choice) for choice in choices]
        wanted = f"only {words[0]} is" if len(words) == 1 else f"one of {', '.join(words)} is"
        return self.fail(node, path, f"{quoted(node.text)} is not possible here: {wanted}", close(node.text, words))

    def _scalar(self, node: Scalar, annotation: object, path: str) -> object:
        if annotation is str:
            return node.text
        if annotation is bool:
            return self._boolean(node, path)
        parse = _whole_number if annotation is int else cast(typing.Any, annotation).parse
        try:
            return parse(node.text)
        except ValueError as error:
            return self.fail(node, path, str(error))

    def _boolean(self, node: Scalar, path: str) -> object:
        if node.text in _BOOLEANS:
            return _BOOLEANS[node.text]
        small = node.text.lower()
        other = small if small in _BOOLEANS else _OTHER_BOOLEANS.get(small)
        hint = f"did you mean {other}?" if other else ""
        return self.fail(node, path, f"{quoted(node.text)} is not true or false", hint)

    def _sequence(self, node: Node, item: object, path: str, place: Node) -> object:
        if not isinstance(node, Sequence):
            if isinstance(node, Scalar) and not node.missing:
                return self.fail(node, path, "a list is expected", f"did you mean [{_word(node.text)}]?")
            hint = "write [] for an empty one" if isinstance(node, Scalar) else ""
            return self.fail(_visible(node, place), path, "a list is expected", hint)
        values = [self.value(each, item, f"{path}[{index}]", each) for index, each in enumerate(node.items)]
        return tuple(values)

    def _keys(self, node: Node, path: str, place: Node) -> list[tuple[Scalar, str, Node]] | None:
        """Return the keys, their paths and values of a mapping, or None when it is not one."""
        if not isinstance(node, Mapping):
            hint = "write {} for an empty one" if isinstance(node, Scalar) and node.missing else ""
            self.fail(_visible(node, place), path, "a mapping of keys and values is expected", hint)
            return None
        keys: list[tuple[Scalar, str, Node]] = []
        for key, value in node.items:
            if not isinstance(key, Scalar) or key.missing:
                self.fail(key, path, "this cannot be a key: a name is expected")
            elif key.plain and key.text == "<<":
                self.fail(key, path, "merge keys are not allowed", "write the settings out")
            else:
                keys.append((key, _join(path, key.text), value))
        return keys

    def _mapping(self, node: Node, kinds: tuple[object, object], path: str, place: Node) -> object:
        found: dict[object, object] = {}
        lines: dict[object, int] = {}
        for key, where, value in self._keys(node, path, place) or []:
            name = self._scalar(key, kinds[0], where)
            if name is not _FAILED and name in lines:
                self.fail(key, where, f"this is already given in line {lines[name]}")
                continue
            lines[name] = key.line
            found[name] = self.value(value, kinds[1], where, key)
        return found

    def _record(self, node: Node, declared: type[object], path: str, place: Node) -> object:
        before = len(self.problems)
        expected = field_types(declared)
        if isinstance(node, Scalar) and node.missing and not expected:
            return declared()
        keys = self._keys(node, path, place)
        if keys is None:
            return _FAILED
        given = {key.text for key, _, _ in keys}
        left = [name for name in expected if name not in given]
        lines: dict[str, int] = {}
        values: dict[str, object] = {}
        for key, where, value in keys:
            if key.text in lines:
                self.fail(key, where, f"this is already given in line {lines[key.text]}")
            elif key.text not in expected:
                # Nearness is costly, so it is not looked for once there is more to show than is shown.
                few = len(self.problems) < MAX_PROBLEMS
                self.fail(key, where, "unknown setting", _settings(key.text, left, list(expected)) if few else "")
            else:
                values[key.text] = self.value(value, expected[key.text], where, key)
            lines.setdefault(key.text, key.line)
        for name in required_fields(declared):
            if name not in lines:
                self.fail(place, path, f"the setting {name!r} is missing")
        if len(self.problems) > before:
            return _FAILED
        try:
            return cast(typing.Any, declared)(**values)
        except ValueError as error:
            return self._rules(error, node, path, place)

    def _rules(self, error: ValueError, node: Node, path: str, place: Node) -> _Failed:
        """Record what ``__post_init__`` refused, each message at the setting that its path names."""
        for message in map(str, error.args):
            found = re.match(r"([^\s:]+): (.+)", message, re.DOTALL)
            target = _find(node, found.group(1)) if found else None
            if found and target:
                self.fail(target, f"{path}.{found.group(1)}" if path else found.group(1), found.group(2))
            else:
                self.fail(place, path, message)
        return _FAILED


def _settings(text: str, left: list[str], known: list[str]) -> str:
    """Return a hint for an unknown setting: the nearest one that is not set, or all there are."""
    if not known:
        return "there are none here"
    return close(text.replace("-", "_"), left) or f"known are {', '.join(known)}"


def _find(node: Node, path: str) -> Node | None:
    """Return the node that a dotted path leads to from ``node``. Keys may contain dots: the longest fits first."""
    if not path:
        return node
    if isinstance(node, Sequence):
        index = re.match(r"\[([0-9]{1,9})\]", path)
        if index is None or int(index.group(1)) >= len(node.items):
            return None
        return _find(node.items[int(index.group(1))], path[index.end() :].removeprefix("."))
    if not isinstance(node, Mapping):
        return None
    fitting = [
        (key, value)
        for key, value in node.items
        if isinstance(key, Scalar) and (path == key.text or path.startswith((f"{key.text}.", f"{key.text}[")))
    ]
    for key, value in sorted(fitting, key=lambda item: -len(item[0].text)):
        rest = path[len(key.text) :].removeprefix(".")
        found = _find(value, rest)
        if found is not None:
            return found if rest or isinstance(value, Scalar) else key
    return None
