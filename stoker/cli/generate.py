"""`stoker generate`: answers one prompt, printing it as it comes."""

from __future__ import annotations

import argparse

from stoker.cli.progress_options import engine_options
from stoker.cli.sampling import sampling_params


def generate(args: argparse.Namespace) -> int:
    params = sampling_params(args, seed=args.seed)
    from stoker.llm.llm import LLM

    with LLM(args.model, **engine_options(args)) as llm:
        prompt = args.prompt
        if prompt and llm.text.has_chat_template and not args.raw:
            text, ids, _ = llm.text.encode_chat([{"role": "user", "content": prompt}])
            prompt = {"prompt": text, "prompt_token_ids": ids}
        for piece in llm.stream(prompt, params):
            print(piece, end="", flush=True)
        print()
    return 0
