"""A handler's signature as the type of its payload: which arguments there are, how to read them, their schema.

Every mistake in a declaration is a ConfigurationError that names the function and the parameter.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from jobserver.errors import ConfigurationError, Invalid
from jobserver.job.attempt import Attempt
from jobserver.job.encoding import encode_json
from jobserver.job.model import bounded


class WholePayload:
    """Marks, within Annotated, the one parameter that takes the payload as it is, whatever JSON that is."""


Payload = Annotated[Any, WholePayload]


class Signature(msgspec.Struct, frozen=True):
    """How to call a handler. `whole` names the parameter that takes the payload as it is, if one does."""

    attempt_parameter: str | None
    whole: str | None
    arguments: inspect.Signature
    decode: Callable[[bytes], Any]
    schema: dict[str, Any]
    null_is_empty: bool

    def read(self, payload: bytes) -> dict[str, Any]:
        """The keyword arguments that `payload` holds. Raises Invalid below `$.payload`."""
        if payload == b"null" and self.null_is_empty:
            payload = b"{}"
        try:
            decoded = self.decode(payload)
        except msgspec.ValidationError as error:
            raise invalid(error, "$.payload") from None
        except RecursionError:
            raise Invalid("$.payload", "Nested too deeply") from None
        except Exception as error:  # malformed JSON, or the __post_init__ of the user's own type
            raise Invalid("$.payload", str(error) or type(error).__name__) from None
        if self.whole is not None:
            return {self.whole: decoded}
        return msgspec.structs.asdict(decoded)


def read_signature(function: Callable[..., Any]) -> Signature:
    """Raises ConfigurationError for a function that cannot be a handler."""
    name = name_of(function)
    attempt_parameter, parameters = _parameters(function, name)
    # Without the Attempt a parameter with a default may come before one without: by keyword it may.
    arguments = inspect.Signature(_in_callable_order(parameters))
    whole: str | None = None
    if len(parameters) == 1 and _takes_whole_payload(parameters[0].annotation):
        whole, payload_type = parameters[0].name, parameters[0].annotation
    else:
        payload_type = _arguments_type(function, name, parameters)
    schema = _schema(name, payload_type, arguments)
    takes_object = _target(schema).get("type") == "object"
    try:
        decode = msgspec.json.Decoder(payload_type).decode
    except Exception as error:
        raise ConfigurationError(f"{name}: its parameters cannot be a payload ({in_one_line(error)}).") from None
    return Signature(
        attempt_parameter=attempt_parameter,
        whole=whole,
        arguments=arguments,
        decode=decode,
        schema=_accepting_null(schema),
        null_is_empty=takes_object,
    )


def _parameters(function: Callable[..., Any], name: str) -> tuple[str | None, list[inspect.Parameter]]:
    """The name of the Attempt's parameter, and the other parameters with their annotations resolved."""
    if inspect.isclass(function) or not callable(function):
        raise ConfigurationError(f"{name} is not a function and cannot be a handler.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{name} is a generator and cannot be a handler: return the result.")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        raise ConfigurationError(f"The signature of {name} cannot be read.") from None
    attempt_parameter: str | None = None
    others: list[inspect.Parameter] = []
    for parameter in parameters:
        _check_kind(name, parameter)
        resolved = parameter.replace(annotation=_resolved(function, name, parameter))
        if resolved.annotation is not Attempt:
            others.append(resolved)
        elif attempt_parameter is None:
            attempt_parameter = parameter.name
        else:
            raise ConfigurationError(
                f"{name} has two parameters annotated Attempt, {attempt_parameter} and {parameter.name}."
            )
    for parameter in others:
        if len(others) > 1 and _is_marked(parameter.annotation):
            raise ConfigurationError(f"{name}: {parameter.name} takes the whole payload and must be alone.")
    return attempt_parameter, others


def _in_callable_order(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    try:
        inspect.Signature(parameters)
    except ValueError:
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    return parameters


def _check_kind(name: str, parameter: inspect.Parameter) -> None:
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
        raise ConfigurationError(
            f"{name} takes {stars}{parameter.name}: a handler names each of its parameters, or takes a Struct."
        )
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise ConfigurationError(
            f"{name}: the parameter {parameter.name} is positional-only; a handler is called by keyword."
        )


def _resolved(function: Callable[..., Any], name: str, parameter: inspect.Parameter) -> Any:
    """The annotation as a type: one at a time, so that the message can name the parameter."""
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    owner = inspect.unwrap(_underlying(function))
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = typing.get_type_hints(holder, globalns=getattr(owner, "__globals__", {}), include_extras=True)
    except Exception as error:  # annotations are code: any exception may come out of them
        raise ConfigurationError(
            f"{name}: the annotation of {parameter.name} cannot be resolved ({in_one_line(error)})."
        ) from None
    return hints[parameter.name]


def _takes_whole_payload(annotation: Any) -> bool:
    if _is_marked(annotation) or annotation is msgspec.Raw:
        return True
    if typing.get_origin(annotation) is Annotated:
        return _takes_whole_payload(typing.get_args(annotation)[0])
    target = typing.get_origin(annotation) or annotation
    return inspect.isclass(target) and (issubclass(target, msgspec.Struct) or dataclasses.is_dataclass(target))


def _is_marked(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Annotated and WholePayload in annotation.__metadata__


def _arguments_type(
    function: Callable[..., Any], name: str, parameters: list[inspect.Parameter]
) -> type[msgspec.Struct]:
    fields = [(p.name, p.annotation, _field(p.default)) for p in parameters]
    try:
        return msgspec.defstruct(
            getattr(_underlying(function), "__name__", "payload"), fields, kw_only=True, forbid_unknown_fields=True
        )
    except Exception as error:
        raise ConfigurationError(f"{name}: its parameters cannot be a payload ({in_one_line(error)}).") from None


_IMMUTABLE: Final = (bool, int, float, str, bytes, type(None), Enum, UUID, date, time, timedelta, Decimal)


def _field(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return msgspec.field()
    finite = not isinstance(default, float | Decimal) or math.isfinite(default)
    if finite and (default is msgspec.UNSET or isinstance(default, _IMMUTABLE)):
        return msgspec.field(default=default)
    # A fresh copy for each call: a handler that fills its own default must not change the next job's.
    # (And the schema shows plain defaults only: infinity is not JSON.)
    return msgspec.field(default_factory=functools.partial(copy.deepcopy, default))


def _schema(name: str, payload_type: Any, arguments: inspect.Signature) -> dict[str, Any]:
    try:
        schema = msgspec.json.schema(payload_type)
        # Defaults may be tuples or datetimes: what is stored and shown is JSON.
        # JSON Schema's patterns know no \Z, with which Python says "the very end".
        text = encode_json(schema).replace(rb'\\Z"', b'$"')
        return _inlined(msgspec.json.decode(text, type=dict[str, Any]))
    except Exception as error:
        for parameter in arguments.parameters.values():
            _check_annotation(name, parameter)
        raise ConfigurationError(f"{name}: no JSON schema can be made of its payload ({in_one_line(error)}).") from None


def _check_annotation(name: str, parameter: inspect.Parameter) -> None:
    try:
        msgspec.json.schema(parameter.annotation)
    except Exception:
        raise ConfigurationError(
            f"{name}: the annotation of {parameter.name}, {inspect.formatannotation(parameter.annotation)}, "
            "is not a type that JSON can carry."
        ) from None


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that `schema` refers to, in its place; unless it refers to itself."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    definitions = dict(schema["$defs"])
    top = definitions.pop(reference.removeprefix(_DEFS))
    if f'"{reference}"'.encode() in encode_json([top, definitions]):
        return schema
    return {**top, "$defs": definitions} if definitions else dict(top)


def _target(schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that `schema` stands for."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return typing.cast("dict[str, Any]", schema["$defs"][reference.removeprefix(_DEFS)])


def _accepting_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Null means no arguments: an object that requires none accepts it."""
    target = _target(schema)
    if target.get("type") != "object" or target.get("required"):
        return schema
    if target is schema:
        return {**schema, "type": ["object", "null"]}
    return {"anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}], "$defs": schema["$defs"]}


_DEFS: Final = "#/$defs/"
_PATH: Final = re.compile(r"^(?P<message>.*) - at `(?:key` in `)?\$(?P<path>[^`]*)`$", re.DOTALL)


def invalid(error: msgspec.ValidationError, root: str) -> Invalid:
    """msgspec's message with its path below `root`. A missing or unknown field is reported at its parent."""
    found = _PATH.match(str(error))
    if found is None:
        return Invalid(root, str(error))
    return Invalid(root + found["path"], found["message"])


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine."""
    underlying = _underlying(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(underlying)


def _underlying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function within a partial, or the `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__


def name_of(function: Callable[..., Any]) -> str:
    """Module and qualified name, for messages."""
    underlying = inspect.unwrap(_underlying(function)) if callable(function) else function
    name = getattr(underlying, "__qualname__", None) or repr(function)
    return f"{getattr(underlying, '__module__', None) or '?'}.{name}"


def in_one_line(error: BaseException) -> str:
    """An exception as part of a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    kind = type(error).__name__
    return bounded(f"{kind}: {text}" if text else kind, 500)
