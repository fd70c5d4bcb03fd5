"""How handlers are declared: the registry, a handler's signature as payload type, and what a handler receives.

Pure. Every mistake in a declaration is found when it is declared and said in one sentence (ConfigurationError).
"""

from __future__ import annotations

import copy
import functools
import importlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypedDict, TypeVar, overload

import msgspec

from jobserver.errors import ConfigurationError, Invalid
from jobserver.job.attempt import Attempt
from jobserver.job.encoding import NotEncodableError, encode_json
from jobserver.job.model import Priority
from jobserver.job.signature import in_one_line, invalid, is_async, name_of, read_signature
from jobserver.job.wire import NAME_PATTERN, PRIORITIES, PriorityName, SubmitBody, normalized

if TYPE_CHECKING:  # 3.11 has it, and only checkers read it
    from typing import Unpack

C = ParamSpec("C")  # how the function is called
P = ParamSpec("P")  # the arguments of a job: the same without the Attempt
R = TypeVar("R")

Execution = Literal["task", "thread", "process"]


# What a client submits.


class JobOptions(TypedDict, total=False):
    """Options of one job; `delay` and `timeout` in seconds."""

    queue: str | None
    priority: PriorityName | None
    delay: float | None
    run_at: datetime | None
    max_retries: int | None
    timeout: float | None
    expires_at: datetime | None
    tags: tuple[str, ...]
    callback_url: str | None


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job that could be submitted: its arguments are checked, what is None comes from the type's defaults."""

    type: str
    payload: Any = None
    queue: str | None = None
    priority: PriorityName | None = None
    delay: float | None = None
    run_at: datetime | None = None
    max_retries: int | None = None
    timeout: float | None = None
    expires_at: datetime | None = None
    tags: tuple[str, ...] = ()
    callback_url: str | None = None

    def with_options(self, **options: Unpack[JobOptions]) -> JobRequest:
        """The same job with other options. Raises Invalid, and TypeError for an unknown option."""
        request = msgspec.structs.replace(self, **options)
        request.body()
        return request

    def body(self, idempotency_key: str | None = None) -> SubmitBody:
        """What `POST /jobs` takes. Raises Invalid."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["idempotency_key"] = idempotency_key
        try:
            fields["payload"] = msgspec.Raw(encode_json(self.payload))
            body = msgspec.convert(fields, SubmitBody)
        except NotEncodableError as error:
            raise Invalid("$.payload", str(error)) from None
        except msgspec.ValidationError as error:
            raise invalid(error, "$") from None
        return normalized(body)


# The registry.


class Handlers:
    """Handlers by type. What `jobserver serve MODULE:HANDLERS` loads."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler[..., ..., Any]] = {}

    def handler(
        self,
        type: str,  # noqa: A002  # the word that users know
        *,
        queue: str = "default",
        priority: PriorityName = "normal",
        max_retries: int | None = None,
        timeout: float | None = None,
        executor: Literal["thread", "process"] | None = None,
    ) -> Registration:
        """Declare the decorated function as the handler of `type`.

        The options are the defaults of its jobs, `timeout` in seconds. An `async def` runs as a task, a plain
        `def` in a thread, and either in a child process with `executor="process"`. Raises ConfigurationError.
        """
        options = HandlerOptions(
            type=type,
            queue=queue,
            priority=_checked_priority(type, priority),
            max_retries=max_retries,
            timeout_seconds=timeout,
            executor=executor,
        )
        _check_options(options)
        return Registration(self._by_type, options)

    def include(self, other: Handlers) -> None:
        """Add every handler of `other`. Raises ConfigurationError for a type that is in both."""
        for handler in other:
            _register(self._by_type, handler)

    def include_missing(self, other: Handlers) -> None:
        """Add the handlers of `other` whose type is not here yet: one's own win over those that ship with us."""
        for handler in other:
            self._by_type.setdefault(handler.type, handler)

    def get(self, name: str) -> Handler[..., ..., Any] | None:
        return self._by_type.get(name)

    def __iter__(self) -> Iterator[Handler[..., ..., Any]]:
        return iter(self._by_type.values())

    def __len__(self) -> int:
        return len(self._by_type)

    def __contains__(self, name: object) -> bool:
        return name in self._by_type


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a declaration says beside the function. None: the server's default."""

    type: str
    queue: str
    priority: Priority
    max_retries: int | None
    timeout_seconds: float | None
    executor: Literal["thread", "process"] | None


class Registration:
    """The decorator that `Handlers.handler` returns."""

    def __init__(self, by_type: dict[str, Handler[..., ..., Any]], options: HandlerOptions) -> None:
        self._by_type = by_type
        self._options = options

    @overload
    def __call__(self, function: Callable[Concatenate[Attempt, P], R]) -> Handler[Concatenate[Attempt, P], P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> Handler[P, P, R]: ...

    def __call__(self, function: Callable[..., Any]) -> Handler[..., ..., Any]:
        handler: Handler[..., ..., Any] = Handler(function, self._options)
        _register(self._by_type, handler)
        return handler


def _register(by_type: dict[str, Handler[..., ..., Any]], handler: Handler[..., ..., Any]) -> None:
    other = by_type.get(handler.type)
    if other is not None:
        raise ConfigurationError(
            f"The type {handler.type!r} has two handlers, {name_of(other.function)} and "
            f"{name_of(handler.function)}: rename one."
        )
    by_type[handler.type] = handler


class Handler(Generic[C, P, R]):
    """A declared function. Calls like the function itself; `job` makes a request to run it on a server."""

    __name__: str

    def __init__(self, function: Callable[C, R], options: HandlerOptions) -> None:
        signature = read_signature(function)
        self.function = function
        self.type = options.type
        self.queue = options.queue
        self.priority = options.priority
        self.max_retries = options.max_retries
        self.timeout_seconds = options.timeout_seconds
        self.attempt_parameter = signature.attempt_parameter
        self.is_async = is_async(function)
        self.execution: Execution = _execution(function, options.executor, self.is_async)
        self._signature = signature
        # The keyword arguments that a payload holds, the Attempt left out. Raises Invalid below `$.payload`.
        self.decode: Callable[[bytes], dict[str, Any]] = signature.read
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: C.args, **kwargs: C.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.type} {name_of(self.function)}>"

    def job(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest:
        """A request to run this handler with these arguments. Raises TypeError, and Invalid for a wrong value."""
        given = self._signature.arguments.bind(*args, **kwargs).arguments
        whole = self._signature.whole
        value = given if whole is None else given.get(whole)
        try:
            payload = encode_json(value)
        except NotEncodableError as error:
            raise Invalid("$.payload", str(error)) from None
        self.decode(payload)
        return JobRequest(type=self.type, payload=msgspec.json.decode(payload))

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the payload, complete in itself. Accepts what `decode` accepts."""
        return copy.deepcopy(self._signature.schema)


def load_handlers(reference: str) -> Handlers:
    """The Handlers object that `module:attribute` names. Raises ConfigurationError with one sentence."""
    module_name, colon, attribute = reference.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigurationError(f"{reference!r} does not name handlers: write MODULE:HANDLERS, such as mail:handlers.")
    try:
        module = importlib.import_module(module_name)
    except ConfigurationError:
        raise  # a mistake in a declaration, already said in one sentence
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"The module {module_name!r} cannot be imported: {in_one_line(error)}.") from None
    found: Any = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"The module {module_name!r} has no attribute {attribute!r}.") from None
    if not isinstance(found, Handlers):
        kind = type(found).__name__
        raise ConfigurationError(f"{reference!r} is not a Handlers object but of type {kind}.")
    return found


# From a declaration to what is checked.


def _checked_priority(handler_type: str, priority: str) -> Priority:
    if not isinstance(priority, str) or priority not in PRIORITIES:
        raise ConfigurationError(f"The priority of {handler_type!r} must be high, normal or low, not {priority!r}.")
    return PRIORITIES[priority]


def _check_options(options: HandlerOptions) -> None:
    for what, name in (("type", options.type), ("queue", options.queue)):
        if not isinstance(name, str) or re.match(NAME_PATTERN, name) is None:
            raise ConfigurationError(
                f"The {what} {name!r} is not a valid name: up to 128 letters, digits and . _ : -, "
                "beginning with a letter or digit."
            )
    retries = options.max_retries
    if retries is not None and (type(retries) is not int or not 0 <= retries <= 100):
        raise ConfigurationError(f"max_retries of {options.type!r} must be between 0 and 100, not {retries!r}.")
    seconds = options.timeout_seconds
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 86_400
    ):
        raise ConfigurationError(
            f"timeout of {options.type!r} must be more than 0 and at most 86400 seconds, not {seconds!r}."
        )
    if options.executor not in (None, "thread", "process"):
        raise ConfigurationError(
            f'executor of {options.type!r} must be "thread" or "process", not {options.executor!r}.'
        )


def _execution(
    function: Callable[..., Any], executor: Literal["thread", "process"] | None, is_coroutine: bool
) -> Execution:
    if executor == "process":
        return "process"
    if executor == "thread" and is_coroutine:
        raise ConfigurationError(
            f'{name_of(function)} is an async def and cannot run with executor="thread": '
            "leave the executor out, or make it a plain def."
        )
    return "task" if is_coroutine else "thread"
