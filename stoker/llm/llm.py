"""`LLM`: calls and results with the names known from vLLM, over one `Session`.

Each call lives in a file of its own: generate_iter.py, stream.py, beam.py, pooled.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from typing import Any, NoReturn

from stoker.engine.engine import Engine
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import RequestOutput
from stoker.engine.setup.build import build_engine
from stoker.engine.text.chat_options import ChatOptions
from stoker.engine.text.tokenizer import Encoded, Prompt
from stoker.llm.beam import BeamSearchOutput, BeamSearchParams, search_all
from stoker.llm.generate_iter import generate_iter
from stoker.llm.pooled import PooledRequests
from stoker.llm.progress_bar import UseTqdm
from stoker.llm.prompts import (
    Params,
    Prompts,
    as_chats,
    as_list,
    as_tokens,
    each_named,
    encode_prompt,
    spread,
)
from stoker.llm.scoring import (
    ClassificationOutput,
    EmbeddingOutput,
    PoolingRequestOutput,
    ScoringOutput,
)
from stoker.llm.session import Session, refuse_pickling
from stoker.llm.stream import stream
from stoker.llm.vllm_options import engine_options

DEFAULT_MODEL = "stoker-tiny"


class LLM:
    """A model ready to answer prompts.

    Any number of threads may call it. Their calls take turns, a step at a time, and their
    requests share steps. It belongs to the process it was made in: after a fork it refuses.

    Args:
        model: a local folder, a shipped model's name, or a Hugging Face id.
        revision, token: for the hub.
        options: fields of `EngineOptions` (device, dtype, max_batch_tokens, seed, ...), by these
            names or by vLLM's (vllm_options.py).

    Attributes:
        plan: what the options came to on this machine (`print(llm.plan)`).
        budget: where a GPU's memory goes, line by line (`print(llm.budget)`); None on a CPU, and
            where the size of the cache was given.
        outliers: which columns of weights in llm_int8 were kept apart; None for other weights.

    Raises:
        ModelError: there is no such model, or it is incomplete or damaged.
        ConfigError: an option is unknown or out of range.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> None:
        asked = engine_options(str(model), options)
        built = build_engine(str(model), asked, revision=revision, token=token)
        self.plan = built.plan
        self.spec = built.spec
        self.text = built.text
        self.head = built.head
        self.budget = built.budget
        self.outliers = built.outliers
        self.session = Session(built.engine, built.plan.seed)
        self._pooled = PooledRequests(
            self.session, built.text, self.encode_prompt, built.head, built.embedding
        )

    @property
    def engine(self) -> Engine:
        """The engine, for those who look into it; raises StokerError once closed."""
        return self.session.engine

    def generate(
        self, prompts: Prompts, sampling_params: Params = None, *, use_tqdm: UseTqdm = False
    ) -> list[RequestOutput]:
        """Complete each prompt; results come in the order of the prompts.

        Args:
            prompts: a text, token ids (a list, an array or a tensor), a dict with "prompt",
                "prompt_token_ids", "prompt_embeds" or "prompt_parts" (prompt_vectors.py), or a
                list of these, which may be empty.
            sampling_params: one for all, or a list with one for each.
            use_tqdm: show a bar of the requests done; a function is called in place of tqdm.

        Raises:
            InvalidRequestError: a prompt or parameter cannot be served; nothing has been run.

        A request that fails on the way (in a logits processor, say) has the finish reason
        "error" and a message in its output's `error`; the others go on.
        """
        encoded = each_named(self.encode_prompt, as_list(prompts))
        return self._run(encoded, sampling_params, use_tqdm)

    def chat(
        self,
        messages: Seq[Mapping[str, Any]] | Seq[Seq[Mapping[str, Any]]],
        sampling_params: Params = None,
        *,
        tools: Seq[Any] | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        use_tqdm: UseTqdm = False,
    ) -> list[RequestOutput]:
        """Answer one chat (a list of messages) or several, through the model's chat template.

        Args:
            messages: in OpenAI's form or transformers': content is a text or a list of text parts,
                and an assistant's message may have `tool_calls` in its place.
            tools, chat_template, chat_template_kwargs, add_generation_prompt,
                continue_final_message: for the template of every chat; see `ChatOptions`.
            sampling_params, use_tqdm: as for `generate`.

        Raises:
            InvalidRequestError: a chat cannot be served, or an option has no effect; nothing has
                been run.
        """
        options = ChatOptions(
            tools,
            chat_template_kwargs or {},
            add_generation_prompt,
            continue_final_message,
            chat_template,
        )
        encoded = each_named(
            lambda named: self.text.encode_chat(named[1], options, named[0]), as_chats(messages)
        )
        return self._run(encoded, sampling_params, use_tqdm)

    def generate_iter(
        self,
        prompts: Iterable[Prompt],
        sampling_params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        ordered: bool = False,
        in_flight: int | None = None,
    ) -> Iterator[RequestOutput]:
        """Complete prompts from an iterable, such as a generator, which is read as needed.

        The outputs are those of `generate`, with the prompt's place in `RequestOutput.index`.
        Closing the iterator, or leaving its loop, ends what is running.

        Args:
            prompts: each in a form that `generate` takes.
            sampling_params: one for all, or an iterable with one for each, read alongside.
            ordered: yield in the order of the prompts; by default as they finish.
            in_flight: most prompts that have been read and not yielded; memory depends on it.
                None is four times `max_running`.

        Raises:
            InvalidRequestError: at the call, an argument is wrong. Later, a prompt cannot be
                served; what was read before it has been yielded by then. Exceptions from the
                iterable propagate in the same way.
        """
        if in_flight is None:
            in_flight = 4 * self.plan.max_running
        return generate_iter(
            self.session,
            self.encode_prompt,
            prompts,
            sampling_params,
            ordered=ordered,
            in_flight=in_flight,
        )

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Iterator[str]:
        """Yield the completion of one prompt, piece by piece as it is generated.

        Raises:
            InvalidRequestError: the prompt or a parameter cannot be served. What a stream of text
                has no place for (several completions, log-probabilities) is refused.
            StokerError: the completion failed on the way.
        """
        return stream(self.session, self.encode_prompt(prompt), sampling_params or SamplingParams())

    def beam_search(self, prompts: Prompts, params: BeamSearchParams) -> list[BeamSearchOutput]:
        """Find the likeliest continuations of each prompt; see `BeamSearchParams`.

        Raises:
            InvalidRequestError: a prompt cannot be served; nothing has been run.
        """
        ids = each_named(lambda one: as_tokens(self.encode_prompt(one)), as_list(prompts))
        return search_all(self.session, self.text, ids, params)

    def embed(
        self,
        prompts: Prompts,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        use_tqdm: UseTqdm = False,
    ) -> list[PoolingRequestOutput[EmbeddingOutput]]:
        """Embed each prompt: its hidden states after the final norm, pooled to one vector.

        Args:
            prompts, use_tqdm: as for `generate`.
            pooling: "last" (token), "mean" (of all tokens) or "cls" (the first token). None
                takes what a sentence-transformers folder says, else "last".
            normalize: scale to length 1. None takes what such a folder says, else True.

        Raises:
            InvalidRequestError: a prompt or a name cannot be served; nothing has been run.
        """
        return self._pooled.embed(prompts, pooling, normalize, use_tqdm)

    def classify(
        self, prompts: Prompts, *, use_tqdm: UseTqdm = False
    ) -> list[PoolingRequestOutput[ClassificationOutput]]:
        """Give the probability of each label, for a model with a classification head.

        Trailing padding ids are no part of a prompt: the head looks at the token before them.

        Raises:
            InvalidRequestError: the model has no labels, or just one value to give (`score`),
                or a prompt cannot be served; nothing has been run.
        """
        return self._pooled.classify(prompts, use_tqdm)

    def score(
        self, texts_1: Prompts, texts_2: Prompts | None = None, *, use_tqdm: UseTqdm = False
    ) -> list[PoolingRequestOutput[ScoringOutput]]:
        """Give a number for each text, or for each pair of texts.

        A model with a classification head of one label, such as a reward model, gives that
        label's value: of each text, or of each pair joined by its tokenizer. A model without
        such a head gives the cosine similarity of the embeddings of each pair. A single first
        text is paired with every second one.

        Raises:
            InvalidRequestError: the model has several labels, the lists don't match, or a text
                cannot be served; nothing has been run.
        """
        return self._pooled.score(texts_1, texts_2, use_tqdm)

    def encode_prompt(self, prompt: Prompt) -> Encoded:
        """Return the text (where there is one), token ids and vectors of a prompt in any form."""
        return encode_prompt(self.text, prompt)

    def get_tokenizer(self) -> Any:
        """Return the tokenizer of transformers that texts are encoded with.

        Raises:
            ModelError: the model's folder has none, or it cannot be read.
        """
        return self.text.tokenizer

    def close(self) -> None:
        """Give the memory back. The object can't be used afterwards; twice is fine."""
        self.session.close()
        gc.collect()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise refuse_pickling("an LLM")

    def _run(self, prompts: Seq[Encoded], params: Params, use_tqdm: UseTqdm) -> list[RequestOutput]:
        self.engine.require("generate")
        each = list(zip(prompts, spread(params, len(prompts)), strict=True))
        return self.session.run(
            lambda: [self.session.request(prompt, one) for prompt, one in each], use_tqdm=use_tqdm
        )
