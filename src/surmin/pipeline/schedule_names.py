"""Schedules of forward and gradient waves between workers, by name. Importing this imports no torch."""

from typing import Literal, get_args

ScheduleName = Literal["posted", "gpipe", "1f1b"]
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
