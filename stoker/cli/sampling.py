"""The sampling options of the commands, and the parameters they make.

Knows argparse and `SamplingParams`. Called by the commands.
"""

from __future__ import annotations

import argparse

from stoker.engine.params import SamplingParams
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


def sampling_params(
    args: argparse.Namespace, *, seed: int | None = None, logprobs: int | None = None
) -> SamplingParams:
    """The parameters that the options ask for.

    Raises:
        InvalidRequestError: a value is out of range, or has no effect beside the others.
    """
    given = {name: value for name in FILTERS if (value := getattr(args, name)) is not None}
    if given and args.temperature == 0:
        name = next(iter(given)).replace("_", "-")
        raise InvalidRequestError(
            f"--{name} has no effect at temperature 0, which takes the likeliest token; "
            "give --temperature as well"
        )
    return SamplingParams(
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        repetition_penalty=args.repetition_penalty,
        seed=seed,
        logprobs=logprobs,
        **given,
    )
