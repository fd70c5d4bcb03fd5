"""Results and payloads as JSON bytes: what leaves here can be stored, sent and read back.

msgspec writes NaN and Infinity as null, and `msgspec.Raw` unread; both are refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

# What msgspec raises for values that it cannot write: unknown types, keys that are no strings, cycles and deep
# nesting, lone surrogates, dates beyond the calendar, a user's own property that fails.
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_PLAIN: Final = frozenset({type(None), bool, int, str})


class NotEncodableError(ValueError):
    """The value is not JSON. The message says why."""


def encode_json(value: object) -> bytes:
    """`value` as JSON. Raises NotEncodableError."""
    try:
        encoded = _encode(value)
        if type(value) in _PLAIN:
            return encoded
        # Reading it back finds what a Raw carried in; null is the only trace that NaN or Infinity leave.
        decoded = _decode(encoded)
    except RecursionError:
        raise NotEncodableError("nested too deeply, or a cycle") from None
    except Exception as error:
        raise NotEncodableError(str(error) or type(error).__name__) from error
    if b"null" in encoded and _holds_non_finite(value, decoded):
        raise NotEncodableError("NaN and Infinity are not JSON")
    return encoded


def _holds_non_finite(value: object, decoded: Any) -> bool:
    if decoded is None:
        return isinstance(value, float) or _is_float_enum(value)
    try:
        # Everything but Raw becomes builtins, in C; floats that are not finite stay as they are.
        builtins = msgspec.to_builtins(value, str_keys=True)
    except TypeError:
        return _walk(value)
    try:
        json.dumps(builtins, allow_nan=False)
    except ValueError:
        return True
    return False


def _walk(value: object) -> bool:
    """The slow way, for values that carry a Raw somewhere."""
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, Mapping):
        return any(_walk(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_walk(item) for item in value)
    if isinstance(value, msgspec.Struct):
        return any(_walk(getattr(value, field)) for field in value.__struct_fields__)
    if _is_float_enum(value):
        return _walk(getattr(value, "value", None))
    return any(_walk(item) for item in getattr(value, "__dict__", {}).values())


def _is_float_enum(value: object) -> bool:
    return isinstance(getattr(value, "value", None), float)
