"""Text, one token per character, cut into windows for a language model."""

import pydoc_data.topics
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surmin.data.checks import samples_to_keep
from surmin.data.dataset import Dataset
from surmin.data.errors import DataError

MAX_BYTES = 1 << 28  # loading takes some twenty times as much memory
TEST_FRACTION = 0.1


def load_text(data_dir: Path | None, train_samples: int | None, context: int) -> Dataset:
    """Loads a text as windows of `context` characters: inputs and targets (n, context), targets one character on.

    The first nine tenths of the text train and the rest tests; windows do not overlap. The vocabulary is the sorted
    set of the text's characters. Without `data_dir` (a UTF-8 file, or a folder whose .txt files are joined in the
    order of their paths) the text is the English help topics that come with Python, which differ a little between
    versions of Python.
    """
    text = _python_topics() if data_dir is None else _read_text(data_dir)
    where = "text" if data_dir is None else str(data_dir)
    if context < 1:
        raise DataError(f"context must be at least 1, got {context}")
    test_length = round(TEST_FRACTION * len(text))
    if test_length <= context:
        raise DataError(f"{where}: {len(text):,} characters are too few to train and test on windows of {context}")
    tokens, vocabulary = _tokenize(text)
    if vocabulary < 2:
        raise DataError(f"{where}: every character is the same")
    train_inputs, train_targets = _windows(tokens[:-test_length], context)
    test_inputs, test_targets = _windows(tokens[-test_length:], context)
    kept = samples_to_keep(train_samples, len(train_inputs), where)
    return Dataset(train_inputs[:kept], train_targets[:kept], test_inputs, test_targets, vocabulary)


def _python_topics() -> str:
    return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


def _read_text(path: Path) -> str:
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .txt files")
    try:
        size = sum(file.stat().st_size for file in files)
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes of text, at most {MAX_BYTES:,} can be loaded")
        return "".join(_read_files(files))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error


def _read_files(files: Iterable[Path]) -> Iterator[str]:
    """The text of each, as long as there is not too much: a device or a pipe does not tell its size."""
    left = MAX_BYTES
    for file in files:
        with file.open(encoding="utf-8-sig") as stream:
            text = stream.read(left + 1)
        left -= len(text)
        if left < 0:
            raise DataError(f"{file}: more than {MAX_BYTES:,} characters of text, at most so many can be loaded")
        yield text


def _tokenize(text: str) -> tuple[Tensor, int]:
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    present = np.bincount(characters) > 0
    token_of_character = np.cumsum(present) - 1
    return torch.from_numpy(token_of_character[characters]), int(present.sum())


def _windows(tokens: Tensor, context: int) -> tuple[Tensor, Tensor]:
    count = (len(tokens) - 1) // context
    end = count * context
    return tokens[:end].view(count, context), tokens[1 : end + 1].view(count, context)
