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
        self._counted: defaultdict[str, int] = defaultdict(int)
        self._device = device

    @contextmanager
    def phase(self, key: Hashable) -> Iterator[None]:
        """Count and time what is done inside."""
        start, before = now(self._device), self.operations
        with super().phase(key):
            yield
        kind = str(key[0] if isinstance(key, tuple) else key)
        self.seconds[kind] += now(self._device) - start
        self._counted[kind] += self.operations - before

    def counted_in(self, kind: str) -> int:
        """Operations of all phases of a kind."""
        return self._counted[kind]
