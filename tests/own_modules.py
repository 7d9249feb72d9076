"""Modules of a user's own, as the command line imports them."""

import sys
from pathlib import Path

import pytest


def write_module(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Save it in what becomes the working folder, under a name that no other test's has; Python's path is restored."""
    name = f"own{abs(hash(request.node.nodeid)) % 10**6}"
    (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", list(sys.path))
    return name
