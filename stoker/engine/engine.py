"""Requests in, steps of the loop, and text out.

Joins the loop of steps with the requests under way and the detokenizer. The faces drive it: `LLM`
in the caller's thread, `AsyncLLM` in a thread of its own, jobs through `LLM`.
"""

from __future__ import annotations

import collections
import functools

from stoker.engine.active_request import ActiveRequest
from stoker.engine.execution.pending_step import Runner
from stoker.engine.execution.pooler import PoolState
from stoker.engine.execution.step_vectors import StepVectors, step_vectors
from stoker.engine.loop import EngineStats, Loop
from stoker.engine.request.constraint import Constraint
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import require
from stoker.engine.request.request import CompletionOutput, Request, RequestOutput
from stoker.engine.request.vectors import PromptVectors
from stoker.engine.sampling.grammar import Grammar, GrammarCompiler, make_compiler
from stoker.engine.sampling.grammar_masks import begin_masks
from stoker.engine.sampling.rules import Rules, make_rules
from stoker.engine.sampling.sampler import SamplingBatch
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.sequence import Sequence, Status
from stoker.engine.scheduling.step import Step
from stoker.engine.text.detokenizer import Detokenizer, Tokenizer, TokenTexts
from stoker.engine.text.token_windows import DecodedTokens
from stoker.errors import InvalidRequestError


class Engine:
    """Runs requests to their ends, a step at a time.

    Args:
        scheduler: plans the steps.
        runner: computes them.
        tokenizer: turns ids to text; None leaves texts empty and refuses stop strings.
        vocab: token ids must be below it.
        record: keep every step, for a trace.
        overlap: launch a step before the tokens of the one before it are known.
        tasks: what the model can do: "generate", "embed", "classify".
        vector_width: of vectors in prompts; None: prompts have none.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        tokenizer: Tokenizer | None,
        vocab: int,
        record: bool = False,
        tasks: tuple[str, ...] = ("generate", "embed"),
        overlap: bool = False,
        vector_width: int | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.tokenizer = tokenizer
        self.vocab = vocab
        self.tasks = tasks
        self.vector_width = vector_width
        self.stats = EngineStats()
        self.loop = Loop(scheduler, runner, self.stats, overlap, record)
        self._live: dict[str, ActiveRequest] = {}
        self._compiler: GrammarCompiler | None = None
        self._had_vectors = False  # some prompt had

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: it can't be served; the engine is unchanged.
        """
        if request.id in self._live:
            raise InvalidRequestError(f"request id {request.id!r} is in use")
        params = request.params
        self.require(request.pooling.task if request.pooling else "generate")
        # C speed over what may be a million ids; the slow search names the culprit
        ids = request.prompt_tokens
        if ids and (max(ids) >= self.vocab or min(ids) < 0):
            bad = next(token for token in ids if not 0 <= token < self.vocab)
            raise InvalidRequestError(
                f"token id {bad} is out of range; the model has ids 0 to {self.vocab - 1}"
            )
        if request.vectors is not None:
            self._check_vectors(request.vectors, params)
        rules = self.check(params)
        try:
            seq = self.scheduler.add(request)
            # controls may depend on tokens before the drawn one, of which drafts are not certain
            seq.draftable &= rules is None
            live = ActiveRequest.make(request, rules, seq)
            live.pool = PoolState(request.pooling, seq.prompt_len) if request.pooling else None
            self._live[request.id] = live
        except InvalidRequestError:
            raise
        except BaseException:  # an interruption (Ctrl-C): what was added by half must not stay
            self._take_back()
            raise
        self.stats.prompt_tokens += len(request.prompt_token_ids)

    def _take_back(self) -> None:
        """Drop the sequences of requests that were not added whole."""
        for seq in self.scheduler.sequences():
            if seq.request.id not in self._live:
                self.scheduler.cancel(seq)

    def _check_vectors(self, vectors: PromptVectors, params: SamplingParams) -> None:
        if vectors.width != self.vector_width:
            right = f"(tokens, {self.vector_width})" if self.vector_width else "token ids alone"
            raise InvalidRequestError(
                f"the prompt's vectors have a width of {vectors.width}; the model takes {right}"
            )
        if params.prompt_logprobs is not None:
            raise InvalidRequestError(
                "prompt_logprobs is for prompts of tokens, and this one has vectors, which have "
                "no probability; leave it out"
            )
        self._had_vectors = True

    def check(self, params: SamplingParams) -> Rules | None:
        """The rules of requests with these parameters, which are checked against the model.

        A job calls this before its first row.

        Raises:
            InvalidRequestError: the model can't serve them, or a constraint does not compile.
        """
        if params.stop_strings and self.tokenizer is None:
            raise InvalidRequestError("stop strings need a tokenizer, and the engine has none")
        eos_ids = self.scheduler.eos_ids
        return make_rules(params, self.vocab, eos_ids, self.tokenizer, self._compile)

    def _compile(self, constraint: Constraint) -> Grammar:
        """A constraint, compiled when first met."""
        if self._compiler is None:
            self._compiler = make_compiler(self.tokenizer, self.vocab, self.scheduler.eos_ids)
        return self._compiler.compile(constraint)

    def require(self, task: str) -> None:
        """Raise InvalidRequestError if the model can't "generate", "embed" or "classify"."""
        require(task, self.tasks)

    def cancel(self, request_id: str) -> RequestOutput | None:
        """End a request between steps; returns what it has, or None if it is not here."""
        live = self._live.pop(request_id, None)
        if live is None:
            return None
        for seq in live.sequences.values():
            self.scheduler.cancel(seq)
        for one in live.output.outputs:
            if one.finish_reason is None:
                one.text = self._decode(live, one)
                one.finish_reason = "cancelled"
                live.judge(one)
        live.finish()
        self._settle()
        return live.output

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def step(self) -> list[RequestOutput]:
        """Take in the tokens of one step. Returns finished requests, and streaming ones that
        advanced.

        If memory runs out, the step is undone and the next ones are smaller. If it fails
        otherwise or is interrupted, all requests are dropped, so that the engine can go on
        with new ones, and the exception is passed on.
        """
        try:
            outputs = self._collect(self.loop.turn(self._prepare))
            self._settle()
        except BaseException:
            self.abort_all()
            raise
        return outputs

    def _settle(self) -> None:
        """Leave nothing under way where there is nothing to do."""
        if not self.has_work:
            self.loop.discard()

    def abort_all(self) -> None:
        """Drop every request and all cached content."""
        self._live.clear()
        self.scheduler.reset()
        self.loop.discard()

    def _prepare(self, step: Step) -> tuple[SamplingBatch, list[PoolState], StepVectors | None]:
        """What the runner needs beside the step."""
        pools, draws = self._pools(step), self._draws(step)
        answers = [row.grammar for row in draws.controls.values() if row.grammar is not None]
        if answers:
            begin_masks([state for state in answers if state.mask is None])  # at their first tokens
        vectors = step_vectors(step, self._vectors_of) if self._had_vectors else None
        return draws, pools, vectors

    def _vectors_of(self, serial: int) -> PromptVectors | None:
        return self.scheduler[serial].request.vectors

    def _draws(self, step: Step) -> SamplingBatch:
        batch = SamplingBatch()
        for item in step.items:
            request = self.scheduler[item.sequence].request
            live = self._live[request.id]
            if not live.begun:
                live.begin()
            if item.scored[1]:
                batch.scores.append(live.score_range(item.start, item.scored))
            if not item.draws:
                continue
            for index in item.draws:
                if live.rules is not None:
                    batch.controls[len(batch)] = live.control(live.rules, index)
                batch.settings.append(live.settings[index])
            batch.settings.extend(batch.settings[-1:] * item.verify)
        return batch

    def _pools(self, step: Step) -> list[PoolState]:
        """The pooled requests' states, one for each item that wants some."""
        found = []
        for item in step.items:
            if item.states[1]:
                pool = self._live[self.scheduler[item.sequence].request.id].pool
                assert pool is not None
                found.append(pool)
        return found

    def _take(self, advanced: list[Sequence]) -> None:
        """Add the tokens that sequences got to their completions."""
        accepted = self.scheduler.accepted
        for seq in advanced:
            live = self._live[seq.request.id]
            if live.pool is not None:
                continue
            live.sequences[seq.index] = seq
            out = live.output.outputs[seq.index]
            if live.rules is None:
                if accepted:
                    out.token_ids += seq.tokens[-self._num_new(seq) :]
                else:
                    out.token_ids.append(seq.tokens[-1])
                continue
            row = live.take_draw(out, seq.tokens[-1], self.token_texts)
            if row.error is not None:
                self.scheduler.finish(seq, "error")
                self.stats.output_tokens -= 1
            elif row.grammar is not None and row.grammar.ended:
                out.error = row.grammar.error
                self.scheduler.finish(seq, "error" if out.error else "stop")

    def _num_new(self, seq: Sequence) -> int:
        """How many tokens the last step gave to `seq`."""
        return 1 + self.scheduler.accepted.get(seq.serial, 0)

    def _collect(self, advanced: list[Sequence]) -> list[RequestOutput]:
        """Bring the outputs up to date with the sequences that got a token."""
        self._take(advanced)
        touched: dict[str, ActiveRequest] = collections.OrderedDict()
        for seq in advanced:
            live = self._live[seq.request.id]
            if live.pool is not None:
                live.output.vector = live.pool.vector
                live.output.num_cached_tokens = seq.num_cached_tokens
                touched[live.request.id] = live
                continue
            out = live.output.outputs[seq.index]
            if live.scores is not None:
                live.show_prompt_scores(self.token_texts)
            if live.needs_text and out.error is None:
                self._advance_text(live, seq, out)
            if seq.status is Status.FINISHED:
                out.text = self._decode(live, out)
                stopped = out.index in live.detokenizers and live.detokenizers[out.index].stopped
                out.finish_reason = "stop" if stopped else seq.finish_reason
                live.judge(out)
                if seq.index == 0:
                    live.output.num_cached_tokens = seq.num_cached_tokens
                touched[live.request.id] = live
            elif live.shows_progress:
                touched[live.request.id] = live
        return [live.output for live in touched.values() if self._report(live)]

    def _report(self, live: ActiveRequest) -> bool:
        """Whether the request's output is to be shown now; forgets it once finished."""
        if all(one.finish_reason for one in live.output.outputs):
            live.finish()
            del self._live[live.request.id]
            return True
        return live.shows_progress

    def _advance_text(self, live: ActiveRequest, seq: Sequence, out: CompletionOutput) -> None:
        if self.tokenizer is None or self.token_texts is None:
            return
        detokenizer = live.detokenizers.get(seq.index)
        if detokenizer is None:
            params = live.request.params
            skip, keep = params.skip_special_tokens, params.include_stop_str_in_output
            special = self.tokenizer.special_tokens if params.stop_strings and skip else None
            stream, stops = self.token_texts.stream(not skip), params.stop_strings
            detokenizer = Detokenizer(stream, stops, params.min_tokens, special, keep)
            live.detokenizers[seq.index] = detokenizer
        for end in range(len(out.token_ids) - self._num_new(seq) + 1, len(out.token_ids) + 1):
            detokenizer.push(out.token_ids[end - 1])
            if detokenizer.stopped:  # what was accepted after it is dropped
                self.stats.output_tokens -= len(out.token_ids) - end
                del out.token_ids[end:]
                break
        if live.shows_progress:
            out.grow(detokenizer.take())
        if detokenizer.stopped:
            self.scheduler.finish(seq, "stop")

    @functools.cached_property
    def token_texts(self) -> TokenTexts | None:
        """What single tokens stand for; None where there is no tokenizer."""
        if self.tokenizer is None:
            return None
        return getattr(self.tokenizer, "token_texts", None) or DecodedTokens(self.tokenizer)

    def _decode(self, live: ActiveRequest, out: CompletionOutput) -> str:
        if out.index in live.detokenizers:
            return live.detokenizers[out.index].finish()
        if self.tokenizer is None:
            return ""
        skip = live.request.params.skip_special_tokens
        return self.tokenizer.decode(out.token_ids, skip_special_tokens=skip)
