"""Kinds of parameters: durations, lists of names, and options that the environment and `.env` can give."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from jobserver.cli.environment import FILE, variable

if TYPE_CHECKING:  # generic for checkers; older releases of click cannot be subscripted
    _Float = click.ParamType[float]
    _Names = click.ParamType[tuple[str, ...]]
else:
    _Float = _Names = click.ParamType

UNITS: Final[Mapping[str, float]] = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
FOR_EVER: Final = "ever"
DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)


class Duration(_Float):
    """Seconds, from a number with s, m, h or d; s where there is none."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(
                f"{value!a} is not a duration: write a number with s, m, h or d, such as 90s or 1.5h.", param, ctx
            )
        return float(found[1]) * UNITS[found[2] or "s"]


class Patience(Duration):
    """A duration, or for ever."""

    name = "patience"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return math.inf if value == FOR_EVER else super().convert(value, param, ctx)


class Names(_Names):
    """Names of queues, separated by commas."""

    name = "names"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if _NAME.fullmatch(name) is None:
                self.fail(f"{name!a} is not the name of a queue.", param, ctx)
        return names


class Parts(_Names):
    """Texts that are separated by commas, in small letters."""

    name = "list"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(part.strip().lower() for part in str(value).split(",") if part.strip()))


DURATION_TYPE: Final = Duration()
PATIENCE_TYPE: Final = Patience()
NAMES_TYPE: Final = Names()
LIST_TYPE: Final = Parts()


def shown_duration(seconds: float) -> str:
    """A duration as one would type it: 7d, 90s, 0.5s."""
    for unit in ("d", "h", "m"):
        # Two of a unit or more, or the one that is exact: 60 s reads better than 1 m in a table of seconds.
        if seconds >= 2 * UNITS[unit] and seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"


class EnvironmentOption(click.Option):
    """An option that a variable of the environment gives too, and one of `.env` where that has none."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return _resolved(self.envvar, ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Where the wrong value was written."""
        if ctx is None or ctx.get_parameter_source(self.name or "") is not ParameterSource.ENVIRONMENT:
            return super().get_error_hint(ctx)
        return f"{self.envvar}" if self.envvar in os.environ else f"{self.envvar} in {FILE}"


class EnvironmentArgument(click.Argument):
    """The same for an argument."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return _resolved(self.envvar, ctx)


def _resolved(name: object, ctx: click.Context) -> str | None:
    assert isinstance(name, str)
    value = variable(name, ctx.obj or {})
    # Kubernetes sets JOBSERVER_PORT=tcp://10.0.0.1:80 for a service that is named jobserver.
    return None if value is None or value.startswith("tcp://") else value
