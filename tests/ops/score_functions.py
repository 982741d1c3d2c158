"""Score functions of variants of attention, for tests."""


def alibi(score, query, key, head):
    """A slope per head times the distance (ALiBi, Press et al., 2022)."""
    return score - (query - key) * 0.125 / (head + 1)


def near_and_far(score, query, key, head):
    """Scores of far keys are halved; near ones depend on the head's parity."""
    near = query - key < 8
    return score * (0.5 + 0.5 * near) + near * (head % 2)
