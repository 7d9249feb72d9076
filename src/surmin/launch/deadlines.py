"""How a run's timeout is divided up, so that a run that hangs has ended when it is over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Deadlines:
    """Counted from when the others wait for a worker that does not answer.

    Attributes:
        timeout: seconds within which all processes must have ended.
    """

    timeout: float

    @property
    def waiting(self) -> float:
        """Seconds that a worker waits for another, in every communication: 0.8 of a timeout from ten seconds up."""
        return 0.9 * self.timeout - self._spare

    @property
    def telling(self) -> float:
        """Seconds after the first timeout for others to report theirs: together they show who is silent."""
        return 0.08 * self.timeout

    @property
    def grace(self) -> float:
        """Seconds for the others to report anything when a worker has ended."""
        return min(1.0, self.telling)

    @property
    def termination(self) -> float:
        """Seconds between asking workers to end and killing them."""
        return min(2.0, 0.02 * self.timeout)

    @property
    def _spare(self) -> float:
        """Seconds for everything else: processes must notice, report and end, on a machine that may be busy."""
        return max(0.1 * self.timeout, min(1.0, 0.4 * self.timeout))
