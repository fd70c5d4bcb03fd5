"""Declaring handlers: what a signature becomes, and which mistakes are said at once."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import jsonschema
import msgspec
import pytest

from jobserver.errors import ConfigurationError, Invalid
from jobserver.job.attempt import Attempt
from jobserver.job.encoding import NotEncodableError, encode_json
from jobserver.job.handlers import Handlers, JobRequest, load_handlers
from jobserver.job.model import Priority, Progress
from jobserver.job.signature import Payload
from tests.pipeline.attempts import claimed


class Item(msgspec.Struct):
    name: str
    count: int = 1


class Tree(msgspec.Struct):
    value: int = 0
    children: list[Tree] = []


@dataclasses.dataclass
class Order:
    number: int


class Foreign:
    """A type that JSON cannot carry."""


Copies = Annotated[int, msgspec.Meta(ge=1)]


async def send(attempt: Attempt, to: str, subject: str = "hi", *, copies: Copies = 1) -> str:
    return f"{to} {subject} {copies}"


def whole_struct(order: Item) -> None: ...
def whole_dataclass(order: Order, me: Attempt) -> None: ...
def whole_tree(tree: Tree) -> None: ...
def whole_payload(anything: Payload) -> None: ...
def whole_raw(raw: msgspec.Raw) -> None: ...
def nothing() -> None: ...
def only_attempt(attempt: Attempt) -> None: ...
def untyped(a, b=2): ...  # type: ignore[no-untyped-def]
def two_structs(a: Item, b: Order) -> None: ...
def fills_its_default(
    numbers: list[int] = [1],  # noqa: B006
    limit: float = float("inf"),
    pair: tuple[int, int] = (1, 2),
) -> None: ...


def declared(function: Callable[..., Any], **options: Any) -> Any:
    return Handlers().handler("t", **options)(function)


def test_a_handler_stays_callable_like_its_function() -> None:
    handler = Handlers().handler("email.send", queue="mail", priority="high", max_retries=5, timeout=30)(send)
    attempt = Attempt(claimed("t"), report=print, cancel_requested=bool, clock=float, deadline=0)
    assert asyncio.run(handler(attempt, "a", copies=2)) == "a hi 2"
    assert handler.__name__ == "send"
    assert (handler.type, handler.queue, handler.priority) == ("email.send", "mail", Priority.HIGH)
    assert (handler.max_retries, handler.timeout_seconds, handler.execution) == (5, 30, "task")
    assert handler.attempt_parameter == "attempt"


def test_a_plain_function_runs_in_a_thread_and_either_in_a_process_on_request() -> None:
    assert declared(nothing).execution == "thread"
    assert declared(nothing, executor="process").execution == "process"
    assert declared(send, executor="process").execution == "process"
    assert declared(functools.partial(send, subject="x")).execution == "task"


@pytest.mark.parametrize(
    ("function", "payload", "arguments"),
    [
        (send, b'{"to":"a"}', {"to": "a", "subject": "hi", "copies": 1}),
        (send, b'{"to":"a","copies":3}', {"to": "a", "subject": "hi", "copies": 3}),
        (nothing, b"null", {}),
        (nothing, b"{}", {}),
        (only_attempt, b"null", {}),
        (untyped, b'{"a":[1]}', {"a": [1], "b": 2}),
        (whole_struct, b'{"name":"n"}', {"order": Item("n")}),
        (whole_dataclass, b'{"number":1}', {"order": Order(1)}),
        (whole_tree, b"null", {"tree": Tree()}),
        (whole_payload, b"null", {"anything": None}),
        (whole_payload, b"[1]", {"anything": [1]}),
        (two_structs, b'{"a":{"name":"n"},"b":{"number":1}}', {"a": Item("n"), "b": Order(1)}),
    ],
)
def test_a_payload_becomes_the_arguments(function: Any, payload: bytes, arguments: dict[str, Any]) -> None:
    handler = declared(function)
    assert handler.decode(payload) == arguments
    jsonschema.validate(msgspec.json.decode(payload), handler.schema())


@pytest.mark.parametrize(
    ("function", "payload", "path", "message"),
    [
        (send, b"null", "$.payload", "Object missing required field `to`"),
        (send, b"{}", "$.payload", "Object missing required field `to`"),
        (send, b'{"to":1}', "$.payload.to", "Expected `str`, got `int`"),
        (send, b'{"to":"a","more":1}', "$.payload", "Object contains unknown field `more`"),
        (send, b'{"to":"a","attempt":1}', "$.payload", "Object contains unknown field `attempt`"),
        (send, b'{"to":"a","copies":0}', "$.payload.copies", "Expected `int` >= 1"),
        (send, b"[]", "$.payload", "Expected `object`, got `array`"),
        (nothing, b'{"a":1}', "$.payload", "Object contains unknown field `a`"),
        (whole_struct, b'{"name":1}', "$.payload.name", "Expected `str`, got `int`"),
        (whole_dataclass, b"null", "$.payload", "Object missing required field `number`"),
        (whole_tree, b'{"children":[{},{"value":"x"}]}', "$.payload.children[1].value", "Expected `int`, got `str`"),
        (two_structs, b'{"a":{},"b":{"number":1}}', "$.payload.a", "Object missing required field `name`"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_its_path(
    function: Any, payload: bytes, path: str, message: str
) -> None:
    handler = declared(function)
    with pytest.raises(Invalid) as caught:
        handler.decode(payload)
    assert (caught.value.path, caught.value.message) == (path, message)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(msgspec.json.decode(payload), handler.schema())


@pytest.mark.parametrize("payload", [b"", b"{", b'{"to":"\xff"}', b"[" * 5_000 + b"]" * 5_000, b"NaN", b'{"to":"a"} x'])
def test_a_payload_that_is_not_json_is_refused(payload: bytes) -> None:
    for function in (send, whole_payload):
        with pytest.raises(Invalid) as caught:
            declared(function).decode(payload)
        assert caught.value.path == "$.payload"


def test_a_default_that_changes_is_fresh_for_each_call() -> None:
    handler = declared(fills_its_default)
    first = handler.decode(b"null")
    first["numbers"].append(2)
    assert handler.decode(b"null") == {"numbers": [1], "limit": float("inf"), "pair": (1, 2)}
    msgspec.json.encode(handler.schema())


def test_an_exception_of_the_users_own_type_is_a_wrong_value() -> None:
    class Picky(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            raise KeyError("no such n")

    def handler(picky: Picky) -> None: ...

    handler.__annotations__ = {"picky": Picky}
    with pytest.raises(Invalid, match="no such n"):
        declared(handler).decode(b'{"n":1}')


def args(*args: int) -> None: ...
def kwargs(**kwargs: int) -> None: ...
def positional(a: int, /) -> None: ...
def foreign(thing: Foreign) -> None: ...
def unresolved(thing: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def two_attempts(a: Attempt, b: Attempt) -> None: ...
def not_alone(a: Payload, b: int) -> None: ...
def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (args, "args"),
        (kwargs, "kwargs"),
        (positional, "parameter a"),
        (foreign, "thing"),
        (unresolved, "thing"),
        (two_attempts, "a and b"),
        (not_alone, "a takes"),
        (generator, "generator"),
        (async_generator, "generator"),
        (Item, "Item"),
    ],
)
def test_a_wrong_signature_is_said_in_one_sentence(function: Any, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declared(function)
    message = str(caught.value)
    assert function.__name__ in message
    assert named in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    "options",
    [
        {"type": ""},
        {"type": "a b"},
        {"type": ".a"},
        {"type": "a\n"},
        {"type": "x" * 129},
        {"type": 1},
        {"queue": "a/b"},
        {"priority": "urgent"},
        {"priority": 1},
        {"max_retries": -1},
        {"max_retries": 101},
        {"max_retries": True},
        {"max_retries": 1.5},
        {"timeout": 0},
        {"timeout": 86_401},
        {"timeout": float("nan")},
        {"timeout": "1"},
        {"executor": "fibre"},
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"\.$"):
        Handlers().handler(**({"type": "t"} | options))


def test_an_async_def_cannot_be_sent_to_threads() -> None:
    with pytest.raises(ConfigurationError, match="async def"):
        declared(send, executor="thread")


def test_a_type_has_one_handler() -> None:
    handlers = Handlers()
    handlers.handler("t")(nothing)
    with pytest.raises(ConfigurationError, match=r"'t' has two handlers, .*nothing and .*send"):
        handlers.handler("t")(send)
    other = Handlers()
    other.handler("t")(send)
    other.handler("u")(send)
    with pytest.raises(ConfigurationError, match="'t' has two handlers"):
        handlers.include(other)
    handlers.include_missing(other)
    assert {handler.type: handler.__name__ for handler in handlers} == {"t": "nothing", "u": "send"}
    assert len(handlers) == 2
    assert "u" in handlers
    assert handlers.get("v") is None


def test_a_request_for_a_job_checks_its_arguments() -> None:
    handler = declared(send)
    assert handler.job("a", copies=2) == JobRequest(type="t", payload={"to": "a", "copies": 2})
    for wrong in ({}, {"to": "a", "more": 1}):
        with pytest.raises(TypeError):
            handler.job(**wrong)
    for arguments, path in (({"to": 1}, "$.payload.to"), ({"to": "a", "copies": 0}, "$.payload.copies")):
        with pytest.raises(Invalid) as caught:
            handler.job(**arguments)
        assert caught.value.path == path
    assert declared(whole_struct).job(Item("n")).payload == {"name": "n", "count": 1}
    assert declared(whole_payload).job([1]).payload == [1]
    for value in (float("nan"), object(), "\ud800"):
        with pytest.raises(Invalid):
            declared(whole_payload).job(value)


def test_a_request_takes_options_and_becomes_the_body_of_a_submit() -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    request = declared(send).job(to="a").with_options(queue="q", priority="high", run_at=when, tags=("x",), timeout=5)
    body = request.body("key")
    assert (body.type, bytes(body.payload), body.queue, body.priority) == ("t", b'{"to":"a"}', "q", "high")
    assert (body.run_at, body.tags, body.timeout, body.idempotency_key) == (when, ("x",), 5, "key")
    for options in ({"queue": "a b"}, {"delay": -1}, {"run_at": when, "delay": 1}, {"tags": ("",)}):
        with pytest.raises(Invalid):
            declared(send).job(to="a").with_options(**options)
    with pytest.raises(TypeError):
        declared(send).job(to="a").with_options(colour="red")


def test_a_schema_is_complete_in_itself() -> None:
    assert declared(nothing).schema() == {
        "title": "nothing",
        "type": ["object", "null"],
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }
    schema = declared(two_structs).schema()
    assert set(schema["$defs"]) == {"Item", "Order"}
    tree = declared(whole_tree).schema()
    jsonschema.validate({"children": [{"children": []}]}, tree)
    jsonschema.validate(None, tree)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"children": [{"children": 1}]}, tree)


# Attempt.


def attempt_with(reported: list[Progress], **fields: Any) -> Attempt:
    return Attempt(
        claimed("t", {"a": 1}, **fields),
        report=reported.append,
        cancel_requested=lambda: True,
        clock=lambda: 100.0,
        deadline=107.5,
    )


def test_an_attempt_shows_its_job() -> None:
    job_id = UUID(int=7)
    attempt = attempt_with([], id=job_id, trace_context="00-x")
    assert (attempt.job_id, attempt.number, attempt.fence, attempt.type) == (job_id, 2, 5, "t")
    assert (attempt.queue, attempt.tags, attempt.trace_context) == ("default", ("a", "b"), "00-x")
    assert (attempt.payload, attempt.payload_json) == ({"a": 1}, b'{"a":1}')
    assert attempt.seconds_left == 7.5
    assert attempt.cancel_requested


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), float("inf"), "50", True, None])
def test_progress_outside_of_0_to_100_is_refused(percent: Any) -> None:
    reported: list[Progress] = []
    with pytest.raises(ValueError, match="between 0 and 100"):
        attempt_with(reported).progress(percent)
    assert reported == []


async def test_progress_is_bounded_and_may_be_awaited() -> None:
    reported: list[Progress] = []
    attempt = attempt_with(reported)
    await attempt.progress(0, "x" * 5_000)
    attempt.progress(100)
    assert [p.percent for p in reported] == [0.0, 100.0]
    assert reported[0].message is not None
    assert len(reported[0].message) <= 1_000


def test_the_logger_of_an_attempt_adds_the_ids(caplog: pytest.LogCaptureFixture) -> None:
    attempt = attempt_with([])
    with caplog.at_level(logging.INFO):
        attempt.logger.info("sent", extra={"size": 3})
    [record] = caplog.records
    assert (record.name, record.msg) == ("jobserver.handler", "sent")
    assert {"job_id": str(attempt.job_id), "type": "t", "attempt": 2, "size": 3}.items() <= vars(record).items()


# Loading.


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_handlers_are_loaded_by_name(modules: Path) -> None:
    (modules / "good_one.py").write_text("from jobserver.job.handlers import Handlers\nhandlers = Handlers()\n")
    assert isinstance(load_handlers("good_one:handlers"), Handlers)


@pytest.mark.parametrize(
    ("text", "reference", "said"),
    [
        ("", "bad_one", "MODULE:HANDLERS"),
        ("", ":handlers", "MODULE:HANDLERS"),
        ("", "no_such_module_here:handlers", "No module named 'no_such_module_here'"),
        ("import no_such_dependency", "bad_one:handlers", "No module named 'no_such_dependency'"),
        ("1/0", "bad_one:handlers", "division by zero"),
        ("def (", "bad_one:handlers", "invalid syntax"),
        ("raise SystemExit(0)", "bad_one:handlers", "SystemExit"),
        ("", "bad_one:handlers", "no attribute 'handlers'"),
        ("handlers = {}", "bad_one:handlers", "is not a Handlers object but of type dict"),
        ("", "..:handlers", "cannot be imported"),
        (
            "from jobserver.job.handlers import Handlers\nh = Handlers()\n@h.handler('a')\ndef f(*a): ...",
            "bad_one:h",
            "bad_one.f takes *a",
        ),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_sentence(modules: Path, text: str, reference: str, said: str) -> None:
    (modules / "bad_one.py").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_handlers(reference)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.endswith(".")


# Encoding.


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [float("inf")]},
        Item("x", float("nan")),  # type: ignore[arg-type]
        [msgspec.Raw(b"1"), {"a": float("nan")}, None],
        msgspec.Raw(b"not json"),
        {"a": msgspec.Raw(b'{"b":')},
        {"a": msgspec.Raw(b'"\xff"')},
        object(),
        "\ud800",
    ],
)
def test_what_is_not_json_is_not_encoded(value: object) -> None:
    with pytest.raises(NotEncodableError):
        encode_json(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**80,
        "null",
        {"null": None},
        [None, 1.5],
        Item("x"),
        msgspec.Raw(b"null"),
        {"a": msgspec.Raw(b"[null]")},
    ],
)
def test_what_is_json_is_encoded(value: object) -> None:
    assert encode_json(value) == msgspec.json.encode(value)
