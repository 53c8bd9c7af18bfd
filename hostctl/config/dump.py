"""Declarations back to plain trees and to YAML that decodes to an equal declaration."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import TypeAlias, cast

import yaml

from hostctl.config.decode import is_record
from hostctl.config.quantities import Cpus

Plain: TypeAlias = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON can hold."""


def plain(value: object, *, full: bool = False) -> Plain:
    """Return a declaration, or a part of one, as a tree of what JSON can hold.

    Args:
        value: a dataclass of the declaration or anything that stands in one.
        full: also give the settings that have their default.
    """
    if is_record(type(value)):
        return _record(value, full=full)
    if isinstance(value, Mapping):
        return {str(key): plain(item, full=full) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, full=full) for item in value]
    if isinstance(value, Cpus):
        return int(value) if value.is_integer() else float(value)
    if value is None or type(value) in (bool, int):
        return cast("bool | int | None", value)
    return str(value)  # also sheds the subclass, which JSON and YAML writers would not expect


def _record(value: object, *, full: bool) -> dict[str, Plain]:
    tree: dict[str, Plain] = {}
    for field in dataclasses.fields(cast(typing.Any, value)):
        item = getattr(value, field.name)
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if full or item != default:
            tree[field.name] = plain(item, full=full)
    return tree


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, which the decoder refuses, and texts of several lines as blocks."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything out, however often it occurs."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Line breaks to YAML 1.1 alone: in any other style it would fold them into spaces.
    odd = any(letter in text for letter in "\x85\u2028\u2029")
    style = '"' if odd else "|" if "\n" in text.rstrip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: object, *, full: bool = False) -> str:
    """Return a declaration as YAML that decodes to an equal one; arguments as :func:`plain`."""
    text: str = yaml.dump(plain(value, full=full), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text
