"""Downloading one gzip file: whole and verified, or not at all."""

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from surmin.data.errors import DataError

CHUNK = 1 << 16  # bytes
MAX_BYTES = 1 << 28  # far above any file of ours: stops a server that never ends
TIMEOUT = 30.0  # seconds without an answer


def download_gzip(file_name: str, checksum: str, mirrors: Sequence[str], folder: Path) -> None:
    """Downloads `file_name` into `folder` from the first of `mirrors` (URL prefixes) that serves it correctly.

    The file appears under its name only once the MD5 of its uncompressed bytes equals `checksum`.

    Raises:
        DataError: the folder cannot be written, or no mirror served the file; says why for each.
    """
    failures = []
    with _temporary_file(folder) as part:
        for mirror in mirrors:
            try:
                _fetch(mirror + file_name, part)
                _verify(part, checksum)
            except (OSError, EOFError, zlib.error, http.client.HTTPException, DataError) as error:
                failures.append(f"{mirror}: {error}")
            else:
                os.replace(part, folder / file_name)
                return
    raise DataError(f"cannot download {file_name} ({'; '.join(failures)}); data_dir can name a folder that has it")


@contextmanager
def _temporary_file(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _fetch(url: str, part: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, part.open("wb") as stream, _progress() as progress:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        task = progress.add_task(url.rsplit("/", 1)[-1], total=total)
        received = _copy(response, stream, progress, task)
    if total is not None and received != total:
        raise DataError(f"the connection ended after {received:,} of {total:,} bytes")


def _copy(response: IO[bytes], stream: IO[bytes], progress: Progress, task: TaskID) -> int:
    received = 0
    while chunk := response.read(CHUNK):
        received += len(chunk)
        if received > MAX_BYTES:
            raise DataError(f"more than {MAX_BYTES:,} bytes")
        stream.write(chunk)
        progress.update(task, completed=received)
    return received


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _verify(path: Path, checksum: str) -> None:
    digest, length = hashlib.md5(usedforsecurity=False), 0
    with gzip.open(path) as stream:
        while chunk := stream.read(CHUNK):
            length += len(chunk)
            if length > MAX_BYTES:
                raise DataError(f"more than {MAX_BYTES:,} bytes uncompressed")
            digest.update(chunk)
    if digest.hexdigest() != checksum:
        raise DataError(f"MD5 of the uncompressed bytes is {digest.hexdigest()}, expected {checksum}")
