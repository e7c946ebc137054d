"""Groups of options that several commands share, each defined once as the function that takes them.

    @taking(restore_options)
    def restore(source: ..., chosen: Chosen[RestoreOptions], quiet: Quiet = False) -> None: ...

The command has the parameters of `restore_options` where ``chosen`` stands, and gets a function
there that makes the record, so that it can do so where it reports errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["taking"]

_PLACE = "chosen"

T = TypeVar("T")


def taking(
    make: Callable[..., T], **known: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the parameters of `make`, in the place of its parameter ``chosen``.

    Parameters
    ----------
    make : callable
        Makes the record; its parameters are the options.
    **known
        Names in its annotations that are not to be looked up, because that loads too much.
    """
    options = inspect.signature(make, locals=known, eval_str=True).parameters

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, locals=known, eval_str=True).parameters
        shown: list[inspect.Parameter] = []
        for name, parameter in own.items():
            shown += options.values() if name == _PLACE else [parameter]

        def with_options(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            command(**given, **{_PLACE: partial(make, **chosen)})

        with_options.__name__ = command.__name__
        with_options.__doc__ = command.__doc__
        with_options.__annotations__ = {one.name: one.annotation for one in shown}
        vars(with_options)["__signature__"] = inspect.Signature(shown)
        return with_options

    return give
