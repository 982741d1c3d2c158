"""Sampling parameters as other programs call them, and what serves in their place here."""

from __future__ import annotations

from stoker.errors import suggest

FORMS = "give json_schema, regex, grammar or choice in its place"
BEAMS = "it is of LLM.beam_search and its BeamSearchParams"
ELSEWHERE = {  # in vLLM, OpenAI's API and transformers
    "structured_outputs": FORMS,
    "guided_decoding": FORMS,
    "response_format": FORMS,
    "guided_json": "it is json_schema",
    "guided_regex": "it is regex",
    "guided_grammar": "it is grammar",
    "guided_choice": "it is choice",
    "max_new_tokens": "it is max_tokens",
    "max_completion_tokens": "it is max_tokens",
    "min_new_tokens": "it is min_tokens",
    "num_return_sequences": "it is n",
    "do_sample": "temperature=0 takes the likeliest token, more draws one",
    "repeat_penalty": "it is repetition_penalty",
    "stop_sequences": "it is stop",
    "eos_token_id": "it is stop_token_ids",
    "bad_words_ids": "it is bad_words, which takes lists of token ids too",
    "top_logprobs": "it is logprobs, a number",
    "use_beam_search": BEAMS,
    "length_penalty": BEAMS,
    "early_stopping": BEAMS,
    "truncate_prompt_tokens": "a prompt is never cut; pass the token ids of a part of it",
    "spaces_between_special_tokens": "spaces between tokens are as the tokenizer puts them",
    "detokenize": "outputs have token_ids beside the text; there is no need to switch that off",
    "output_kind": "LLM.generate gives whole outputs, AsyncLLM.generate what is new in each",
    "logprob_token_ids": "logprobs=k gives those of the k likeliest tokens",
    "priority": "policy of LLM orders the requests that wait",
}


def hint(name: str, known: list[str]) -> str:
    """Return what an unknown parameter `name` is called here, or a sentence with the nearest."""
    return ELSEWHERE.get(name) or suggest(name, known)
