"""Whether a process that a test has started still runs."""

from pathlib import Path


def is_running(process: int) -> bool:
    """Whether it exists and has not ended, waiting for somebody to ask how; told by /proc."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
