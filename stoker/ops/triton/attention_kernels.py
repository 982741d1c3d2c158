# mypy: ignore-errors
# The bodies are Triton's language, which only looks like Python.
"""The kernels of attention: a tile of queries over a range of one sequence's keys, and the merge.

One kernel serves prefill chunks, decodes, pieces of a decode's keys (flash-decoding, Dao et al.,
2023) and prefixes that several sequences share (Hydragen, Juravsky et al., 2024; cascades, Ye et
al., 2024): the tasks say which. The softmax runs along the keys (FlashAttention-2, Dao, 2023), in
powers of two. The query heads of a key-value head lie side by side in the tile's rows, as in the
paged kernel of Ringlein et al., 2025 (arXiv 2511.11581).

Layout of pages: (blocks, block_size, G, D), so a key of one head is D contiguous elements (256
bytes for 128 in bfloat16: whole cache lines) and its neighbour lies G * D further. Values have E
numbers, and may be the beginnings of the keys. Heads are the
fastest axis of the grid: those of one task run side by side and together read whole pages.

Knows nothing of steps; tasks.py makes the lists, attention.py launches.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _keys(
    q,
    q_rest,
    m,
    mass,
    acc,
    k_ptr,
    v_ptr,
    table,
    head,
    q_head,
    positions,
    lo,
    hi,
    scale,
    softcap,
    slope,
    window,
    stride_page,
    stride_token,
    stride_head,
    value_page,
    value_token,
    value_head,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SLOPES: tl.constexpr,
    WINDOWED: tl.constexpr,
    CHUNKED: tl.constexpr,
    MASKED: tl.constexpr,
    INSIDE: tl.constexpr,
    MODIFY: tl.constexpr,
):
    """Take in the keys lo to hi - 1. Not MASKED: every row sees them all, in whole tiles.

    INSIDE: the values are the first BLOCK_D numbers of the keys.
    """
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    for start in tl.range(lo, hi, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        here = n < hi
        page = tl.load(table + n // PAGE, mask=here, other=0).to(tl.int64)
        at = page * stride_page + (n % PAGE) * stride_token + head * stride_head
        # Keys beyond the range are left unread: unwritten pages may hold anything, NaN included.
        inside = here[:, None] & (d[None, :] < HEAD_DIM)
        k = tl.load(k_ptr + at[:, None] + d[None, :], mask=inside, other=0.0).to(q.dtype)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        if BLOCK_R > 0:
            rest = BLOCK_D + tl.arange(0, BLOCK_R)
            inside = here[:, None] & (rest[None, :] < HEAD_DIM)
            k_rest = tl.load(k_ptr + at[:, None] + rest[None, :], mask=inside, other=0.0)
            s = tl.dot(q_rest, tl.trans(k_rest.to(q.dtype)), s, input_precision="ieee")
        s = s * scale
        if SOFTCAP:  # tanh(x) = 1 - 2 / (e^2x + 1); scale made x = score / cap, times 2 log2 e
            s = softcap * (1.0 - 2.0 / (tl.exp2(tl.minimum(s, 126.0)) + 1.0))
        if SLOPES:
            s += slope[:, None] * (n[None, :] - positions[:, None]).to(tl.float32)
        if MODIFY is not None:
            s = MODIFY(s * LN2, positions[:, None], n[None, :], q_head[:, None]) * LOG2E
        if MASKED:
            seen = here[None, :] & (n[None, :] <= positions[:, None])
            if CHUNKED:
                seen = seen & (n[None, :] >= (positions // window * window)[:, None])
            elif WINDOWED:
                seen = seen & (n[None, :] > positions[:, None] - window)
            s = tl.where(seen, s, float("-inf"))
        most = tl.maximum(m, tl.max(s, 1))
        base = tl.where(most == float("-inf"), 0.0, most)
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(m - base)
        if INSIDE:
            v = k
        else:
            at = page * value_page + (n % PAGE) * value_token + head * value_head
            inside = here[:, None] & (e[None, :] < VALUE_DIM)
            v = tl.load(v_ptr + at[:, None] + e[None, :], mask=inside, other=0.0).to(q.dtype)
        mass = mass * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(q.dtype), v, acc * shrink[:, None], input_precision="ieee")
        m = most
    return m, mass, acc


@triton.jit
def attend_kernel(  # noqa: PLR0915
    q_ptr,  # (T, H, D) contiguous
    k_ptr,  # (blocks, PAGE, G, D)
    v_ptr,  # (blocks, PAGE, G, E)
    k_scale,  # (G,) float32 if QUANTISED
    v_scale,
    sinks,  # (H,) if SINKS
    slopes,  # (H,) float32 if SLOPES
    out_ptr,  # (T, H, E)
    lse_ptr,  # (T, H) float32 if LSE
    part_ptr,  # (partials, H, E) float32
    part_lse,  # (partials, H) float32
    tables,  # (S, width)
    tasks,  # (tasks, 6) int32: table, first member, members, first key, end of keys, partial
    members,  # (members, 2) int32: row of q, position
    scale,
    softcap,
    window,
    stride_table,
    stride_page,
    stride_token,
    stride_head,
    value_page,
    value_token,
    value_head,
    HEADS: tl.constexpr,
    SHARERS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SLOPES: tl.constexpr,
    WINDOWED: tl.constexpr,
    CHUNKED: tl.constexpr,
    SINKS: tl.constexpr,
    QUANTISED: tl.constexpr,
    LSE: tl.constexpr,
    APART: tl.constexpr,
    INSIDE: tl.constexpr,
    MODIFY: tl.constexpr,
):
    """Grid (G * tiles, tasks). A task without members is padding.

    `partial` -1: the rows are done here. The SHARERS of a key-value head, its query heads, are
    taken GROUP at a time, in so many tiles. The numbers of a key beyond BLOCK_D are BLOCK_R more.

    APART: keys that every row sees go without masks, in a loop of their own.
    MODIFY: a function of score, query, key and head that is compiled in, or None.
    """
    tiles: tl.constexpr = (SHARERS + GROUP - 1) // GROUP
    head = tl.program_id(0) // tiles
    task = tasks + tl.program_id(1) * 6
    count = tl.load(task + 2)
    if count == 0:
        return
    first = tl.load(task + 1)
    begin = tl.load(task + 3)
    end = tl.load(task + 4)
    partial = tl.load(task + 5)
    table = tables + tl.load(task).to(tl.int64) * stride_table

    m_index = tl.arange(0, BLOCK_M)
    member = m_index // GROUP
    sharer = tl.program_id(0) % tiles * GROUP + m_index % GROUP
    real = (member < count) & (sharer < SHARERS)
    q_head = head * SHARERS + sharer
    row = tl.load(members + (first + member) * 2, mask=real, other=0).to(tl.int64)
    position = tl.load(members + (first + member) * 2 + 1, mask=real, other=0)
    lowest = tl.min(tl.where(real, position, 2147483647), 0)
    position = tl.where(real, position, lowest)

    d = tl.arange(0, BLOCK_D)
    q_at = (row * HEADS + q_head) * HEAD_DIM
    cell = real[:, None] & (d[None, :] < HEAD_DIM)
    q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=cell, other=0.0)
    q_rest = q
    if BLOCK_R > 0:
        rest = BLOCK_D + tl.arange(0, BLOCK_R)
        cell = real[:, None] & (rest[None, :] < HEAD_DIM)
        q_rest = tl.load(q_ptr + q_at[:, None] + rest[None, :], mask=cell, other=0.0)

    if QUANTISED:  # a head's scale factors out of its products
        scale = scale * tl.load(k_scale + head)
    # FP8 is exact in float16, and a GPU of capability 9 converts it to bfloat16 at a quarter of
    # the rate. As it has less range, queries are divided by powers of two, which rounds only
    # what is below 2**-17 of a query's greatest element.
    if QUANTISED and q.dtype == tl.bfloat16:
        peak = tl.max(tl.abs(q.to(tl.float32)), 1)
        if BLOCK_R > 0:
            peak = tl.maximum(peak, tl.max(tl.abs(q_rest.to(tl.float32)), 1))
        peak = tl.exp2(tl.floor(tl.log2(tl.where(peak > 0, peak, 1.0))))[:, None]
        q = (q.to(tl.float32) / peak).to(tl.float16)
        q_rest = (q_rest.to(tl.float32) / peak).to(tl.float16)
        scale = scale * peak
    if SOFTCAP:
        scale = scale * 2.0 * LOG2E / softcap
        softcap = softcap * LOG2E
    else:
        scale = scale * LOG2E

    slope = tl.zeros([BLOCK_M], tl.float32)
    if SLOPES:
        slope = tl.load(slopes + q_head, mask=real, other=0.0) * LOG2E

    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    if CHUNKED:
        begin = tl.maximum(begin, lowest // window * window)
    elif WINDOWED:
        begin = tl.maximum(begin, lowest - window + 1)
    whole = begin
    if APART and not WINDOWED:
        whole += tl.maximum(tl.minimum(end, lowest + 1) - begin, 0) // BLOCK_N * BLOCK_N
        m, mass, acc = _keys(
            q, q_rest, m, mass, acc, k_ptr, v_ptr, table, head, q_head, position, begin, whole,
            scale, softcap, slope, window, stride_page, stride_token, stride_head,
            value_page, value_token, value_head, HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_R, BLOCK_V,
            BLOCK_N, PAGE, SOFTCAP, SLOPES, WINDOWED, CHUNKED, False, INSIDE, MODIFY,
        )  # fmt: skip
    m, mass, acc = _keys(
        q, q_rest, m, mass, acc, k_ptr, v_ptr, table, head, q_head, position, whole, end,
        scale, softcap, slope, window, stride_page, stride_token, stride_head,
        value_page, value_token, value_head, HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_R, BLOCK_V,
        BLOCK_N, PAGE, SOFTCAP, SLOPES, WINDOWED, CHUNKED, True, INSIDE, MODIFY,
    )  # fmt: skip

    if QUANTISED:
        acc = acc * tl.load(v_scale + head)
    if SINKS:  # partial results get theirs when they are merged
        none = tl.where(partial < 0, 0.0, float("-inf"))
        sink = tl.load(sinks + q_head, mask=real, other=0.0).to(tl.float32) * LOG2E + none
        most = tl.maximum(m, sink)
        base = tl.where(most == float("-inf"), 0.0, most)
        acc = acc * tl.exp2(m - base)[:, None]
        mass = mass * tl.exp2(m - base) + tl.exp2(sink - base)
        m = most
    mass = tl.where(mass > 0, mass, 1.0)  # no key seen: m is -inf, the output 0
    y = acc / mass[:, None]
    total = (m + tl.log2(mass)) * LN2
    e = tl.arange(0, BLOCK_V)
    cell = real[:, None] & (e[None, :] < VALUE_DIM)
    if partial < 0:
        at = row * HEADS + q_head
        place = out_ptr + at[:, None] * VALUE_DIM + e[None, :]
        tl.store(place, y.to(out_ptr.dtype.element_ty), mask=cell)
        if LSE:
            tl.store(lse_ptr + at, total, mask=real)
    else:
        at = (partial + member).to(tl.int64) * HEADS + q_head
        tl.store(part_ptr + at[:, None] * VALUE_DIM + e[None, :], y, mask=cell)
        tl.store(part_lse + at, total, mask=real)


@triton.jit
def merge_kernel(
    part_ptr,  # (partials, H, E) float32
    part_lse,  # (partials, H) float32
    sinks,  # (H,) if SINKS
    out_ptr,  # (T, H, E)
    lse_ptr,  # (T, H) float32 if LSE
    rows,  # (merges,) int32: row of out
    starts,  # (merges + 1,) int32
    items,  # (partials,) int32: those of merge i are starts[i] to starts[i + 1] - 1
    HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SINKS: tl.constexpr,
    LSE: tl.constexpr,
):
    """Grid (H, merges): one row and head from its partial results. Without any, it is padding."""
    head = tl.program_id(0)
    begin = tl.load(starts + tl.program_id(1))
    end = tl.load(starts + tl.program_id(1) + 1)
    if begin == end:
        return
    d = tl.arange(0, BLOCK_V)
    m = tl.max(tl.full([BLOCK_P], float("-inf"), tl.float32), 0)
    mass = tl.sum(tl.zeros([BLOCK_P], tl.float32), 0)
    acc = tl.zeros([BLOCK_V], tl.float32)
    if SINKS:
        m = tl.load(sinks + head).to(tl.float32)
        mass += 1.0
    for start in tl.range(begin, end, BLOCK_P):
        i = start + tl.arange(0, BLOCK_P)
        at = tl.load(items + i, mask=i < end, other=0).to(tl.int64) * HEADS + head
        lse = tl.load(part_lse + at, mask=i < end, other=float("-inf"))
        cell = (i < end)[:, None] & (d[None, :] < VALUE_DIM)
        y = tl.load(part_ptr + at[:, None] * VALUE_DIM + d[None, :], mask=cell, other=0.0)
        most = tl.maximum(m, tl.max(lse, 0))
        base = tl.where(most == float("-inf"), 0.0, most)
        weight = tl.exp2((lse - base) * LOG2E)
        shrink = tl.exp2((m - base) * LOG2E)
        mass = mass * shrink + tl.sum(weight, 0)
        acc = acc * shrink + tl.sum(y * weight[:, None], 0)
        m = most
    at = tl.load(rows + tl.program_id(1)).to(tl.int64) * HEADS + head
    mass = tl.where(mass > 0, mass, 1.0)
    y = acc / mass
    tl.store(out_ptr + at * VALUE_DIM + d, y.to(out_ptr.dtype.element_ty), mask=d < VALUE_DIM)
    if LSE:
        tl.store(lse_ptr + at, m + tl.log2(mass) * LN2)
