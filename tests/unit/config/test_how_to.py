"""The declarations that the how-tos show are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hostctl.config.load import parse_host

PAGES = sorted((Path(__file__).parents[3] / "docs/how-to").glob("*.md"))
EXAMPLES = [
    pytest.param(text, id=page.stem)
    for page in PAGES
    for text in re.findall(r"^```yaml\n(version: 1\nhostname: .*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_shown_host_is_valid(text: str) -> None:
    assert parse_host(text).workloads


def test_the_page_on_workloads_is_among_them() -> None:
    assert "workloads" in [example.id for example in EXAMPLES]
