"""The forms in which a text may stand in JSON that somebody else wrote."""

from __future__ import annotations

import contextlib
import json


def forms_of(text: str) -> list[str]:
    """How a text may be written in JSON: as it stands, or with its special characters escaped in the usual ways."""
    meant = {text: None}
    with contextlib.suppress(ValueError):
        # It was copied out of JSON where it is escaped.
        meant[json.loads(f'"{text}"').encode().decode()] = None
    forms: dict[str, None] = {}
    for each in meant:
        escaped = json.dumps(each, ensure_ascii=False)[1:-1]
        for form in (each, escaped, _in_ascii(escaped, "04x"), _in_ascii(escaped, "04X")):
            forms[form] = None
            forms[form.replace("\\/", "/").replace("/", "\\/")] = None
    # JSON holds it escaped alone, and PostgreSQL takes no such text.
    return [form for form in forms if "\0" not in form]


def _in_ascii(escaped: str, digits: str) -> str:
    if escaped.isascii():
        return escaped
    units = escaped.encode("utf-16-be")
    pairs = (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    return "".join(chr(unit) if unit < 128 else f"\\u{unit:{digits}}" for unit in pairs)
