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


def test_the_first_replica_is_called_as_the_workload_is() -> None:
    keys = [instance.key("site", number) for number in instance.numbers(3)]
    assert keys == ["site", "site.2", "site.3"]
    assert [instance.key(*instance.split(key)) for key in keys] == keys
    assert [instance.position(instance.split(key)[1]) for key in keys] == [1, 2, 3]
    assert [instance.label(key, 3) for key in keys] == ["site.1", "site.2", "site.3"]
    assert instance.numbers(1) == ("",)
    assert instance.split("site.100") == ("site", "100")


@pytest.mark.parametrize(
    "key", ["site.0", "site.1", "site.02", "site.", "site.c", "site.2.3", "site.1000", "site.\uff12"]
)
def test_other_numbers_are_nobodys(key: str) -> None:
    with pytest.raises(ValueError, match="no instance"):
        instance.split(key)


def test_people_see_numbers_only_where_there_are_several() -> None:
    assert instance.labels(["db", "site", "site.2", "web.b"]) == {
        "db": "db",
        "site": "site.1",
        "site.2": "site.2",
        "web.b": "web",
    }
