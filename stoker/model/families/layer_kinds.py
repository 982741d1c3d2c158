"""The types of a hybrid's layers, by the fields and in the words of its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        given = f.items(name)
        if given is not None:
            found = [_OLD_TYPES.get(one, one) if isinstance(one, str) else one for one in given]
            return Fields({name: found}, f.architecture).words(name, known, "layer type", count)
    return None


def attention_layers(f: Fields, otherwise: Callable[[int], bool]) -> list[bool]:
    """Whether each layer is attention: by layer_types, or else by `otherwise` of its index."""
    count = f.layers()
    kinds = f.words("layer_types", (ATTENDS, STATE), "layer type", count)
    if kinds is None:
        return [otherwise(index) for index in range(count)]
    return [kind == ATTENDS for kind in kinds]
