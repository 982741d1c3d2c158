"""CTranslate2's generator: batches of prompts of similar length, the best size of those tried.

It forwards a batch's prompts at once up to the shortest, and the rest of the longer ones token
by token, so prompts are sorted by length (its documentation says so of `generate_batch`). A
callback ends each request at its own length, which takes it out of the batch. A prefix common
to all goes in as its `static_prompt`, which it computes once and keeps; each run begins the
prefix with another token, so that none profits from the run before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workloads import WORK, Outputs, Run, Workload

BATCH = 16


def make(folder: Path, threads: int, work: str, batch: int = BATCH) -> Run:
    import ctranslate2

    shared = WORK[work].shared
    generator = ctranslate2.Generator(
        str(_converted(folder)),
        device="cpu",
        compute_type="float32",
        inter_threads=1,
        intra_threads=threads,
    )

    first_token = [0]

    def generate(group: Workload) -> Outputs:
        counts = [0] * len(group)

        def ended(result: Any) -> bool:
            counts[result.batch_id] += 1
            return counts[result.batch_id] >= group[result.batch_id][1]

        longest = max(count for _, count in group)
        results = generator.generate_batch(
            [_words(prompt[shared:]) for prompt, _ in group],
            max_length=longest,
            min_length=longest,  # bars the end of sequence
            static_prompt=_words([first_token[0], *group[0][0][1:shared]]) if shared else None,
            include_prompt_in_result=False,
            callback=ended,
        )
        return [list(result.sequences_ids[0]) for result in results]

    def run(load: Workload) -> Outputs:
        first_token[0] += 1
        order = sorted(range(len(load)), key=lambda number: len(load[number][0]))
        outputs: dict[int, list[int]] = {}
        for at in range(0, len(load), batch):
            numbers = order[at : at + batch]
            outputs |= zip(numbers, generate([load[number] for number in numbers]), strict=True)
        return [outputs[number] for number in range(len(load))]

    return run


def _words(ids: list[int]) -> list[str]:
    return [f"t{token}" for token in ids]


def _converted(folder: Path) -> Path:
    """The model in CTranslate2's format, made if it is not there yet."""
    from ctranslate2.converters import TransformersConverter

    converted = folder / "ctranslate2"
    if not converted.exists():
        source = folder / "ctranslate2-source"  # the others must not find the tokenizer
        source.mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (source / name).symlink_to(folder / name)
        _make_tokenizer(source)
        TransformersConverter(str(source)).convert(str(converted))
    return converted


def _make_tokenizer(folder: Path) -> None:
    """A tokenizer of one word for each id, since the converter asks for one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    words = {f"t{token}": token for token in range(vocab)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="t0")),
        unk_token="t0",
        bos_token="t0",
        eos_token="t0",
    )
    tokenizer.save_pretrained(folder)
