"""YAML text to a tree of nodes with positions, nothing resolved and nothing expanded.

The tree is built from PyYAML's events by a loop, so depth costs no stack, and bounds hold before anything is kept.
Of YAML this takes one document of scalars, lists and mappings. Anchors, aliases, tags and merge keys are refused:
they let a few bytes stand for many, or let the writer choose types that the declaration already knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from hostctl.config.problems import DeclarationError, Problem

MAX_BYTES = 1 << 20
"""Size of a declaration, in bytes of UTF-8."""
MAX_DEPTH = 32
"""Nesting of lists and mappings."""
MAX_NODES = 50_000
"""Keys, values and collections of one file."""

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_BARE_IPV6 = re.compile(r"(?<![\"'])\[[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*\]:")
# YAML 1.1, section 5.1: all that a stream may contain.
_UNPRINTABLE = re.compile("[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


@dataclass(slots=True)
class Node:
    """A value of the file. ``line`` and ``column`` count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Scalar(Node):
    """A single value as text; ``plain`` when it stands without quotes."""

    text: str
    plain: bool

    @property
    def missing(self) -> bool:
        """Nothing, or null."""
        return self.plain and self.text in _NULLS


@dataclass(slots=True)
class Sequence(Node):
    """A list."""

    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping(Node):
    """Keys and values in the order of the file, duplicates kept."""

    items: list[tuple[Node, Node]] = field(default_factory=list)
    key: Node | None = None
    """A key that waits for its value while the tree is built."""


class Document:
    """One file: its name, its lines, and a way to point into it."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.lines = _BREAK.split(text)

    def problem(self, node: Node, path: str, message: str, hint: str = "") -> Problem:
        """Return a problem at ``node``."""
        return self.problem_at(node.line, node.column, path, message, hint)

    def problem_at(self, line: int, column: int, path: str, message: str, hint: str = "") -> Problem:
        """Return a problem at a line and column, both counted from 1."""
        source = self.lines[line - 1] if line <= len(self.lines) else ""
        return Problem(line=line, column=column, path=path, message=message, hint=hint, source=source)

    def refusal(self, line: int, column: int, message: str, hint: str = "") -> DeclarationError:
        """Return the error of a file that cannot be read any further."""
        return DeclarationError(self.name, (self.problem_at(line, column, "", message, hint),))

    def tree(self) -> Node:
        """Return the root node.

        Raises:
            DeclarationError: it is not YAML, or not of the YAML that is taken here, or too large.
        """
        self._check_text()
        return _Builder(self).build(self._events())

    def _check_text(self) -> None:
        if len(self.text) > MAX_BYTES or len(self.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise self.refusal(1, 1, f"the file is larger than {MAX_BYTES >> 10} KiB")
        found = _UNPRINTABLE.search(self.text)
        if found is not None:
            before = _BREAK.split(self.text[: found.start()])
            code = f"U+{ord(found.group()):04X}"
            raise self.refusal(len(before), len(before[-1]) + 1, f"the character {code} is not allowed in YAML")

    def _events(self) -> Iterator[yaml.Event]:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            yield from yaml.parse(self.text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            context = f" {error.context}" if error.context else ""
            raise self.refusal(line, column, f"not YAML: {error.problem}{context}", self._hint(line, column)) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # PyYAML lets the errors of chr() through for escapes such as "\UFFFFFFFF".
            raise self.refusal(1, 1, f"not YAML: {error}") from None

    def _hint(self, line: int, column: int) -> str:
        """Return what the author of a line that is not YAML most likely wants to know."""
        text = "".join(self.lines[line - 1 : line])
        if text[column - 1 : column] == "\t":
            return "indent with spaces, not tabs"
        return 'an IPv6 address is written in quotes, as in "[::1]:8080"' if _BARE_IPV6.search(text) else ""


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.stack: list[Sequence | Mapping] = []
        self.root: Node | None = None
        self.count = 0

    def build(self, events: Iterator[yaml.Event]) -> Node:
        for event in events:
            if isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self.stack.pop()
            elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
                mark = event.start_mark
                raise self.document.refusal(mark.line + 1, mark.column + 1, "a second document starts here")
        if self.root is None:
            raise self.document.refusal(1, 1, "the file is empty")
        return self.root

    def _node(self, event: yaml.NodeEvent) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self.document.refusal(line, column, "anchors and aliases are not allowed", "write the value out")
        if getattr(event, "tag", None) is not None:
            raise self.document.refusal(line, column, "tags are not allowed", "the setting knows its type")
        self.count += 1
        if self.count > MAX_NODES:
            raise self.document.refusal(line, column, f"more than {MAX_NODES} values")
        node = self._make(event, line, column)
        self._place(node)
        if isinstance(node, (Sequence, Mapping)):
            self.stack.append(node)
            if len(self.stack) > MAX_DEPTH:
                raise self.document.refusal(line, column, f"nested deeper than {MAX_DEPTH} levels")

    def _make(self, event: yaml.NodeEvent, line: int, column: int) -> Node:
        if isinstance(event, yaml.MappingStartEvent):
            return Mapping(line, column)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(line, column)
        text = str(getattr(event, "value", ""))
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self.document.refusal(line, column, "the text contains a character that cannot be stored")
        return Scalar(line, column, text, not getattr(event, "style", None))

    def _place(self, node: Node) -> None:
        if not self.stack:
            self.root = node
        elif isinstance(parent := self.stack[-1], Sequence):
            parent.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            parent.items.append((parent.key, node))
            parent.key = None
