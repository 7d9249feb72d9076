"""Where a round's time goes: the library counts the work of each phase, and this takes the time there as well."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.clock import now
from surmin.work import WorkMeter


class PhaseTimer(WorkMeter):
    """A meter for a pipeline that adds up seconds by kind of phase; phases are not nested."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device

    @contextmanager
    def phase(self, key: Hashable) -> Iterator[None]:
        """Count and time what is done inside."""
        start = now(self._device)
        with super().phase(key):
            yield
        kind = key[0] if isinstance(key, tuple) else key
        self.seconds[str(kind)] += now(self._device) - start
