"""Reads a Hugging Face config.json: fields by name, checked for their type.

A field that is null counts as absent, except for `default_or_null`. Every complaint is a
`ModelError` that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from stoker.errors import ModelError, short, suggest

REQUIRED: Any = object()
LARGEST = 2**31 - 1  # of sizes: kernels and PyTorch count in integers of 32 and 64 bits
MOST_LAYERS = 1_000  # what is made for each layer would fill the memory, if a config were damaged


class Fields:
    """The fields of a config, or of an object inside it.

    Attributes:
        path: what stands before the names of fields in complaints, as "block_configs[3].".
        read: the names of the fields that were asked for.
    """

    def __init__(self, values: Mapping[str, Any], architecture: str, path: str = "") -> None:
        self.values = {name: value for name, value in values.items() if value is not None}
        self.nulls = {name for name, value in values.items() if value is None}
        self.architecture = architecture
        self.path = path
        self.read: set[str] = set()

    def named(self, name: str) -> str:
        """A field as complaints call it."""
        return f"{self.path}{name} in config.json"

    def _get(self, name: str, default: Any) -> Any:
        self.read.add(name)
        if name in self.values:
            return self.values[name]
        if default is REQUIRED:
            raise ModelError(
                f"config.json of {self.architecture} lacks the field {self.path + name!r}"
            )
        return default

    def size(self, name: str, default: Any = REQUIRED, most: int = LARGEST) -> int:
        """A whole number from 1 to `most`."""
        value = self._get(name, default)
        if name in self.values:
            if type(value) is not int or value < 1:
                raise ModelError(f"{self.named(name)} must be a whole number, not {short(value)}")
            if value > most:
                raise ModelError(f"{self.named(name)} must be at most {most:,}, not {short(value)}")
        return value  # type: ignore[no-any-return]

    def layers(self, name: str = "num_hidden_layers") -> int:
        """The number of layers."""
        return self.size(name, most=MOST_LAYERS)

    def number(
        self,
        name: str,
        default: Any = REQUIRED,
        above: float = -math.inf,
        most: float = math.inf,
    ) -> float:
        """A finite number greater than `above` and no more than `most`."""
        value = self._get(name, default)
        if name in self.values and not is_finite(value):
            raise ModelError(f"{self.named(name)} must be a number, not {short(value)}")
        if value is not None and not value > above:
            raise ModelError(f"{self.named(name)} must be greater than {above:g}, not {value!r}")
        if value is not None and value > most:
            raise ModelError(f"{self.named(name)} must be at most {most:g}, not {value!r}")
        return value  # type: ignore[no-any-return]

    def default_or_null(self, name: str, default: Any) -> Any:
        """The default of a field for which null means none: None if it is null."""
        return None if name in self.nulls else default

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._get(name, default)
        if type(value) is not bool:
            raise ModelError(f"{self.named(name)} must be true or false, not {short(value)}")
        return value

    def items(self, name: str, count: int | None = None) -> list[Any] | None:
        """A list, of `count` entries if that is given; None if absent."""
        value = self._get(name, None)
        if value is None:
            return None
        if not isinstance(value, list):
            raise ModelError(f"{self.named(name)} must be a list, not {short(value)}")
        if count is not None and len(value) != count:
            raise ModelError(f"{self.named(name)} has {len(value)} entries for {count} layers")
        return value

    def words(
        self, name: str, known: Iterable[str], what: str, count: int | None = None
    ) -> list[str] | None:
        """A list of `known` words, as `choice`; of `count` entries if that is given."""
        values, known = self.items(name, count), list(known)
        for value in values or []:
            Fields({name: value}, self.architecture, self.path).choice(name, known, what)
        return values

    def indices(self, name: str) -> list[int] | None:
        """A list of numbers of layers, counted from 0; None if absent."""
        values = self.items(name)
        for value in values or []:
            if type(value) is not int:
                raise ModelError(
                    f"{self.named(name)} must hold numbers of layers, not {short(value)}"
                )
        return values

    def factors(self, name: str, count: int) -> tuple[float, ...]:
        """A list of `count` numbers greater than 0."""
        value = self._get(name, REQUIRED)
        if not isinstance(value, list) or len(value) != count or not all(map(is_finite, value)):
            raise ModelError(f"{self.named(name)} must be a list of {count} numbers")
        if not all(one > 0 for one in value):
            raise ModelError(f"{self.named(name)} must hold numbers greater than 0")
        return tuple(float(one) for one in value)

    def within(self, name: str) -> Fields:
        """The object in a field; one without fields if absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise ModelError(f"{self.named(name)} must be an object, not {short(value)}")
        return Fields(value, self.architecture, f"{self.path}{name}." if self.path else "")

    def choice(self, name: str, known: Iterable[str], what: str, default: Any = REQUIRED) -> str:
        """One of the `known` words; `what` names the kind of thing it is."""
        value = self._get(name, default)
        if value not in (known := list(known)):
            raise ModelError(
                f"{self.named(name)}: {what} {short(value)} is not supported; "
                f"{suggest(value if isinstance(value, str) else '', known)}"
            )
        return value  # type: ignore[no-any-return]

    def insist(self, name: str, wanted: Any, default: Any) -> None:
        """Refuse any value but `wanted` of a field that nothing here implements."""
        value = self._get(name, default)
        if value != wanted:
            raise ModelError(
                f"{name}={short(value)} in config.json of {self.architecture} is not supported; "
                f"only {wanted!r} is"
            )


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
