"""Nested states with tensors in them, as JSON and a table of tensors, each under the path that leads to it."""

import json
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

from torch import Tensor

TENSOR = "tensor:"

StoredTensors = Mapping[str, Callable[[], Tensor]]
"""Tensors by name, each read when called."""


def pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value with every tensor moved into `tensors` and its name left in its place.

    Raises:
        ValueError: if it could not be unpacked as it was, saying where.
    """
    if isinstance(value, Tensor):
        if path in tensors:
            raise ValueError(f"two tensors would be stored as {path}")
        tensors[path] = value
        return f"{TENSOR}{path}"
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path} has a key that is no text, {key!r}: it would be read back as text")
        return {key: pack(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(TENSOR):
        raise ValueError(f"{path} is the text {value!r}, which would be read back as a tensor")
    return value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is nested in a value, each with the path that leads to it."""
    if isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(item, f"{path}/{key}" if path else str(key))
    else:
        yield path, value


def unpack(value: Any, tensors: StoredTensors) -> Any:
    """What was packed.

    Raises:
        ValueError: if a tensor is missing.
    """
    if isinstance(value, str) and value.startswith(TENSOR):
        name = value.removeprefix(TENSOR)
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing")
        return tensors[name]()
    if isinstance(value, dict):
        return {key: unpack(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    return value


def merge(first: Any, second: Any, path: str = "") -> Any:
    """The union of two packed values: keys may differ, values under the same key may not.

    Raises:
        ValueError: if they do not agree, saying where.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        shared = {key: merge(first[key], second[key], f"{path}/{key}") for key in first.keys() & second.keys()}
        return {**first, **second, **shared}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [merge(one, other, path) for one, other in zip(first, second, strict=True)]
    if json.dumps(first) != json.dumps(second):  # as text, so that NaN is equal to itself
        raise ValueError(f"the workers do not agree on {path.removeprefix('/')}: {first} and {second}")
    return first


def without(value: Any, names: Set[str]) -> Any:
    """A packed value without the entries of these names, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list):
        return [without(item, names) for item in value]
    return value
