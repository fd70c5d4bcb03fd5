"""Query strings as frozen structs. Unknown parameters, repeated ones and bad values are refused with their path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import inspect

from jobserver.errors import Invalid

Q = TypeVar("Q", bound=msgspec.Struct)

PATH: Final = "$.query"

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class QueryParser(Generic[Q]):
    """Makes a `kind` of a query string. Its fields are the parameters; a tuple field may be repeated."""

    def __init__(self, kind: type[Q]) -> None:
        self._kind = kind
        self._fields = {field.encode_name: _Field(field) for field in msgspec.structs.fields(kind)}
        self._empty = kind()

    def parse(self, query: bytes) -> Q:
        """Raises Invalid."""
        if not query:
            return self._empty
        values: dict[str, Any] = {}
        for pair in query.split(b"&"):
            if not pair:
                continue
            raw_name, _, raw_value = pair.partition(b"=")
            name, value = _unescaped(raw_name, PATH), ""
            field = self._fields.get(name)
            if field is None:
                raise Invalid(PATH, f"Unknown parameter `{name}`")
            value = _unescaped(raw_value, f"{PATH}.{name}")
            if field.repeatable:
                values.setdefault(name, []).append(field.read(value, name))
            elif name in values:
                raise Invalid(f"{PATH}.{name}", "Expected the parameter once")
            else:
                values[name] = field.read(value, name)
        try:
            return msgspec.convert(values, self._kind)
        except msgspec.ValidationError as error:
            message, _, at = str(error).partition(" - at `$")
            raise Invalid(PATH + at.removesuffix("`"), message) from None


class _Field:
    """How the text of a parameter is read, before its type checks the bounds."""

    def __init__(self, field: msgspec.structs.FieldInfo) -> None:
        kinds = _alternatives(inspect.type_info(field.type))
        self.repeatable = any(isinstance(kind, inspect.VarTupleType) for kind in kinds)
        self._read: Callable[[str], Any] = str
        self._expected = ""
        for kind in kinds:
            for wanted, read, expected in _READERS:
                if isinstance(kind, wanted):
                    self._read, self._expected = read, expected

    def read(self, value: str, name: str) -> Any:
        try:
            return self._read(value)
        except ValueError:
            raise Invalid(f"{PATH}.{name}", f"Expected {self._expected}") from None


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(kind, inspect.Metadata):
        return _alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return tuple(found for part in kind.types for found in _alternatives(part))
    return (kind,)


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise ValueError
    return int(text)


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError
    return float(text)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


_READERS: Final[tuple[tuple[type[inspect.Type], Callable[[str], Any], str], ...]] = (
    (inspect.IntType, _integer, "an integer"),
    (inspect.FloatType, _number, "a number"),
    (inspect.BoolType, _boolean, "`true` or `false`"),
)


def _unescaped(raw: bytes, path: str) -> str:
    """A name or value of the query string as text: `+` is a space, escapes are UTF-8, NUL is not text."""
    if raw.isalnum():
        return raw.decode("ascii")
    if _BAD_ESCAPE.search(raw):
        raise Invalid(path, "Expected `%` to be followed by two hexadecimal digits")
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid(path, "Expected UTF-8") from None
    if "\x00" in text:
        raise Invalid(path, "Expected no NUL character")
    return text
