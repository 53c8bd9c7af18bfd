"""Names of instances can be told from names of workloads."""

from __future__ import annotations

import pytest

from hostctl.workload import instance


def test_a_key_is_taken_apart_as_it_was_made() -> None:
    assert [instance.key("site", letter) for letter in ("", "a", "b")] == list(instance.keys("site"))
    for key in instance.keys("site"):
        assert instance.key(*instance.split(key)) == key
        assert instance.name_of(key) == "site"
    with pytest.raises(ValueError, match=r"site\.root"):
        instance.split("site.root")


def test_two_letters_take_turns() -> None:
    assert [instance.other(letter) for letter in instance.INSTANCES] == ["b", "a"]
