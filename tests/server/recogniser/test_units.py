"""What is run together, and in which amounts."""

from __future__ import annotations

import pytest

from stream_server.recogniser.units import PROMPT_UNITS, UNITS, bucket, split_rows


def test_amounts_ascend_and_waste_little() -> None:
    for sizes in (UNITS, PROMPT_UNITS[1:]):
        assert list(sizes) == sorted(set(sizes))
        assert all(larger <= 2 * size for size, larger in zip(sizes, sizes[1:], strict=False))
    assert PROMPT_UNITS[0] == 0, "most steps have no prompts"


def test_buckets() -> None:
    assert [bucket(count, (1, 2, 4)) for count in (1, 2, 3, 4)] == [1, 2, 4, 4]
    with pytest.raises(ValueError, match="5 is more than 4"):
        bucket(5, (1, 2, 4))


def test_rows_are_split_where_a_step_is_full() -> None:
    assert split_rows([1, 2, 3], 6) == [[0, 1, 2]]
    assert split_rows([2, 2, 3, 4], 6) == [[0, 1], [2], [3]]
    assert split_rows([2] * 7, 4) == [[0, 1], [2, 3], [4, 5], [6]]
