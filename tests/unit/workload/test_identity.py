"""Ranges of user ids."""

from __future__ import annotations

import pytest

from hostctl.workload import identity


def test_a_range_stays_and_that_of_a_removed_workload_is_never_given_again() -> None:
    first = identity.allocate(["b", "a"], {})
    assert first == {"a": 0, "b": 1}
    second = identity.allocate(["a", "c"], first)
    assert second == {"a": 0, "b": 1, "c": 2}
    assert identity.allocate(["b"], second)["b"] == 1


def test_ranges_touch_but_do_not_overlap_and_end() -> None:
    assert identity.range_start(1) - identity.range_start(0) == identity.RANGE == 65536
    last = identity.RANGES - 1
    assert identity.range_start(last) + identity.RANGE - 1 <= identity.LAST_ID
    with pytest.raises(identity.RangesExhaustedError):
        identity.allocate(["new"], {f"w{number}": number for number in range(identity.RANGES)})


def test_a_range_that_is_given_up_is_the_next_to_be_given() -> None:
    former = {f"w{number}": number for number in range(identity.RANGES)}
    made = identity.allocate(["new", "w5"], former, {"w7", "w5"})
    assert made["new"] == 7
    assert made["w5"] == 5  # it is declared again
    assert "w7" not in made
