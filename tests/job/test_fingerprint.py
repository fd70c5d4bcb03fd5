"""What failures have in common."""

from __future__ import annotations

import re
import time

import pytest

from jobserver.job.fingerprint import fingerprint_of, template_of
from jobserver.job.forms import forms_of
from jobserver.job.model import MAX_ERROR_MESSAGE, JobError
from tests.clocks import judged_by_the_clock


@pytest.mark.parametrize(
    ("message", "template"),
    [
        ("ran longer than 1.5 s", "ran longer than ? s"),
        ("ran longer than 30 s", "ran longer than ? s"),
        ("the process web-22-ab12 died", "the process ? died"),
        ("no file 'a b.txt'", "no file ?"),
        ('no file "a b.txt" or `c`', "no file ? or ?"),
        ("can't open 'it' now", "can't open ? now"),
        ("job 019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11 is gone", "job ? is gone"),
        ("job aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee is gone", "job ? is gone"),
        ("at 2026-03-07T10:00:00.123Z", "at ?"),
        ("<object at 0x7f1200aa>", "<object at ?>"),
        ("expected [1, 2, 3]", "expected [?]"),
        ("expected [1]", "expected [?]"),
        ("connect to 10.0.0.1:5432 failed", "connect to ? failed"),
        ("read_timeout=30", "read_timeout=?"),
        ("nothing varies", "nothing varies"),
        ("", ""),
        ("日本 42 語", "日本 ? 語"),
    ],
)
def test_what_varies_is_left_out(message: str, template: str) -> None:
    assert template_of(message) == template


def test_a_fingerprint_is_of_the_type_and_of_what_does_not_vary() -> None:
    def of(kind: str, message: str) -> str:
        return fingerprint_of(JobError(type=kind, message=message, traceback=f"line {message}"))

    assert re.fullmatch("[0-9a-f]{16}", of("ValueError", "no 1"))
    assert of("ValueError", "no 1") == of("ValueError", "no 2")
    assert of("ValueError", "no 1") != of("TypeError", "no 1")
    assert of("ValueError", "no 1") != of("ValueError", "never 1")
    assert len(fingerprint_of(None)) == 16
    # It is stored: a release that made another one of the same error would tear groups apart.
    assert of("ValueError", "no 1") == "4e85f3126df48417"


@judged_by_the_clock
@pytest.mark.parametrize(
    "part", ["a", "'", "' ", "a'", "1 ", "? ", "-", '"', "a.", "?,", " ?;", "1", "a-", "`a", "\n'"]
)
def test_no_message_takes_long(part: str) -> None:
    message = (part * MAX_ERROR_MESSAGE)[:MAX_ERROR_MESSAGE]
    started = time.perf_counter()
    template_of(message)
    # Measured at 2 ms at the most; what is quadratic takes seconds.
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("abc", ["abc"]),
        ("a%_b", ["a%_b"]),
        ("ä", ["ä", "\\u00e4", "\\u00E4"]),
        ("\\u00e4", ["\\u00e4", "\\\\u00e4", "ä", "\\u00E4"]),
        ("😀", ["😀", "\\ud83d\\ude00", "\\uD83D\\uDE00"]),
        ('say "a"', ['say "a"', 'say \\"a\\"']),
        ("a/b", ["a/b", "a\\/b"]),
        ("a\nb", ["a\nb", "a\\nb"]),
        ("\\u0000", ["\\u0000", "\\\\u0000"]),
        ("\\ud800", ["\\ud800", "\\\\ud800"]),
        ('", "x', ['", "x', '\\", \\"x']),
    ],
)
def test_a_text_is_looked_for_as_json_may_write_it(text: str, forms: list[str]) -> None:
    assert forms_of(text) == forms
