"""The web page: its files, to anybody. What it shows it asks of the API, with the key of whoever looks at it."""

from __future__ import annotations

from typing import Any, Final

from jobserver.dashboard import INDEX, Asset, read_assets
from jobserver.errors import NotFound
from jobserver.http.body import Nothing
from jobserver.http.operations import Answer, Call, Header, operation
from jobserver.http.reply import Headers, Reply

TAG: Final = "Page"

# Scripts and styles are files of ours, nothing is of anybody else, and no script makes HTML of text.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS: Final[Headers] = (
    # Kept, and asked for again each time: a new release is seen at once, an old file costs an answer without it.
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
ETAG: Final = Header("ETag", "Changes with the file.")
IF_NONE_MATCH: Final = Header("If-None-Match", "The `ETag` of a copy: 304 while the file is still that.")

_FILES: Final = read_assets()


@operation(
    "GET",
    "/",
    Answer(status=200, description="A page for browsers.", media_types=("text/html",), headers=(ETAG,)),
    Answer(status=304, description="The copy is the page.", media_types=(), headers=(ETAG,)),
    tag=TAG,
    access="open",
    headers=(IF_NONE_MATCH,),
)
async def show_page(call: Call[Nothing, Nothing]) -> Reply:
    """Show the dashboard."""
    return _sent(call, _FILES[INDEX])


@operation(
    "GET",
    "/assets/{name}",
    Answer(
        status=200,
        description="The file.",
        media_types=("text/javascript", "text/css", "text/html", "image/svg+xml", "image/png"),
        headers=(ETAG,),
    ),
    Answer(status=304, description="The copy is the file.", media_types=(), headers=(ETAG,)),
    tag=TAG,
    access="open",
    problems=(404,),
    headers=(IF_NONE_MATCH,),
)
async def show_asset(call: Call[Nothing, Nothing]) -> Reply:
    """Show a file of the dashboard."""
    found = _FILES.get(call.path["name"])
    if found is None:
        raise NotFound("The page has no such file.")
    return _sent(call, found)


OPERATIONS: Final = (show_page, show_asset)


def _sent(call: Call[Any, Any], asset: Asset) -> Reply:
    headers = (*_HEADERS, (b"etag", asset.etag.encode()))
    if _has(call, asset.etag):
        return Reply(304, headers=headers)
    return Reply(200, asset.body, ((b"content-type", asset.media_type.encode()), *headers))


def _has(call: Call[Any, Any], etag: str) -> bool:
    """RFC 9110, section 13.1.2: whether one of the tags is this one, by the weak comparison."""
    given = b",".join(value for name, value in call.scope["headers"] if name == b"if-none-match").decode("latin-1")
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in given.split(","))
