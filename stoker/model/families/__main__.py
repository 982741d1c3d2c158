"""Writes docs/models.md from the table: `python -m stoker.model.families > docs/models.md`."""

from __future__ import annotations

from stoker.model.families import FAMILIES
from stoker.model.families.refused import REFUSED

HEAD = """\
# Models

This page is written by `python -m stoker.model.families > docs/models.md`; a test keeps it up to
date.

An architecture is the name in the `architectures` field of a model's config.json; where that is
missing, the language model that transformers has for the `model_type`. Each one here is
compared with transformers in float32 on a CPU: the same greedy tokens, and logits within 1e-4, on
random tiny models, with prompts cut into chunks, preempted, cached and past their windows
(`tests/model/test_families.py`), or with a plain model where transformers has none.

| architecture | models | what it takes |
| --- | --- | --- |
"""

TAIL = """
## Layers that differ

- `block_configs` (DeciLM, Llama-Nemotron): `n_heads_in_group` or `num_key_value_heads`, and
  `ffn_mult` or `intermediate_size` of each layer; `no_op` leaves attention or network out,
  `replace_with_linear` puts a linear map in its place. Windows with sink tokens and sparse weights
  are refused by name.
- `per_layer_config`, as transformers 5 saves it, for every architecture in the table but the
  wrapped ones: fields that differ in some layers, such as `num_key_value_heads`,
  `intermediate_size` and `sliding_window`; `skip` leaves out `attention` or `mlp`.

Keys and values are allocated for each layer by its own sizes. Llama-Nemotron's switch between
reasoning and chat is the system message, `detailed thinking on` or `off`: one in each chat, or
`--system "detailed thinking {{ column }}"` for rows of a job. A batch mixes both.

## Rotary embeddings

| type | what it does |
| --- | --- |
| default | frequencies of the base |
| linear | positions divided by a factor |
| llama3 | low frequencies divided by a factor, as Llama 3.1 |
| yarn | a ramp from low to high frequencies; `max_context` up to factor times the original |
| dynamic | a base that grows with the context; `max_context` up to factor times the original |
| longrope | a factor for each frequency; one set up to the original context, another beyond |
| proportional | the first frequencies of a whole head, the others 0 (Gemma 4) |

A key is rotated once, when it is cached, and prompts share cached keys. So the frequencies of
`dynamic` and `longrope` can't follow a sequence as it grows, as they do in transformers: there
`longrope` takes the short factors while a sequence has no more tokens than the original context and
the long ones beyond, and `dynamic` raises the base with the length. In Stoker `max_context` stands
in for the length of every sequence, short ones too:

| | `max_context` up to the original context | greater `max_context`, **the default** |
| --- | --- | --- |
| longrope | short factors; results of transformers | long factors; results of transformers \
for prompts longer than the original context, **other results for shorter ones** |
| dynamic | the base as it is; results of transformers | the base of `max_context` tokens; \
results of transformers for prompts of just that length, **other results for shorter ones** |

vLLM does alike: its longrope takes the long factors for all if `max_model_len` exceeds the original
context, and its dynamic base is that of the longest context, whatever `max_model_len` is. Where
prompts and answers fit into the original context (4,096 tokens for Phi-3.5 mini and Phi-4 mini),
`max_context=4096` gives the results of transformers.

## What is refused

- Quantised checkpoints, whatever the method; the message names it. float32, bfloat16, float16 and
  float64 are loaded.
- Adapters (a folder with adapter_config.json and no config.json): merge them into their base model
  first.
- Encoders, models of images or sound. Of the wrapped models in the table
  (`...ForConditionalGeneration`) the text model is loaded, for prompts of text.
- Remote code, always: `auto_map` in a config.json is not followed.
- A field with a value that nothing here implements, by name: Gemma with attention in
  both directions, GPT-2 with cross-attention.
"""


REASONS = """
Of the architectures that transformers {release} generates text with:

| architecture | why it is refused |
| --- | --- |
"""


def page() -> str:
    """The text of docs/models.md."""
    rows = (f"| {name} | {family.models} | {family.about} |\n" for name, family in FAMILIES.items())
    refused = (f"| {name} | {REFUSED[name]} |\n" for name in sorted(REFUSED, key=str.lower))
    return "".join((HEAD, *rows, TAIL, REASONS.format(release="5.24"), *refused))


if __name__ == "__main__":
    print(page(), end="")
