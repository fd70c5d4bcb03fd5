"""The handlers that ship with the server: echo, sleep, fail and http.request; callback, which only it may use.

Two registries, so that child processes import by name the one that the server was started with.
"""

from __future__ import annotations

from typing import Final

from jobserver.builtin.demonstration import add_demonstration
from jobserver.builtin.http_request import add_http_request
from jobserver.job.handlers import Handlers


def builtin_handlers(*, allow_private_targets: bool = False) -> Handlers:
    """The built-in types. `allow_private_targets` lets http.request call this host and private networks."""
    built = Handlers()
    add_demonstration(built)
    add_http_request(built, allow_private_targets=allow_private_targets)
    return built


handlers: Final = builtin_handlers()
handlers_with_private_targets: Final = builtin_handlers(allow_private_targets=True)


def reference(*, allow_private_targets: bool) -> str:
    """What a child process imports: module and attribute of the registry above."""
    name = "handlers_with_private_targets" if allow_private_targets else "handlers"
    return f"{__name__}:{name}"
