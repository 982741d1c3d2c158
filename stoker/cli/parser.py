"""The parser of the command line: argparse, with messages of one line that say what to do.

Knows no command. Called by main.py.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence as Seq
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong and where help is, instead of listing every option; an unknown option is
    told with the one it is nearest to."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what can be given\n")

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for namespaces
        self, args: Seq[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = next((one for one in unknown if one.startswith("-")), unknown[0])
            near = difflib.get_close_matches(name.split("=")[0], self._option_string_actions, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unknown argument {name}{hint}")
        return found, unknown
