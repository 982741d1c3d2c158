"""The `stoker` command: reads arguments, calls the face that does the work, prints.

Imports no torch until a command runs, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator
from collections.abc import Sequence as Seq

from stoker import __version__
from stoker.cli.doctor import add_doctor, doctor
from stoker.cli.experts import add_experts, experts
from stoker.cli.inputs import (
    add_chat,
    add_inputs,
    add_order,
    add_samples,
    add_template_kwargs,
)
from stoker.cli.inspect import add_inspect
from stoker.cli.output_options import add_keeping
from stoker.cli.parser import Parser
from stoker.cli.progress_options import add_expect, add_watching
from stoker.cli.sampling import add_sampling
from stoker.cli.streams import prepare_streams
from stoker.config import DTYPES, KV_DTYPES, QUANTIZATIONS, SHORT_FORMS, EngineOptions
from stoker.engine.request.pooling import POOLINGS
from stoker.errors import StokerError
from stoker.job.interrupt import sigterm_interrupts
from stoker.ops.native.build import start_build

INTERRUPTED = 130

# Allocations between two garbage collections. Imports and requests create hardly any cycles;
# with Python's default of 700, collections take 0.15 s of the start.
_ALLOCATIONS = 50_000


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="stoker", description="Run large language models over piles of prompts.")
    parser.add_argument("--version", action="version", version=f"stoker {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a model over a file of prompts")
    embed = commands.add_parser("embed", help="make an embedding of each row of a file")
    for command in (run, embed):
        _add_files(command)
        add_inputs(command)
        add_order(command)
        add_watching(command)
    add_chat(run)
    add_samples(run)
    add_expect(run)
    run.add_argument(
        "--replicas",
        default="1",
        metavar="N",
        help="engines that share the work, each on cores of its own; auto is one for each of "
        "the machine's memory nodes (default: %(default)s)",
    )
    embed.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="take the last token's state, the mean of all, or the first token's "
        "(default: what the model's folder says, else last)",
    )
    embed.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale to length 1 (default: what the model's folder says, else yes)",
    )
    run.add_argument(
        "--logprobs",
        type=int,
        metavar="K",
        help="add each token's log-probability to the results, and those of the K likeliest",
    )

    generate = commands.add_parser("generate", help="answer one prompt")
    generate.add_argument("prompt", metavar="TEXT", help="what to answer")

    for command in (run, generate):
        _add_seed_and_raw(command)
        add_template_kwargs(command)
        add_sampling(command)
    for command in (run, embed, generate):
        _add_model(command)
    add_doctor(
        commands.add_parser(
            "doctor", help="print what serves what on this machine, and what would make it faster"
        )
    )
    add_inspect(
        commands.add_parser("inspect", help="look at an earlier run again, or at two side by side")
    )
    add_experts(
        commands.add_parser(
            "experts", help="count the tokens of a file that go to each of a model's experts"
        )
    )
    return parser


def _add_files(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "input",
        metavar="INPUT",
        help="JSON Lines, JSON, CSV, TSV, Parquet, Arrow, text, a folder of these, or - for "
        "standard input; .gz and .zst too",
    )
    command.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUTPUT",
        help="JSON Lines to write, or what the name says: .csv, .tsv, .parquet, all but the last "
        "also with .gz or .zst; - is standard output; the same command again continues what was "
        "interrupted",
    )
    add_keeping(command)


def _add_seed_and_raw(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of all randomness (default: %(default)s)"
    )
    command.add_argument(
        "--raw", action="store_true", help="complete the prompt as it is, without a chat template"
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-m",
        "--model",
        default="stoker-tiny",
        help="a model folder, a Hugging Face id, or a shipped model (default: %(default)s)",
    )
    command.add_argument(
        "--dtype",
        default="auto",
        choices=(*DTYPES, *SHORT_FORMS),
        help="of the arithmetic; int8 and fp8 are short for that --quantization "
        "(default: %(default)s, float32 on a CPU)",
    )
    command.add_argument(
        "--quantization",
        default="auto",
        choices=QUANTIZATIONS,
        help="how weights are stored; int8 is the fastest on a CPU (default: %(default)s, as the "
        "checkpoint has them)",
    )
    command.add_argument(
        "--expert-mask",
        metavar="FILE",
        help="load only the experts of a mixture that FILE names, as stoker experts --keep writes "
        "it",
    )
    command.add_argument(
        "--active-experts",
        type=active_experts,
        metavar="N",
        help="experts that a token takes: their average over the layers (1.5), or a number for "
        "each layer (2,1,2) (default: the model's own)",
    )
    command.add_argument(
        "--kv-dtype",
        default="auto",
        choices=KV_DTYPES,
        help="of cached keys and values; fp8 holds twice as many tokens on a GPU, and changes "
        "results a little (default: %(default)s, that of the arithmetic)",
    )
    command.add_argument(
        "--device", default=EngineOptions.device, metavar="D", help="cpu or cuda (default: cpu)"
    )
    command.add_argument(
        "--gpu-memory",
        type=float,
        metavar="SHARE",
        help="of a GPU's memory, the share that may be in use (default: 0.9)",
    )
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the arithmetic, of each engine (default: OMP_NUM_THREADS if it is set, "
        "else the physical cores this process may use)",
    )
    command.add_argument("--debug", action="store_true", help="show tracebacks of errors")


def active_experts(text: str) -> float | tuple[int, ...]:
    """The value of --active-experts: an average, or numbers with commas between."""
    if "," in text:
        return tuple(int(part) for part in text.split(","))
    return float(text)


def _carry_out(args: argparse.Namespace) -> int:
    if args.command == "run":
        from stoker.cli.run import run

        return run(args)
    if args.command == "embed":
        from stoker.cli.embed import embed

        return embed(args)
    if args.command == "doctor":
        return doctor(args)
    if args.command == "experts":
        return experts(args)
    if args.command == "inspect":
        from stoker.cli.inspect import inspect

        return inspect(args)
    from stoker.cli.generate import generate

    return generate(args)


@contextlib.contextmanager
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """Let errors alone be logged while a command runs that is to be quiet."""
    log = logging.getLogger("stoker")
    before = log.level
    if getattr(args, "quiet", False):
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def main(argv: Seq[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0 all well, 1 the command failed, 2 wrong
    usage, 3 some rows failed, 130 interrupted."""
    prepare_streams()
    args = build_parser().parse_args(argv)
    gc.set_threshold(_ALLOCATIONS)
    try:
        with _logging(args), sigterm_interrupts():
            # the compiler works while torch is imported
            if args.command not in ("inspect", "doctor"):
                start_build(args.device, args.dtype, args.quantization)
            return _carry_out(args)
    except StokerError as problem:
        if args.debug:
            raise
        print(f"stoker: {problem}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("stoker: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
