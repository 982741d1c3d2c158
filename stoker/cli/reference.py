"""The reference of the command line, written from the parser: docs/cli.md.

python -m stoker.cli.reference > docs/cli.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from stoker.cli.main import build_parser

HEAD = """\
# Command line

Written by `python -m stoker.cli.reference > docs/cli.md`; do not edit.
"""


def reference() -> str:
    """The page."""
    parser = build_parser()
    lines = [HEAD, f"{parser.description}", *_options(parser)]
    for name, command, summary in _commands(parser):
        lines += [f"\n## stoker {name}\n", f"{summary[:1].upper()}{summary[1:]}.\n"]
        lines += ["```", _usage(f"stoker {name}", command), "```", *_options(command)]
    return "\n".join(lines) + "\n"


def _commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            for name, command in action.choices.items():
                yield name, command, helps[name]


def _usage(start: str, command: argparse.ArgumentParser) -> str:
    """The command with what it needs, in one line."""
    parts = [start]
    for action in command._actions:
        if not action.option_strings:
            name = _metavar(action)
            parts.append(f"[{name}]" if action.nargs in ("?", "*") else name)
        elif action.required:
            parts.append(f"{action.option_strings[0]} {_metavar(action)}")
    return " ".join([*parts, "[options]"])


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """A table of the arguments, then one for each named group of them."""
    plain = [*parser._positionals._group_actions, *parser._optionals._group_actions]
    lines = _table([one for one in plain if _shown(one)])
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if _shown(one)]
        if actions and group not in (parser._positionals, parser._optionals):
            title = group.title or "More"
            lines += [f"\n{title[:1].upper()}{title[1:]}:", *_table(actions)]
    return lines


def _table(actions: list[argparse.Action]) -> list[str]:
    rows = [f"| {_names(one)} | {_cell(_meaning(one))} |" for one in actions]
    return ["\n| argument | meaning |", "| --- | --- |", *rows] if rows else []


def _shown(action: argparse.Action) -> bool:
    if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
        return False
    return action.help is not argparse.SUPPRESS


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_metavar(action)}`"
    return ", ".join(f"`{_cell(one)}`" for one in _spelled(action))


def _spelled(action: argparse.Action) -> list[str]:
    """The ways to write an option, the last with its value."""
    names = list(action.option_strings)
    value = "" if action.nargs == 0 else _metavar(action)
    if action.nargs == "?":
        value = f"[{value}]"
    names[-1] = f"{names[-1]} {value}".strip()
    return names


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def _meaning(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "stoker"}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
