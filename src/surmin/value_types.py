"""Whether values have the types that options are declared with, and what to give instead. Imports no torch."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def check_types(values: Mapping[str, Any], types_of: Mapping[str, Any]) -> None:
    """Raise ValueError for the first value that does not have its name's type.

    A whole number counts as a float, a truth value is not a number, and text is not a sequence.

    Args:
        values: by name.
        types_of: as from `typing.get_type_hints`: `bool`, `int`, `float`, `str`, `Literal` of texts, tuples and
            sequences of one of these, checkable protocols, and any of them or another joined by `|`.
    """
    for name, value in values.items():
        choices = get_args(types_of[name]) if _is_union(types_of[name]) else (types_of[name],)
        if not any(_is_of(value, choice) for choice in choices):
            raise ValueError(f"{name} must be {' or '.join(map(_in_words, choices))}, got {value!r}")


def is_whole(value: object, least: int = 0) -> bool:
    """Whether it is a whole number, `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_of(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if isinstance(value, type):  # a class has what its objects have, and would pass for one
        return False
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin in (tuple, Sequence):
        is_sequence = isinstance(value, origin) and not isinstance(value, str)
        return is_sequence and all(_is_of(item, get_args(kind)[0]) for item in value)
    return isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


def _in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        first, *others = get_args(kind)
        return f"one of {', '.join([first, *others])}" if others else repr(first)
    if origin in (tuple, Sequence):
        return f"a sequence of {PLURALS[get_args(kind)[0]]}"
    return NOUNS.get(kind) or f"a {kind.__name__}"
