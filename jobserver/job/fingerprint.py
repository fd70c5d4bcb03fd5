"""Fingerprints of errors: failures that differ in numbers, ids and quoted text alone have the same one."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from jobserver.job.model import JobError

MAX_TEMPLATE: Final = 500

# None of these looks at a character more than a few times, whatever the text: messages may be of anybody's making.
_QUOTED: Final = re.compile(r"""(?<!\w)'[^'\n]*'(?!\w)|"[^"\n]*"|`[^`\n]*`""")
# Numbers, times, ids, addresses, paths: what is written without a space and holds a digit.
_NUMBERED: Final = re.compile(r"(?<![\w.:@/+-])(?:(?!\d)[\w.:@/+-])*\d[\w.:@/+-]*")
_HEX: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_LISTED: Final = re.compile(r"\?(?:[\s,;]+\?)+")


def fingerprint_of(error: JobError | None) -> str:
    """16 hexadecimal digits: of the error's type and of its message without what varies."""
    text = "" if error is None else f"{error.type}\0{template_of(error.message)}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def template_of(message: str) -> str:
    """The message with a question mark for each of its variable parts, and one for a list of them."""
    for varies in (_QUOTED, _HEX, _NUMBERED):
        message = varies.sub("?", message)
    return _LISTED.sub("?", message)[:MAX_TEMPLATE]
