"""What is stored of an error is always fit for storage."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from jobserver.job.model import (
    MAX_ERROR_MESSAGE,
    MAX_ERROR_TRACEBACK,
    MAX_ERROR_TYPE,
    TERMINAL,
    WAITING,
    Priority,
    Status,
    bounded,
    bounded_error,
)

# Lone surrogates included: a handler may raise with whatever it read.
texts = st.text(st.characters(exclude_categories=()), max_size=400)
# Shorter than the mark of what was left out, there is nothing to keep.
limits = st.integers(7, 300)


@given(texts, limits)
@example("x" * 400, 8)
@example("\ud800" * 400, 7)
def test_bounded_text_is_short_and_can_be_stored(text: str, limit: int) -> None:
    found = bounded(text, limit)
    assert len(found) <= limit
    assert "\x00" not in found
    found.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=300))
def test_text_that_fits_is_left_alone(text: str) -> None:
    assert bounded(text, 300) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=101, max_size=300))
def test_text_that_is_cut_keeps_its_two_ends(text: str) -> None:
    begin, _, end = bounded(text, 100).rpartition(" ... ")
    assert text.startswith(begin)
    assert text.endswith(end)


@given(texts, texts, st.none() | texts, st.booleans())
def test_an_error_is_bounded_in_all_its_parts(kind: str, message: str, traceback: str | None, retryable: bool) -> None:
    error = bounded_error(kind * 3, message * 50, traceback=traceback and traceback * 200, retryable=retryable)
    assert len(error.type) <= MAX_ERROR_TYPE
    assert len(error.message) <= MAX_ERROR_MESSAGE
    assert error.traceback is None or len(error.traceback) <= MAX_ERROR_TRACEBACK
    assert (error.traceback is None) == (traceback is None)
    assert error.retryable is retryable


def test_a_status_is_waiting_running_or_terminal() -> None:
    assert {Status.RUNNING} | WAITING | TERMINAL == set(Status)
    assert not WAITING & TERMINAL


def test_a_high_priority_comes_first() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]
    assert [each.label for each in sorted(Priority)] == ["high", "normal", "low"]
