"""Which worker holds which stages."""

from itertools import pairwise


def spread(stages: int, workers: int) -> list[range]:
    """Consecutive stages for every worker, as evenly as possible; the first workers get one more.

    Raises:
        ValueError: if there are more workers than stages.
    """
    if not 1 <= workers <= stages:
        raise ValueError(
            f"{stages} stage{'s' if stages > 1 else ''} cannot be shared by {workers} workers: "
            "every worker needs at least one stage"
        )
    least, rest = divmod(stages, workers)
    starts = [worker * least + min(worker, rest) for worker in range(workers + 1)]
    return [range(start, end) for start, end in pairwise(starts)]
