"""Seeds of random draws."""


def draw_seed(*numbers: int) -> int:
    """One seed from several small numbers (the user's seed, round, block), the same on every worker."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63)
    return seed
