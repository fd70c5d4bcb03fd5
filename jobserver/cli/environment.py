"""`.env` of the current folder: read, never written into the environment of this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jobserver.errors import ConfigurationError

PREFIX: Final = "JOBSERVER_"
FILE: Final = Path(".env")


def read_dotenv() -> Mapping[str, str]:
    """Its JOBSERVER_ variables, those left empty not. Raises ConfigurationError for a file that is no text."""
    try:
        text = FILE.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file {FILE.absolute()} cannot be read: {error}.") from None
    if PREFIX not in text:
        return {}
    # Imported on use: few folders have such a file, and client commands start fast without.
    from io import StringIO

    from dotenv import dotenv_values

    values = dotenv_values(stream=StringIO(text))
    return {name: value for name, value in values.items() if name.startswith(PREFIX) and value}


def variable(name: str, dotenv: Mapping[str, str]) -> str | None:
    """A variable of the environment, or else of `.env`; None where it is empty in both."""
    return os.environ.get(name) or dotenv.get(name)
