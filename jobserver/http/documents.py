"""The two pages about the API itself: the OpenAPI document, and the same for people."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

import msgspec

from jobserver.http.body import Nothing
from jobserver.http.openapi import Json, document
from jobserver.http.operations import Answer, Call, Operation, operation
from jobserver.http.reply import COMMON, Reply, encode
from jobserver.http.system import TAG

# The page has no script and loads nothing.
_HTML: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    *COMMON,
)


def with_documents(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations, and the two that show them all, themselves included."""

    @operation(
        "GET",
        "/schema/openapi.json",
        Answer(status=200, description="This document."),
        tag=TAG,
        access="read",
    )
    async def show_openapi(call: Call[Nothing, Nothing]) -> Reply:
        """Show the OpenAPI document."""
        return Reply(200, as_json)

    @operation(
        "GET",
        "/schema",
        Answer(status=200, description="A page.", media_types=("text/html",)),
        tag=TAG,
        access="read",
    )
    async def show_documentation(call: Call[Nothing, Nothing]) -> Reply:
        """Show the documentation of the API."""
        return Reply(200, as_page, _HTML)

    every = (*operations, show_openapi, show_documentation)
    described = document(every)
    as_json, as_page = encode(described), page(described).encode()
    return every


def page(described: Json) -> str:
    """An OpenAPI document of ours as one HTML page."""
    info = described["info"]
    sections = "".join(_section(tag["name"], described) for tag in described["tags"])
    schemas = "".join(_schema(name, schema) for name, schema in described["components"]["schemas"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_CSS}</style></head><body><main>"
        f"<h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1>"
        f"{_prose(info['description'])}"
        f'<p>As a file: <a href="/schema/openapi.json">OpenAPI {escape(described["openapi"])}</a></p>'
        f"<nav>{_contents(described)}</nav>{sections}<h2>Schemas</h2>{schemas}</main></body></html>"
    )


def _contents(described: Json) -> str:
    return "".join(
        f'<a href="#{escape(entry["operationId"])}"><b>{method.upper()}</b> {escape(path)}</a>'
        for path, methods in described["paths"].items()
        for method, entry in methods.items()
    )


def _section(tag: str, described: Json) -> str:
    entries = "".join(
        _operation(method, path, entry, described)
        for path, methods in described["paths"].items()
        for method, entry in methods.items()
        if tag in entry["tags"]
    )
    return f"<h2>{escape(tag)}</h2>{entries}"


def _operation(method: str, path: str, entry: Json, described: Json) -> str:
    parts = [
        f'<section id="{escape(entry["operationId"])}">'
        f'<h3><b class="{method}">{method.upper()}</b> <code>{escape(path)}</code></h3>'
        f"<p>{escape(entry['summary'])}</p>{_prose(entry.get('description', ''))}"
    ]
    if parameters := entry.get("parameters"):
        rows = "".join(
            _row(one["name"], one["in"], _type(one["schema"]), escape(one.get("description", ""))) for one in parameters
        )
        parts.append(f"<table><tr><th>Parameter<th>In<th>Type<th></tr>{rows}</table>")
    if body := entry.get("requestBody"):
        parts.append(f"<p>Body: {_content(body['content'])}</p>")
    rows = "".join(
        _row(status, escape(answer["description"]), _content(answer.get("content", {})))
        for status, answer in ((key, _found(value, described)) for key, value in entry["responses"].items())
    )
    parts.append(f"<table><tr><th>Status<th>Meaning<th>Body</tr>{rows}</table></section>")
    return "".join(parts)


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = "".join(
        _row(
            f"{escape(field)}{'' if field in required else ' <i>optional</i>'}",
            _type(one),
            escape(one.get("description", "")),
        )
        for field, one in schema.get("properties", {}).items()
    )
    table = f"<table>{rows}</table>" if rows else f"<p>{_type(schema)}</p>"
    examples = "".join(f"<pre>{escape(_indented(example))}</pre>" for example in schema.get("examples", ()))
    return (
        f'<section id="{escape(name)}"><h3>{escape(name)}</h3>'
        f"{_prose(schema.get('description', ''))}{table}{examples}</section>"
    )


def _type(schema: Json) -> str:
    """A schema in a few words, as HTML."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if alternatives := schema.get("anyOf"):
        return " or ".join(_type(one) for one in alternatives)
    if values := schema.get("enum"):
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}{_bounds(schema)}"
    return f"{escape(schema.get('format') or schema.get('type') or 'any JSON')}{_bounds(schema)}"


_BOUNDS: Final = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "pattern": "",
    "default": "default",
}


def _bounds(schema: Json) -> str:
    told = [
        f"{words} <code>{escape(_compact(schema[key]))}</code>"
        for key, words in _BOUNDS.items()
        if schema.get(key) is not None
    ]
    return f" <small>{', '.join(told)}</small>" if told else ""


def _content(content: Json) -> str:
    return ", ".join(
        f"{_type(one['schema'])} <small>{escape(media_type)}</small>" for media_type, one in content.items()
    )


def _found(value: Json, described: Json) -> Json:
    """An answer, or what its reference leads to."""
    if reference := value.get("$ref"):
        found: Json = described["components"]["responses"][reference.rpartition("/")[2]]
        return found
    return value


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}' for cell in cells)}</tr>"


def _prose(text: str) -> str:
    return "".join(f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph.strip())


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def _indented(value: Any) -> str:
    return msgspec.json.format(encode(value), indent=2).decode()


_CSS: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{margin:0;font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:auto;padding:1rem}
h2{margin-top:3rem;border-bottom:1px solid var(--line)}
h3 b{font:600 .8em ui-monospace,monospace;padding:.1em .5em;border-radius:.3em;background:var(--soft)}
h3 .post{color:#15803d}h3 .delete{color:#dc2626}h3 .get{color:#2563eb}
small,i{opacity:.75}code,pre{font:.9em ui-monospace,monospace}
pre{background:var(--soft);padding:1rem;overflow:auto}
nav{columns:18rem;font:.85em ui-monospace,monospace}nav a{display:block}
a{color:inherit}section{margin:1.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.9em}
th,td{text-align:left;vertical-align:top;padding:.3em .6em;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
"""
