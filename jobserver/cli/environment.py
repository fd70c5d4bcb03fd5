"""`.env` of the current folder: read; only its OTEL_ variables go into the environment, and only that of a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jobserver.errors import ConfigurationError

PREFIX: Final = "JOBSERVER_"
OTEL: Final = "OTEL_"
FILE: Final = Path(".env")


def read_dotenv() -> Mapping[str, str]:
    """Its JOBSERVER_ and OTEL_ variables, but for empty ones. Raises ConfigurationError for a file that is no text."""
    try:
        text = FILE.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file {FILE.absolute()} cannot be read: {error}.") from None
    if PREFIX not in text and OTEL not in text:
        return {}
    # Imported on use: few folders have such a file, and client commands start fast without.
    from io import StringIO

    from dotenv import dotenv_values

    values = dotenv_values(stream=StringIO(text))
    return {name: value for name, value in values.items() if name.startswith((PREFIX, OTEL)) and value}


def adopt_otel(dotenv: Mapping[str, str]) -> None:
    """Give this process the OTEL_ variables of `.env` that its environment has not.

    The SDK and its exporters read the environment themselves, and so do children: there is no other way to tell them.
    """
    for name, value in dotenv.items():
        if name.startswith(OTEL) and not os.environ.get(name):
            os.environ[name] = value


def variable(name: str, dotenv: Mapping[str, str]) -> str | None:
    """A variable of the environment, or else of `.env`; None where it is empty in both."""
    return os.environ.get(name) or dotenv.get(name)
