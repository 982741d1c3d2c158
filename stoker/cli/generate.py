"""`stoker generate`: answers one prompt, printing it as it comes."""

from __future__ import annotations

import argparse

from stoker.cli.inputs import template_kwargs
from stoker.cli.progress_options import engine_options
from stoker.cli.sampling import sampling_params
from stoker.errors import InvalidRequestError


def generate(args: argparse.Namespace) -> int:
    params = sampling_params(args, seed=args.seed)
    given = template_kwargs(args)
    from stoker.engine.text.chat_options import ChatOptions
    from stoker.llm.llm import LLM

    with LLM(args.model, **engine_options(args)) as llm:
        prompt = args.prompt
        if prompt and llm.text.has_chat_template and not args.raw:
            options = ChatOptions(template_kwargs=given)
            text, ids, _ = llm.text.encode_chat([{"role": "user", "content": prompt}], options)
            prompt = {"prompt": text, "prompt_token_ids": ids}
        elif given:
            raise InvalidRequestError(
                "--chat-template-kwargs needs a model with a chat template, and no --raw"
            )
        for piece in llm.stream(prompt, params):
            print(piece, end="", flush=True)
        print()
    return 0
