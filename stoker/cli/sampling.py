"""The sampling options of the commands, and the parameters they make.

Knows argparse and `SamplingParams`. Called by the commands.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError

FILTERS = ("top_k", "top_p", "min_p")


def add_sampling(command: argparse.ArgumentParser) -> None:
    """Add the options that say how tokens are drawn."""
    add = command.add_argument
    add(
        "--max-tokens",
        type=int,
        default=256,
        metavar="N",
        help="most tokens per answer (default: %(default)s)",
    )
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token; more is more varied (default: %(default)s)",
    )
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the fewest likeliest tokens whose probability reaches P",
    )
    add(
        "--min-p",
        type=float,
        metavar="P",
        help="draw from the tokens at least P times as likely as the likeliest",
    )
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="more than 1 makes tokens of prompt and answer less likely (default: %(default)s)",
    )
    form = command.add_argument_group("the form of answers (one of these)")
    form = form.add_mutually_exclusive_group()
    form.add_argument(
        "--schema", metavar="FILE", help="answers are JSON that follows this JSON schema"
    )
    form.add_argument(
        "--regex", metavar="R", help="answers match this regular expression as a whole"
    )
    form.add_argument(
        "--grammar", metavar="FILE", help="answers follow this grammar (Lark or GBNF)"
    )
    form.add_argument("--choice", metavar="A,B,...", help="answers are one of these texts")


def _form(args: argparse.Namespace) -> dict[str, Any]:
    """The options about the form of answers, as keywords of `SamplingParams`."""
    found: dict[str, Any] = {}
    if args.schema is not None:
        found["json_schema"] = _read("--schema", args.schema)
    if args.regex is not None:
        found["regex"] = args.regex
    if args.grammar is not None:
        found["grammar"] = _read("--grammar", args.grammar)
    if args.choice is not None:
        found["choice"] = [text.strip() for text in args.choice.split(",")]
    return found


def _read(option: str, name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise InvalidRequestError(f"{option} {name}: {problem.strerror}; check the path") from None
    except UnicodeDecodeError as problem:
        raise InvalidRequestError(f"{option} {name} is not UTF-8: {problem}") from None


def sampling_params(
    args: argparse.Namespace, *, seed: int | None = None, logprobs: int | None = None
) -> SamplingParams:
    """The parameters that the options ask for.

    Raises:
        InvalidRequestError: a value is out of range, or has no effect beside the others.
    """
    given = {name: value for name in FILTERS if (value := getattr(args, name)) is not None}
    form = _form(args)
    try:
        params = SamplingParams(
            temperature=args.temperature,
            max_tokens=args.max_tokens,
            repetition_penalty=args.repetition_penalty,
            seed=seed,
            logprobs=logprobs,
            **given,
            **form,
        )
    except InvalidRequestError as problem:
        for option, name in (("json_schema", args.schema), ("grammar", args.grammar)):
            if name is not None and str(problem).startswith(option):  # so it is in the file
                raise InvalidRequestError(f"{name}: {problem}") from None
        raise
    if given and params.greedy:
        name = next(iter(given)).replace("_", "-")
        raise InvalidRequestError(
            f"--{name} has no effect at temperature 0, which takes the likeliest token; "
            "give --temperature as well"
        )
    return params
