"""The options that say what goes into a job: format, prompts, and which rows.

Knows argparse, and what the options make. Called by `run` and `embed`.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from stoker.config import POLICIES, EngineOptions
from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError

FORMATS = ("auto", "jsonl", "json", "csv", "tsv", "text", "parquet", "arrow")


def add_inputs(command: argparse.ArgumentParser) -> None:
    """Add the options of every job."""
    add = command.add_argument_group("input").add_argument
    add(
        "--format",
        choices=FORMATS,
        default="auto",
        help="of INPUT (default: told by its content and extension)",
    )
    add(
        "--delimiter",
        metavar="D",
        help="between the values of a CSV, a character or comma, semicolon, tab, bar or space "
        "(default: what its first line says, or its header has most of)",
    )
    add(
        "--prompt",
        metavar="TEMPLATE",
        help="make the prompt of a row's columns, as in 'Translate to French: {{ text }}' (Jinja)",
    )
    add("--prompt-file", metavar="FILE", help="the same, from a file")
    add(
        "--sample",
        type=int,
        metavar="N",
        help="run N rows only, drawn at random by the seed",
    )
    add(
        "--shard",
        metavar="I/N",
        help="run the I-th of N equal blocks of rows only, so that N machines share the file",
    )


def add_order(command: argparse.ArgumentParser) -> None:
    """Add the options that say which rows run together."""
    add = command.add_argument_group("which rows run first").add_argument
    add(
        "--policy",
        choices=POLICIES,
        default=EngineOptions.policy,
        help="fcfs: as they stand in INPUT; prefix: rows with a common beginning of the prompt one "
        "after the other, so that it is computed once (default: %(default)s)",
    )
    add(
        "--read-ahead",
        type=int,
        metavar="N",
        help="rows that are read before the first one runs, and that the policy knows from then "
        "on; as many as INPUT has finds all common beginnings (default: four times the rows that "
        "run at once, without waiting for them)",
    )


def add_chat(command: argparse.ArgumentParser) -> None:
    """Add the options of what goes before a prompt."""
    add = command.add_argument_group("chat").add_argument
    add("--system", metavar="TEMPLATE", help="a system message; may refer to columns too")
    add(
        "--examples",
        metavar="FILE",
        help="rows with answers, shown to the model before each prompt",
    )
    add(
        "--answer-column",
        default="answer",
        metavar="NAME",
        help="of the examples' answers (default: %(default)s)",
    )


def add_template_kwargs(command: argparse.ArgumentParser) -> None:
    """Add the variables of the chat template."""
    command.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help="""variables of the model's chat template, as in '{"enable_thinking": false}'""",
    )


def template_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """The variables that the option gives the chat template.

    Raises:
        InvalidRequestError: they are no JSON object.
    """
    from stoker.job.chat_columns import EXAMPLE
    from stoker.job.overrides import as_object

    given = getattr(args, "chat_template_kwargs", None)
    return {} if given is None else as_object(given, "--chat-template-kwargs", EXAMPLE)


def add_samples(command: argparse.ArgumentParser) -> None:
    """Add the number of answers and the parameters that have no option."""
    command.add_argument(
        "--num-samples",
        type=int,
        default=1,
        metavar="N",
        help="answers to each row (default: %(default)s)",
    )
    command.add_argument(
        "--sampling",
        metavar="JSON",
        help="""any sampling parameters, as in '{"stop": ["\\n"], "presence_penalty": 0.5}'""",
    )


def input_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `JobSettings` that the options make.

    Raises:
        InvalidRequestError: two options contradict each other.
        JobError: a file can't be read, or an option has the wrong form.
    """
    from stoker.job.prompts import PromptSettings, read_examples, read_template
    from stoker.job.sources import Shard, parse_delimiter

    if args.prompt is not None and args.prompt_file is not None:
        raise InvalidRequestError("--prompt and --prompt-file are two prompts; leave one out")
    if args.prompt_file is not None:
        prompts = PromptSettings(read_template(args.prompt_file), args.prompt_file)
    else:
        prompts = PromptSettings(args.prompt)
    prompts = dataclasses.replace(
        prompts, system=getattr(args, "system", None), chat_template_kwargs=template_kwargs(args)
    )
    if getattr(args, "examples", None) is not None:
        examples = read_examples(args.examples, prompts, args.answer_column)
        prompts = dataclasses.replace(prompts, examples=examples)
    return {
        "format": args.format,
        "delimiter": args.delimiter and parse_delimiter(args.delimiter),
        "prompts": prompts,
        "read_ahead": args.read_ahead,
        "sample": args.sample,
        "shard": None if args.shard is None else Shard.parse(args.shard),
    }


def with_samples(args: argparse.Namespace, params: SamplingParams) -> SamplingParams:
    """The parameters with those of `--sampling` and `--num-samples`.

    Raises:
        InvalidRequestError: one is unknown or out of range, or the samples would be the same.
    """
    from stoker.job.overrides import Overrides

    params = Overrides(params).apply(args.sampling, "--sampling")
    if args.num_samples != 1:
        params = dataclasses.replace(params, n=args.num_samples)
    if params.n > 1 and params.greedy:
        raise InvalidRequestError(
            f"--num-samples {params.n} at temperature 0 would give the same answer {params.n} "
            "times; give --temperature as well"
        )
    return params
