"""The types of a hybrid's layers, by the fields and in the words of its config."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.model.families.fields import Fields

STATE, ATTENDS, SLIDES = "linear_attention", "full_attention", "sliding_attention"
# as older configs call the types of layers
_OLD_TYPES = {"mamba": STATE, "mamba2": STATE, "attention": ATTENDS}


def kinds_of(
    f: Fields, known: Sequence[str], *fields: str, count: int | None = None
) -> list[str] | None:
    """The type of each layer, by the first of these fields that is given; None if none is.

    Args:
        known: the types that the family has.
        count: of layers, if they must be as many.
    """
    for name in fields:
        given = f.items(name, count)
        if given is None:
            continue
        found = [_OLD_TYPES.get(kind, kind) if isinstance(kind, str) else kind for kind in given]
        for kind in found:
            Fields({name: kind}, f.architecture).choice(name, known, "layer type")
        return found
    return None
