"""Everything a request may ask of its draws, mixed in one batch, against a slow scalar twin."""

import dataclasses
import math
import random

import pytest
import torch
from draw_rows import params_of, settings_of

from stoker import SamplingParams
from stoker.engine.sampling import logprobs as logprobs_module
from stoker.engine.sampling.controls import PromptScores, RowControls, ScoreRange
from stoker.engine.sampling.logprobs import (
    likeliest,
    likeliest_by_keys,
    look_up,
    raw_logprobs,
    score_prompts,
)
from stoker.engine.sampling.rules import make_rules
from stoker.engine.sampling.sampler import SamplingBatch, draw_rows, sample
from stoker.errors import InvalidRequestError
from stoker.ops.draw import draw, uniforms

VOCAB = 40
EOS = (7, 9)
INF = math.inf


def double(outputs, logits):
    """A logits processor: doubles the even tokens of rows with an even number of tokens."""
    for row, output in enumerate(outputs):
        if len(output) % 2 == 0:
            logits[row, ::2] *= 2
    return logits


def forbid_last(outputs, logits):
    rows = [row for row, output in enumerate(outputs) if output]
    logits[rows, [outputs[row][-1] for row in rows]] = -INF
    return logits


# -- the scalar twin -----------------------------------------------------------------------


def f32(value):
    return torch.tensor(value, dtype=torch.float32).item()


def scalar_alter(logits, params, prompt, output):
    """Logits after processors, bias, bars and penalties, token by token."""
    logits = list(logits)
    for processor in params.processors:
        if processor is double and len(output) % 2 == 0:
            logits = [f32(x * 2) if token % 2 == 0 else x for token, x in enumerate(logits)]
        if processor is forbid_last and output:
            logits[output[-1]] = -INF
    for token, value in (params.logit_bias or {}).items():
        logits[token] = f32(logits[token] + f32(value))
    for token in range(len(logits)):
        if params.allowed_token_ids is not None and token not in params.allowed_token_ids:
            logits[token] = -INF
        for word in params.bad_words:
            *before, last = word
            if token == last and output[len(output) - len(before) :] == before:
                logits[token] = -INF
        ends = set(params.stop_ids) | (set() if params.ignore_eos else set(EOS))
        if len(output) < params.min_tokens and token in ends:
            logits[token] = -INF
        if token in output or token in prompt:
            rate = f32(params.repetition_penalty)
            x = logits[token]
            logits[token] = f32(x / rate) if x > 0 else f32(x * rate)
        if token in output:
            taken = f32(params.presence_penalty) + f32(
                f32(params.frequency_penalty) * output.count(token)
            )
            logits[token] = f32(logits[token] - f32(taken))
    return logits


def scalar_draw(logits, params, number):
    """A token by the book; None if none may be drawn."""
    if max(logits) == -INF:
        return None
    tokens = range(len(logits))
    if params.temperature == 0:
        return max(tokens, key=lambda token: (logits[token], -token))
    top = max(logits)
    weights = [math.exp(f32(f32(x - top) / f32(params.temperature))) for x in logits]
    kept = [token for token in tokens if weights[token] >= params.min_p * max(weights)]
    kept.sort(key=lambda token: (-weights[token], token))
    if params.top_k > 0:
        kept = kept[: params.top_k]
    if params.top_p < 1:
        kept = shortest(kept, weights, params.top_p)
    if params.typical_p < 1:
        total = sum(weights[token] for token in kept)
        share = {token: weights[token] / total for token in kept if weights[token]}
        entropy = -sum(p * math.log(p) for p in share.values())
        by_surprise = sorted(
            share, key=lambda token: (abs(-math.log(share[token]) - entropy), token)
        )
        kept = shortest(by_surprise, weights, params.typical_p)
    target, reached = number * sum(weights[token] for token in kept), 0.0
    for token in sorted(kept):
        reached += weights[token]
        if reached > target:
            return token
    return max(kept)


def shortest(ranked, weights, p):
    total, kept, mass = sum(weights[token] for token in ranked), [], 0.0
    for token in ranked:
        if mass >= p * total:
            break
        kept.append(token)
        mass += weights[token]
    return kept


def scalar_logprobs(logits, token, top):
    """[(id, logprob, rank)], the token first, then the likeliest."""
    biggest = max(logits)
    total = biggest + math.log(sum(math.exp(x - biggest) for x in logits))
    ranked = sorted(range(len(logits)), key=lambda one: (-logits[one], one))
    rank = {one: place for place, one in enumerate(ranked, 1)}
    listed = [token] + [one for one in ranked[:top] if one != token]
    return [(one, logits[one] - total, rank[one]) for one in listed]


# -- random rows ---------------------------------------------------------------------------


def random_params(rng):
    def maybe(value, otherwise):
        return value if rng.random() < 0.35 else otherwise

    ids = rng.sample(range(VOCAB), 8)
    temperature = rng.choice([0.0, 0.5, 1.0, 1.7])
    return SamplingParams(
        temperature=temperature,
        top_k=rng.choice([0, 0, 3, 12]),
        top_p=rng.choice([1.0, 0.9, 0.4]),
        min_p=maybe(rng.choice([0.02, 0.3, 1.0]), 0.0),
        typical_p=maybe(rng.choice([0.2, 0.8]), 1.0),
        repetition_penalty=maybe(rng.choice([0.7, 1.3, 2.0]), 1.0),
        presence_penalty=maybe(rng.choice([-1.0, 0.5, 2.0]), 0.0),
        frequency_penalty=maybe(rng.choice([-0.5, 0.3, 2.0]), 0.0),
        logit_bias=maybe({ids[0]: 5.0, ids[1]: -3.25, ids[2]: 100}, None),
        bad_words=maybe([ids[3:4], ids[4:6], [ids[5], ids[5], ids[6]], [ids[6]] * 4], ()),
        allowed_token_ids=maybe(rng.sample(range(VOCAB), rng.randint(1, 30)), None),
        min_tokens=maybe(rng.randint(1, 12), 0),
        max_tokens=20,
        stop_token_ids=maybe(ids[6:8], ()),
        ignore_eos=rng.random() < 0.3,
        logprobs=maybe(rng.choice([0, 1, 5, VOCAB]), None),
        logits_processors=maybe(
            rng.choice([[double], [forbid_last, double], [double, forbid_last]]), ()
        ),
    )


def random_rows(seed, count=48):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        params = random_params(rng)
        used = rng.sample(range(VOCAB), 6)  # few different ones, so that words do occur
        words = [token for word in params.bad_words for token in word]
        prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))]
        output = [rng.choice(used + words) for _ in range(rng.randint(0, 15))]
        rows.append((params, prompt, output, rng.getrandbits(64), number))
    return rows


def asked(rows):
    """The batch of rows, and its parameters."""
    batch = SamplingBatch()
    for params, prompt, output, seed, _ in rows:
        rules = make_rules(params, VOCAB, EOS, None)
        if rules is not None:
            batch.controls[len(batch)] = RowControls.make(rules, prompt, list(output))
        batch.settings.append(settings_of(params, seed))
    return batch, params_of(batch.settings, [row[-1] for row in rows], VOCAB)


def drawn(logits, rows, **form):
    """(token or None, log-probabilities or None) of each row."""
    batch, params = asked(rows)
    tokens = sample(logits.clone(), batch, params, **form)
    out = []
    for row, token in enumerate(tokens):
        own = batch.controls.get(row)
        failed = own is not None and own.error is not None
        found = own.found if own is not None and not failed else None
        out.append((None if failed else token, found))
    return out


@pytest.mark.parametrize("seed", range(25))
def test_mixed_rows_equal_the_scalar_twin(seed):
    rows = random_rows(seed)
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    _, params = asked(rows)
    numbers = uniforms(params.seeds, params.positions).tolist()
    results = drawn(logits, rows)
    for at, (params, prompt, output, *_) in enumerate(rows):
        altered = scalar_alter(logits[at].tolist(), params, prompt, output)
        token, found = results[at]
        assert token == scalar_draw(altered, params, numbers[at]), params
        if params.logprobs is None or token is None:
            assert found is None
            continue
        expected = scalar_logprobs(logits[at].tolist(), token, params.logprobs)
        assert found.ids == [one[0] for one in expected]
        assert found.logprobs == pytest.approx([one[1] for one in expected], abs=1e-5)
        assert found.ranks == [one[2] for one in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_others(dtype):
    rows = random_rows(99)
    logits = (torch.randn(len(rows), VOCAB) * 3).to(dtype)
    alone = [drawn(logits[at : at + 1], rows[at : at + 1])[0] for at in range(len(rows))]
    assert drawn(logits, rows) == alone
    order = random.Random(0).sample(range(len(rows)), len(rows))
    shuffled = drawn(logits[order], [rows[at] for at in order])
    assert shuffled == [alone[at] for at in order]


@pytest.mark.parametrize("seed", range(4))
def test_any_draw_serves(seed):
    rows = random_rows(seed)
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    assert drawn(logits, rows, draw=draw) == drawn(logits, rows)


def test_counts_grow_with_the_output():
    """Fed a token at a time, the state gives the same draws as one made anew."""
    rng = random.Random(4)
    params = SamplingParams(
        temperature=0, repetition_penalty=1.4, presence_penalty=0.7, frequency_penalty=0.4
    )
    rules, output, prompt = make_rules(params, VOCAB, EOS, None), [], [1, 2, 2, 30]
    kept = RowControls.make(rules, prompt, output)
    for position in range(60):
        logits = torch.randn(1, VOCAB)
        tokens = []
        for own in (kept, RowControls.make(rules, prompt, list(output))):
            batch = SamplingBatch([settings_of(params, 1)], {0: own})
            at = params_of(batch.settings, [position], VOCAB)
            tokens.append(sample(logits.clone(), batch, at)[0])
        altered = scalar_alter(logits[0].tolist(), params, prompt, output)
        assert tokens == [scalar_draw(altered, params, 0)] * 2
        output.append(rng.choice([tokens[0], rng.randrange(VOCAB)]))


def test_rows_without_wishes_have_no_rules():
    plain = SamplingParams(temperature=0.7, top_k=5, top_p=0.9, stop="x", stop_token_ids=[3], n=2)
    assert make_rules(plain, VOCAB, EOS, None) is None
    filtered = dataclasses.replace(plain, min_p=0.5, typical_p=0.9)
    assert make_rules(filtered, VOCAB, EOS, None) is None
    for wish in ({"logprobs": 0}, {"min_tokens": 1}):
        assert make_rules(dataclasses.replace(plain, **wish), VOCAB, EOS, None) is not None


def test_plain_rows_of_a_mixed_batch_keep_their_bits():
    rows = random_rows(3)
    plain = SamplingParams(temperature=0.9, top_k=9, top_p=0.8)
    rows = [row if at % 3 else (plain, *row[1:]) for at, row in enumerate(rows)]
    logits = torch.randn(len(rows), VOCAB) * 2
    alone = sample(logits[::3].clone(), *asked(rows[::3]))
    assert [token for token, _ in drawn(logits, rows)][::3] == alone


# -- failures of single rows ---------------------------------------------------------------


def raises(outputs, logits):
    raise RuntimeError("no idea")


def raises_for_long(outputs, logits):
    if any(len(output) > 2 for output in outputs):
        raise ValueError("too long for me")
    return logits


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (raises, "the logits processor raises failed: RuntimeError: no idea"),
        (lambda outputs, logits: None, "returned NoneType in place of a tensor"),
        (lambda outputs, logits: logits[:, :-1], r"returned \(1, 39\) torch.float32 on cpu"),
        (lambda outputs, logits: logits.double(), r"returned \(1, 40\) torch.float64 on cpu"),
        (lambda outputs, logits: logits * math.nan, "largest logit is nan"),
        (lambda outputs, logits: logits + INF, "largest logit is inf"),
        (lambda outputs, logits: logits - INF, "no token may be drawn"),
    ],
)
def test_a_failing_processor_fails_its_rows_alone(processor, message):
    bad = SamplingParams(logits_processors=[processor], logprobs=2)
    good = SamplingParams(logits_processors=[double], logprobs=2)
    logits = torch.randn(4, VOCAB)
    rows = [(p, [1], [2], 5, 6) for p in (good, bad, SamplingParams(), bad)]
    batch, params = asked(rows)
    tokens = sample(logits.clone(), batch, params)
    for row in (1, 3):
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(batch.controls[row].error)
    assert batch.controls[0].error is None
    assert tokens[0] == drawn(logits[:1], rows[:1])[0][0]
    assert tokens[2] == drawn(logits[2:3], rows[2:3])[0][0]


def test_a_shared_processor_fails_where_it_fails_alone():
    params = SamplingParams(logits_processors=[raises_for_long])
    rows = [(params, [1], [2] * length, 5, 6) for length in range(6)]
    results = drawn(torch.randn(6, VOCAB), rows)
    assert [token is None for token, _ in results] == [False] * 3 + [True] * 3


def test_a_processor_is_called_once_a_step():
    calls = []

    class Owner:
        def watch(self, outputs, logits):
            calls.append((outputs, tuple(logits.shape), logits.dtype))
            return logits

    owner = Owner()
    rows = [
        (SamplingParams(logits_processors=[owner.watch]), [1], [2] * length, 5, 6)
        for length in range(3)
    ]
    drawn(torch.randn(3, VOCAB, dtype=torch.bfloat16), rows)
    assert calls == [([[], [2], [2, 2]], (3, VOCAB), torch.float32)]


def test_nothing_left_to_draw_is_an_error_of_the_row():
    never = SamplingParams(allowed_token_ids=[7, 9], min_tokens=1)
    rows = [(never, [1], [], 1, 1), (SamplingParams(), [1], [], 1, 1), (never, [1], [3], 1, 1)]
    tokens = [token for token, _ in drawn(torch.randn(3, VOCAB), rows)]
    assert tokens[0] is None
    assert tokens[1] is not None
    assert tokens[2] in (7, 9)


# -- log-probabilities ---------------------------------------------------------------------


def test_equal_logits_are_ranked_by_id():
    logits = torch.zeros(2, VOCAB)
    logits[1, 20:] = 1.0
    tokens = torch.tensor([5, 3])
    first, second = look_up(raw_logprobs(logits), tokens, [3, 3]).named([5, 3], [3, 3])
    assert (first.ids, first.ranks) == ([5, 0, 1, 2], [6, 1, 2, 3])
    assert (second.ids, second.ranks) == ([3, 20, 21, 22], [24, 1, 2, 3])


@pytest.mark.parametrize("count", [1, 3, 200])
def test_keys_rank_as_a_stable_sort_does(count):
    """-0.0 is 0.0, and of equal values the lower id comes first."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 200, generator=generator).mul(2).round() * 0.25
    rows[2, ::3], rows[3], rows[4, 5:] = -INF, 0.0, -0.0
    values, ids = rows.sort(dim=-1, descending=True, stable=True)
    for form in (likeliest, likeliest_by_keys):
        found_ids, found = form(rows, count)
        assert torch.equal(found_ids, ids[:, :count])
        assert torch.equal(found, values[:, :count])


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the most elements any operation's result has."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel())
        return out


class Waits(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes operations whose sizes or values a device would have to tell the host."""

    NAMES = ("nonzero", "_local_scalar_dense", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name == "index" and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if masks or any(name.startswith(one) for one in self.NAMES):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("seed", range(3))
def test_draws_are_enqueued_without_a_wait(seed, monkeypatch):
    """As on a GPU: with the definition of draws, and of what a CPU does otherwise."""
    monkeypatch.setattr(logprobs_module, "_likeliest_on_cpu", likeliest_by_keys)
    rows = random_rows(seed)
    batch, params = asked(rows)
    assert {"processors", "bias", "bars", "penalties", "logprobs"} <= batch.features
    assert params.min_p is not None
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    with Waits() as waits:
        draws = draw_rows(logits.clone(), batch, params, draw)
    assert waits.found == []
    tokens = draws.take(draws.tokens.tolist(), draws.results)
    expected = drawn(logits, rows)
    for row, (token, found) in enumerate(expected):
        controls = batch.controls.get(row)
        if token is None:
            assert controls.error is not None
            continue
        assert token == tokens[row]
        assert found == (None if controls is None else controls.found)
    with Waits() as waits:
        drawn(logits, rows)
    assert "nonzero" in waits.found, "a CPU may look"


@pytest.mark.parametrize("chunk", [1, 7 * VOCAB, 10**6])
def test_prompt_scores_do_not_depend_on_the_chunks_and_stay_within_them(chunk, monkeypatch):
    monkeypatch.setattr(logprobs_module, "CHUNK_LOGITS", chunk)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(VOCAB, 4, generator=generator)
    states = torch.randn(50, 4, generator=generator)
    prompt = tuple(torch.randint(0, VOCAB, (60,), generator=generator).tolist())
    parts = [(0, 13), (13, 14), (14, 50)]
    scores = [PromptScores(prompt, top, []) for top in (0, 3, VOCAB)]
    ranges = [
        ScoreRange(one, prompt[a + 1 : b + 1]) for one, (a, b) in zip(scores, parts, strict=True)
    ]
    with LargestTensor() as watch:
        score_prompts(states, lambda x: (x[:, None] * weight).sum(-1), ranges, VOCAB)
    if chunk < 10**6:
        assert watch.most <= 4 * max(chunk, 2 * VOCAB)  # 4: the products inside this head
    for one, (a, b) in zip(scores, parts, strict=True):
        assert len(one.found) == b - a
        for at, found in zip(range(a, b), one.found, strict=True):
            logits = (states[at] * weight).sum(-1).tolist()
            expected = scalar_logprobs(logits, prompt[at + 1], one.top)
            assert found.ids == [token for token, *_ in expected]
            assert found.logprobs == pytest.approx([x for _, x, _ in expected], abs=1e-5)


# -- rules ---------------------------------------------------------------------------------


class Words:
    """A tokenizer of letters, with the blank joined to the letter after it."""

    def encode_plain(self, text):
        if text.startswith(" ") and len(text) > 1:
            return [20 + ord(text[1]) - 97, *self.encode_plain(text[2:])]
        return [ord(letter) - 97 for letter in text if letter.isalpha()]


def test_bad_words_are_barred_with_and_without_a_blank():
    rules = make_rules(SamplingParams(bad_words=["a", "bcb", (4, 5)]), VOCAB, EOS, Words())
    assert sorted(rules.barred([]).tolist()) == [0, 20]
    assert sorted(rules.barred([9, 1, 2]).tolist()) == [0, 1, 20]
    assert sorted(rules.barred([21, 2]).tolist()) == [0, 1, 20]
    assert sorted(rules.barred([2]).tolist()) == [0, 20]
    assert sorted(rules.barred([4]).tolist()) == [0, 5, 20]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"logit_bias": {40: 1.0}}, "logit_bias holds 40, which is out of range; .* 0 to 39"),
        ({"allowed_token_ids": [3, 40]}, "allowed_token_ids holds 40"),
        ({"bad_words": [[3, 41]]}, "bad_words holds 41"),
        ({"bad_words": ["..."]}, "the bad word '...' has no tokens with this tokenizer"),
        ({"min_tokens": 1, "stop_token_ids": [50]}, "stop_token_ids holds 50"),
        ({"logprobs": 41}, "logprobs=41 is more than the 40 tokens"),
        ({"prompt_logprobs": 41}, "prompt_logprobs=41 is more than the 40 tokens"),
    ],
)
def test_what_the_model_can_not_serve_is_refused(params, message):
    with pytest.raises(InvalidRequestError, match=message):
        make_rules(SamplingParams(**params), VOCAB, EOS, Words())


def test_texts_need_a_tokenizer():
    with pytest.raises(InvalidRequestError, match="'x' needs a tokenizer"):
        make_rules(SamplingParams(bad_words=["x"]), VOCAB, EOS, None)
