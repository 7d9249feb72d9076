"""A worker's position in a run: which replica of the network it belongs to, and where in that replica's pipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """One worker's position. Ranks go through the first replica's pipe, then the second's, and so on.

    Attributes:
        replica: which copy of the network it belongs to.
        replicas: how many there are.
        place: its place in the pipe.
        length: workers in the pipe.
    """

    replica: int = 0
    replicas: int = 1
    place: int = 0
    length: int = 1

    @classmethod
    def of(cls, rank: int, workers: int, replicas: int) -> "Position":
        """The position of a rank, if every replica has equally many of the workers."""
        length = workers // replicas
        replica, place = divmod(rank, length)
        return cls(replica, replicas, place, length)

    @property
    def pipes(self) -> list[range]:
        """The ranks of every replica's pipe."""
        return [range(replica * self.length, (replica + 1) * self.length) for replica in range(self.replicas)]

    def share(self, samples: int) -> slice:
        """This replica's part of so many samples: the replicas' parts follow each other.

        Raises:
            ValueError: if the parts would not be equal.
        """
        part, rest = divmod(samples, self.replicas)
        if rest:
            raise ValueError(
                f"{samples} samples cannot be shared equally by {self.replicas} replicas: give batch_size (or, for the "
                f"full batch, train_samples) a multiple of {self.replicas}"
            )
        return slice(self.replica * part, (self.replica + 1) * part)


SOLE_POSITION = Position()
