"""What was found of one thing. Filled in by the other files of this room, printed by the CLI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that serves, or could.

        attention, float32   C kernel, avx2: came with the package
        subject              found           why

    Attributes:
        subject: what it is about.
        found: what there is, or "none".
        why: the reason, if it needs one.
        advice: what would make it faster or possible, if anything would.
        facts: the same for programs, by name; JSON values without secrets.
    """

    subject: str
    found: str
    why: str = ""
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
