# mypy: ignore-errors
"""The kernels of draws: what a row's chunks add up to, which tokens may be kept, and which it is.

Scores are logits less the row's largest, over the temperature, in float32 as the definition has
them. Their powers are float32, sums of these float64. No row looks at another.

Knows nothing of buffers; triton/draw.py launches.
"""

import triton
import triton.language as tl


@triton.jit
def _scores(x, top, temperature):
    return tl.div_rn(x.to(tl.float32) - top, temperature)


@triton.jit
def _measure(values, count, top, temperature, least, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    """Of `count` values: how many (or which weight) have a score of `least` or more, the smallest
    such score, and the largest score below."""
    sums = tl.zeros([BLOCK], tl.float64)
    at_least = tl.full([BLOCK], float("inf"), tl.float32)
    below = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(values + at, mask=at < count, other=float("-inf"))
        s = _scores(x, top, temperature)
        in_it = (s >= least) & (s > float("-inf"))
        sums += tl.where(in_it, tl.exp(s) if WEIGHTED else 1.0, 0.0).to(tl.float64)
        at_least = tl.minimum(at_least, tl.where(in_it, s, float("inf")))
        below = tl.maximum(below, tl.where(in_it, float("-inf"), s))
    return tl.sum(sums, 0), tl.min(at_least, 0), tl.max(below, 0)


@triton.jit
def _largest(values, count, top, temperature, need, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    """The largest score such that those from it on reach `need`; -inf if all together do not.

    Halves the range between a score that does and one that may, both always scores of the row.
    The greatest score is 0.
    """
    measure, low, _ = _measure(values, count, top, temperature, float("-inf"), WEIGHTED, BLOCK)
    high = low * 0.0
    if measure < need:
        low = high + float("-inf")
        high = low
    while low < high:
        middle = low + (high - low) * 0.5
        middle = tl.where(middle > low, middle, high)
        measure, up, down = _measure(values, count, top, temperature, middle, WEIGHTED, BLOCK)
        low = tl.where(measure >= need, up, low)
        high = tl.where(measure >= need, high, down)
    return low


@triton.jit
def _uniform(seed, position):
    """The random number of a draw, float64 in [0, 1); see ops/draw.py."""
    z = seed.to(tl.uint64, bitcast=True)
    words = position.to(tl.uint64, bitcast=True) + 1
    for turn in tl.static_range(2):
        z += (words if turn == 0 else words * 0 + 1) * 0x9E3779B97F4A7C15
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z = z ^ (z >> 31)
    return (z >> 11).to(tl.int64).to(tl.float64) * (2.0**-53)


@triton.jit
def _row_total(tops, sums, row, chunks, temperature, BLOCK_C: tl.constexpr):
    """The row's largest logit, its chunks' weights in units of that one's, and their sum."""
    c = tl.arange(0, BLOCK_C)
    of_chunk = tl.load(tops + row * chunks + c, mask=c < chunks, other=float("-inf"))
    top = tl.max(of_chunk, 0)
    factor = tl.exp(_scores(of_chunk, top, temperature)).to(tl.float64)
    weights = tl.load(sums + row * chunks + c, mask=c < chunks, other=0.0) * factor
    return top, weights, tl.sum(weights, 0)


@triton.jit
def _wanted(top_k, top_p, row, VOCAB: tl.constexpr, HAS_K: tl.constexpr, HAS_P: tl.constexpr):
    """The row's top-k, VOCAB if it has none, and its top-p."""
    k = row * 0 + VOCAB
    p = row.to(tl.float64) * 0.0 + 1.0
    if HAS_K:
        k = tl.load(top_k + row)
        k = tl.where((k > 0) & (k < VOCAB), k, VOCAB)
    if HAS_P:
        p = tl.load(top_p + row)
    return k, p


@triton.jit
def sum_chunks(
    logits, temperature, tops, sums, bests, groups, stride, chunks,
    VOCAB: tl.constexpr, GROUPED: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Of a chunk of a row: its largest logit and where, the sum of its weights in units of that
    one's, and, if GROUPED, the largest logit of each group of neighbours."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + row * stride + token, mask=token < VOCAB, other=float("-inf"))
    x = x.to(tl.float32)
    top = tl.max(x, 0)
    t = tl.load(temperature + row)
    t = tl.where(t > 0, t, 1.0)
    base = tl.where(top > float("-inf"), top, 0.0)
    weights = tl.exp(_scores(x, base, t)).to(tl.float64)
    at = row * chunks + chunk
    tl.store(tops + at, top)
    tl.store(sums + at, tl.sum(weights, 0))
    tl.store(bests + at, tl.min(tl.where(x == top, token, VOCAB), 0))
    if GROUPED:
        count: tl.constexpr = CHUNK // GROUP
        highest = tl.max(tl.reshape(x, [count, GROUP]), 1)
        tl.store(groups + at * count + tl.arange(0, count), highest)


@triton.jit
def gather_candidates(
    logits, temperature, top_k, top_p, tops, sums, groups, values, tokens, counts, stride, chunks,
    VOCAB: tl.constexpr, HAS_K: tl.constexpr, HAS_P: tl.constexpr, CHUNK: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The logits and ids, in order, of all tokens of a row that top-k and top-p may keep.

    The largest logits of the groups are a part of the row's. So the k-th of them is no greater
    than the row's k-th, and a score down to which they reach p is none above which the row does
    not.
    """
    row = tl.program_id(0).to(tl.int64)
    t = tl.load(temperature + row)
    k, p = _wanted(top_k, top_p, row, VOCAB, HAS_K, HAS_P)
    count = 0
    if (t > 0) & ((k < VOCAB) | (p < 1)):
        top, _, total = _row_total(tops, sums, row, chunks, t, BLOCK_C)
        number: tl.constexpr = CHUNK // GROUP
        own = groups + row * chunks * number
        if k < VOCAB:
            bound = _largest(own, chunks * number, top, t, k.to(tl.float64), False, BLOCK)
        else:
            bound = _largest(own, chunks * number, top, t, p * total, True, BLOCK)
        for chunk in range(0, chunks):
            if _scores(tl.load(tops + row * chunks + chunk), top, t) >= bound:
                token = chunk * CHUNK + tl.arange(0, CHUNK)
                inside = token < VOCAB
                x = tl.load(logits + row * stride + token, mask=inside, other=float("-inf"))
                x = x.to(tl.float32)
                s = _scores(x, top, t)
                kept = (s >= bound) & (s > float("-inf"))
                at = row * VOCAB + count + tl.cumsum(kept.to(tl.int32), 0) - 1
                tl.store(values + at, x, mask=kept)
                tl.store(tokens + at, token, mask=kept)
                count += tl.sum(kept.to(tl.int32), 0)
    tl.store(counts + row, count)


@triton.jit
def _ends(values, count, top, t, k, p, total, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """The least score that a row keeps, and how many tokens with just this one; the kept weight."""
    least = t * 0.0 + float("-inf")
    equals = k
    weight = total
    if k < VOCAB:
        least = _largest(values, count, top, t, k.to(tl.float64), False, BLOCK)
        above, weight = _beyond(values, count, top, t, least, BLOCK)
        equals = k - above.to(tl.int64)
        weight += equals.to(tl.float64) * tl.exp(least).to(tl.float64)
    if p < 1:
        need = p * weight
        found = _largest(values, count, top, t, need, True, BLOCK)
        _, above = _beyond(values, count, top, t, found, BLOCK)
        one = tl.exp(found).to(tl.float64)
        some = tl.maximum(tl.ceil((need - above) / tl.where(one > 0, one, 1.0)), 1.0).to(tl.int64)
        equals = tl.where(found > least, some, tl.minimum(some, equals))
        least = found
        weight = above + equals.to(tl.float64) * one
    return least, equals, weight


@triton.jit
def _beyond(values, count, top, t, least, BLOCK: tl.constexpr):
    """How many scores are greater than `least`, and their weight."""
    number = tl.zeros([BLOCK], tl.float64)
    weight = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(values + at, mask=at < count, other=float("-inf"))
        s = _scores(x, top, t)
        number += tl.where(s > least, 1.0, 0.0).to(tl.float64)
        weight += tl.where(s > least, tl.exp(s), 0.0).to(tl.float64)
    return tl.sum(number, 0), tl.sum(weight, 0)


@triton.jit
def find_tokens(
    logits, temperature, top_k, top_p, seeds, positions, tops, sums, bests, values, tokens, counts,
    out, out_tops, stride, chunks,
    VOCAB: tl.constexpr, HAS_K: tl.constexpr, HAS_P: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The token of a row: the first whose running sum of weights exceeds the random number's part
    of the whole; where rounding leaves none, the last likely one."""
    row = tl.program_id(0).to(tl.int64)
    t = tl.load(temperature + row)
    k, p = _wanted(top_k, top_p, row, VOCAB, HAS_K, HAS_P)
    u = _uniform(tl.load(seeds + row), tl.load(positions + row))
    c = tl.arange(0, BLOCK_C)
    top, weights, total = _row_total(tops, sums, row, chunks, tl.where(t > 0, t, 1.0), BLOCK_C)
    tl.store(out_tops + row, top)
    token = row.to(tl.int32) * 0 + VOCAB
    last = token * 0
    if t <= 0:
        of_chunk = tl.load(tops + row * chunks + c, mask=c < chunks, other=float("-inf"))
        best = tl.load(bests + row * chunks + c, mask=c < chunks, other=VOCAB)
        token = tl.min(tl.where(of_chunk == top, best, VOCAB), 0)
    elif (k < VOCAB) | (p < 1):
        own = row * VOCAB
        count = tl.load(counts + row)
        least, equals, total = _ends(values + own, count, top, t, k, p, total, VOCAB, BLOCK)
        target = u * total
        reached = total * 0.0
        met = equals * 0
        for start in range(0, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = tl.load(values + own + at, mask=at < count, other=float("-inf"))
            ids = tl.load(tokens + own + at, mask=at < count, other=0)
            s = _scores(x, top, t)
            equal = ((s == least) & (at < count)).to(tl.int64)
            kept = (s > least) | ((equal > 0) & (met + tl.cumsum(equal, 0) <= equals))
            w = tl.where(kept, tl.exp(s), 0.0).to(tl.float64)
            hit = (w > 0) & (reached + tl.cumsum(w, 0) > target)
            token = tl.minimum(token, tl.min(tl.where(hit, ids, VOCAB), 0))
            last = tl.maximum(last, tl.max(tl.where(w > 0, ids, 0), 0))
            reached += tl.sum(w, 0)
            met += tl.sum(equal, 0)
    else:
        target = u * total
        over = (weights > 0) & (tl.cumsum(weights, 0) > target)
        chunk = tl.min(tl.where(over, c, BLOCK_C), 0)
        chunk = tl.minimum(chunk, tl.max(tl.where(weights > 0, c, 0), 0))
        reached = tl.sum(tl.where(c < chunk, weights, 0.0), 0)
        of_chunk = tl.load(tops + row * chunks + chunk)
        ids = chunk * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(logits + row * stride + ids, mask=ids < VOCAB, other=float("-inf"))
        w = tl.exp(_scores(x, of_chunk, t)).to(tl.float64)
        w *= tl.exp(_scores(of_chunk, top, t)).to(tl.float64)
        hit = (w > 0) & (reached + tl.cumsum(w, 0) > target)
        token = tl.min(tl.where(hit, ids, VOCAB), 0)
        last = tl.max(tl.where(w > 0, ids, 0), 0)
    tl.store(out + row, tl.where(token < VOCAB, token, last).to(tl.int64))
