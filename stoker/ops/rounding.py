"""Integer division that rounds up. No torch: everything above counts blocks, tiles and bytes."""


def ceil_div(count: int, size: int) -> int:
    """How many pieces of `size` hold `count`: ceil_div(17, 16) == 2, ceil_div(0, 16) == 0."""
    return -(-count // size)
