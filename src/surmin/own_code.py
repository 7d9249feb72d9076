"""The user's own models and methods, given on the command line as "module:name"."""

import os
import sys
from importlib import import_module
from operator import attrgetter
from typing import Any


def is_own(name: str) -> bool:
    """Whether a name refers to the user's own code."""
    return ":" in name


def load_own(name: str) -> Any:
    """Import it, from Python's path or from the working folder.

    Raises:
        ValueError: if there is no such module, or nothing of that name in it. Any other error in the module is raised
            as is.
    """
    module, _, own = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *own.split(".")]):
        raise ValueError(f"{name}: write module:name, as in mynetworks:build")
    folder = os.getcwd()
    if folder not in sys.path:  # last, so that nothing there shadows another package
        sys.path.append(folder)
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{name}: no module {error.name!r} in {folder} or on Python's path") from error
    try:
        return attrgetter(own)(found)
    except AttributeError as error:
        raise ValueError(f"{name}: nothing is called {own!r} in {found.__file__ or module}") from error
