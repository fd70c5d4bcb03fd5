"""The web page's files, as they are sent: hand-written HTML, CSS and ES modules in `assets/`, a flat folder.

Knows nothing of HTTP but media types; `http/page.py` serves them, and the page calls the public API alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = Path(__file__).with_name("assets")
INDEX: Final = "index.html"
# By the end of a file's name. What is not here is not sent: a file of an editor, or of a test.
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/vnd.microsoft.icon",
    ".webmanifest": "application/manifest+json",
}
_DIGITS: Final = 32


class Asset(msgspec.Struct, frozen=True):
    """A file of the page. `etag` changes with its bytes."""

    body: bytes
    media_type: str
    etag: str


def read_assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """The files by their names, the index among them. Raises OSError where they are not installed."""
    found = {
        path.name: _asset(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in MEDIA_TYPES and not path.name.startswith(".")
    }
    if INDEX not in found:
        raise FileNotFoundError(f"{INDEX} is not among the files of the page")
    return found


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:_DIGITS]}"')
