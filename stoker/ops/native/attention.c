/* Attention of ragged queries over paged keys and values, float32, read in place.
 *
 * A tile of keys, which lies at a fixed position of its sequence, is transposed once and meets all
 * query heads of a task that see it: those of a chunk, or of many sequences that share a prefix.
 * Each query head's result comes from its own sums in an order of their own. So it depends neither
 * on the batch, nor on how a sequence was cut into chunks, nor on whether its token was prefilled
 * or decoded, alone or with others of the same prefix. The softmax is the running one of Milakov
 * and Gimelshein (2018), as in FlashAttention (Dao et al., 2022); meeting a shared prefix
 * together follows Hydragen (Juravsky et al., 2024).
 * Built by build.py; described in stoker/ops/attention.py.
 */
#include <math.h>
#include <stdint.h>

#include "vectors.h"

#if LANES == 16
#define ROWS 6 /* queries met by a tile at a time: 24 sums, 4 vectors of the tile, 1 of a query */
#else
#define ROWS 3
#endif
#define TILE 16              /* keys taken at a time */
#define PARTS (TILE / LANES) /* vectors of scores in a tile */
#define CHUNK 4              /* vectors of a head mixed at a time */
#define WORTH_TURNING 6      /* query heads that repay the transposition of a tile */
#define ROOM (1 << 18)       /* floats of queries and results that a job has in hand at a time */

typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec spread(float x) { return x - (vec){}; }

/* exp(x) for x <= 0, -inf included: 2^n times a polynomial on [-ln2/2, ln2/2]
 * (relative error below 2e-7; 0 below -87). */
static inline vec exp_nonpositive(vec x) {
    const ivec tiny = x < -87.0f;
    x = (vec)((~tiny & (ivec)x) | (tiny & (ivec)spread(-87.0f)));
    const ivec n = __builtin_convertvector(x * 1.44269504f - 0.5f, ivec);
    const vec whole = __builtin_convertvector(n, vec);
    const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)(~tiny & (ivec)(p * (vec)((n + 127) << 23)));
}

/* tanh(x): a polynomial near 0, where the quotient would lose digits. */
static inline vec tanh_of(vec x) {
    const vec square = x * x;
    vec p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    p = p * square * x + x;
    const ivec negative = x < 0.0f;
    const vec size = (vec)((ivec)x & 0x7fffffff);
    const vec e = exp_nonpositive(size * -2.0f), far = (1.0f - e) / (1.0f + e);
    const vec signed_far = (vec)((ivec)far | (negative & (int32_t)0x80000000));
    const ivec near = size < 0.625f;
    return (vec)((near & (ivec)p) | (~near & (ivec)signed_far));
}

/* The largest of a tile's scores. */
static inline float largest(const vec *scores) {
    float lanes[TILE];
    memcpy(lanes, scores, sizeof lanes);
    for (int half = TILE / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
}

/* Swaps the off-diagonal blocks of a square of vectors, block by block: transposes it. */
#if LANES == 16
#define LOW8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#else
#define LOW4 0, 1, 2, 3, 8, 9, 10, 11
#define HIGH4 4, 5, 6, 7, 12, 13, 14, 15
#define LOW2 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH2 2, 3, 10, 11, 6, 7, 14, 15
#define LOW1 0, 8, 2, 10, 4, 12, 6, 14
#define HIGH1 1, 9, 3, 11, 5, 13, 7, 15
#endif
#define SWAP(SIZE)                                                            \
    for (int i = 0; i < LANES; i++)                                           \
        if (!(i & SIZE)) {                                                    \
            const vec a = x[i], b = x[i + SIZE];                              \
            x[i] = SHUFFLE(ivec, a, b, LOW##SIZE);                            \
            x[i + SIZE] = SHUFFLE(ivec, a, b, HIGH##SIZE);                    \
        }

static inline INLINE void transpose(vec *x) {
#if LANES == 16
    SWAP(8)
#endif
    SWAP(4)
    SWAP(2)
    SWAP(1)
}

/* Lane i of the result is the sum of the lanes of x[i]. */
#define FOLD(SIZE)                                                            \
    for (int i = 0; i < SIZE; i++)                                            \
        x[i] = SHUFFLE(ivec, x[i], x[i + SIZE], LOW##SIZE) +                  \
               SHUFFLE(ivec, x[i], x[i + SIZE], HIGH##SIZE);
static inline INLINE vec sums_of_lanes(vec *x) {
#if LANES == 16
    FOLD(8)
#endif
    FOLD(4)
    FOLD(2)
    FOLD(1)
    return x[0];
}

/* Asks memory for the floats from..to-1 of a row that is needed later. */
static inline INLINE void fetch(const float *row, int64_t from, int64_t to) {
    for (int64_t d = from; d < to; d += 16) __builtin_prefetch(row + d, 0, 2);
}

/* turned[d * TILE + i] = keys[rows[i] + d]. */
static inline INLINE void turn(const float *keys, const int64_t *rows, const int64_t *next,
                               float *turned, int64_t dim) {
    for (int part = 0; part < TILE; part += LANES) {
        int64_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            vec x[LANES];
            for (int i = 0; i < LANES; i++) x[i] = load(keys + rows[part + i] + d);
            if (next)
                for (int i = 0; i < LANES; i++) fetch(keys + next[part + i] + d, 0, LANES);
            transpose(x);
            for (int i = 0; i < LANES; i++) store(turned + (d + i) * TILE + part, x[i]);
        }
        for (; d < dim; d++)
            for (int i = 0; i < LANES; i++)
                turned[d * TILE + part + i] = keys[rows[part + i] + d];
    }
}

/* scores[r] = the products of query r with LANES keys, from the transposed tile. The sum is that
 * of `direct`: first over d, d + LANES, ..., then of halves, quarters and so on. */
static inline INLINE void products(const float *queries, const float *turned, vec *scores,
                                   int64_t dim, const int count) {
    const int64_t whole = dim - dim % LANES;
    vec quads[LANES / 4][ROWS];
    for (int q = 0; q < LANES / 4; q++) {
        vec sums[4][ROWS] = {};
        for (int64_t d = q; d < whole; d += LANES)
            for (int j = 0; j < 4; j++) {
                const int64_t at = d + j * (LANES / 4);
                const vec key = load(turned + at * TILE);
                for (int r = 0; r < count; r++) sums[j][r] += key * queries[r * dim + at];
            }
        for (int r = 0; r < count; r++)
            quads[q][r] = (sums[0][r] + sums[2][r]) + (sums[1][r] + sums[3][r]);
    }
    for (int r = 0; r < count; r++) {
#if LANES == 16
        scores[r] = (quads[0][r] + quads[2][r]) + (quads[1][r] + quads[3][r]);
#else
        scores[r] = quads[0][r] + quads[1][r];
#endif
        for (int64_t d = whole; d < dim; d++)
            scores[r] += load(turned + d * TILE) * queries[r * dim + d];
    }
}

/* The same for few queries, which do not repay a transposition: lane i of the score is the sum of
 * the lanes of the products with key i. */
static NOINLINE void direct(const float *queries, const float *keys, const int64_t *rows,
                            const int64_t *next, vec *scores, int64_t dim, int count) {
    const int64_t whole = dim - dim % LANES;
    for (int r = 0; r < count; r++) {
        vec x[LANES] = {};
        for (int64_t d = 0; d < whole; d += LANES) {
            const vec query = load(queries + r * dim + d);
            for (int i = 0; i < LANES; i++) x[i] += load(keys + rows[i] + d) * query;
        }
        if (next) /* asked for a little at a time: memory takes few requests at once */
            for (int i = 0; i < LANES; i++)
                fetch(keys + next[i], dim * r / count & -16, dim * (r + 1) / count & -16);
        scores[r] = sums_of_lanes(x);
        for (int64_t d = whole; d < dim; d++) {
            vec key;
            for (int i = 0; i < LANES; i++) key[i] = keys[rows[i] + d];
            scores[r] += key * queries[r * dim + d];
        }
    }
}

/* The vectors first..first + width - 1 of each row of `mixed`, times the row's `keep`, plus the
 * sum over the tile of weight * value. */
static inline INLINE void mix_part(float *mixed, const float *keep, const float *weights,
                                   const float *values, const int64_t *rows,
                                   const int64_t *next, int64_t dim, const int width,
                                   const int count) {
    vec sums[ROWS][CHUNK];
    for (int r = 0; r < count; r++)
        for (int j = 0; j < width; j++)
            sums[r][j] = load(mixed + r * dim + j * LANES) * keep[r];
    for (int t = 0; t < TILE; t++) {
        if (next) fetch(values + next[t], 0, width * LANES);
        for (int j = 0; j < width; j++) {
            const vec value = load(values + rows[t] + j * LANES);
            for (int r = 0; r < count; r++) sums[r][j] += value * weights[r * TILE + t];
        }
    }
    for (int r = 0; r < count; r++)
        for (int j = 0; j < width; j++) store(mixed + r * dim + j * LANES, sums[r][j]);
}

/* The floats of a row beyond its last whole vector: one code for any number of rows. */
static NOINLINE void mix_rest(float *mixed, float keep, const float *weights, const float *values,
                              const int64_t *rows, int64_t rest) {
    for (int64_t d = 0; d < rest; d++) {
        float sum = mixed[d] * keep;
        for (int t = 0; t < TILE; t++) sum += values[rows[t] + d] * weights[t];
        mixed[d] = sum;
    }
}

static inline INLINE void mix(float *mixed, const float *keep, const float *weights,
                              const float *values, const int64_t *rows, const int64_t *next,
                              int64_t dim, const int count) {
    int64_t d = 0;
    for (; d + CHUNK * LANES <= dim; d += CHUNK * LANES)
        mix_part(mixed + d, keep, weights, values + d, rows, next, dim, CHUNK, count);
    for (; d + LANES <= dim; d += LANES)
        mix_part(mixed + d, keep, weights, values + d, rows, next, dim, 1, count);
    if (d < dim)
        for (int r = 0; r < count; r++)
            mix_rest(mixed + r * dim + d, keep[r], weights + r * TILE, values + d, rows, dim - d);
}

typedef struct {
    float top;   /* largest score so far */
    float slope; /* times key - query is added to scores */
    vec total;   /* sums of exp(score - top), by lanes */
} State;

typedef struct {
    int64_t row, sequence, start, end; /* of q; of the tables; the keys seen: start..end-1 */
} Query;

static inline INLINE int exceeds(const vec *scores, float top) {
#ifdef __AVX512F__ /* _mm512_cmp_ps_mask, greater and ordered, whose header takes long to read */
    return __builtin_ia32_cmpps512_mask(scores[0], spread(top), 0x1e, -1, 4) != 0;
#else
    for (int i = 0; i < TILE; i++)
        if (scores[i / LANES][i % LANES] > top) return 1;
    return 0;
#endif
}

/* Scores under a cap, and falling with the distance of the keys; the query's own is key to - 1 of
 * the tile. */
static NOINLINE void bend(vec *scores, int64_t to, float cap, float slope) {
    vec place;
    for (int i = 0; i < LANES; i++) place[i] = (float)i;
    for (int part = 0; part < PARTS; part++) {
        if (cap > 0.0f) scores[part] = cap * tanh_of(scores[part] / cap);
        if (slope != 0.0f) scores[part] += slope * (place + (float)(part * LANES + 1 - to));
    }
}

/* Scores without the keys outside from..to-1 of the tile; whether any is left. */
static NOINLINE int limit(vec *scores, int64_t from, int64_t to) {
    for (int i = 0; i < TILE; i++)
        if (i < from || i >= to) scores[i / LANES][i % LANES] = -INFINITY;
    return from < TILE && from < to;
}

/* Makes the largest score that of a state; returns what the sums so far keep. */
static NOINLINE float raise_top(State *state, const vec *scores) {
    const float top = largest(scores), keep = exp_nonpositive(spread(state->top - top))[0];
    state->total *= keep;
    state->top = top;
    return keep;
}

/* The weights of a query's scores with the keys at..at+TILE-1; returns what earlier ones keep. */
static inline INLINE float weigh(vec *scores, float *weights, State *state, int64_t from,
                                 int64_t to, float cap) {
    if (cap > 0.0f || state->slope != 0.0f) bend(scores, to, cap, state->slope);
    if ((from > 0 || to < TILE) && !limit(scores, from, to)) {
        memset(weights, 0, TILE * sizeof(float));
        return 1.0f;
    }
    const float keep = exceeds(scores, state->top) ? raise_top(state, scores) : 1.0f;
    for (int part = 0; part < PARTS; part++) {
        const vec weight = exp_nonpositive(scores[part] - state->top);
        state->total += weight;
        store(weights + part * LANES, weight);
    }
    return keep;
}

/* Takes a tile of keys into the results of `count` query heads. Head r belongs to query
 * (first + r) / group. */
static inline INLINE void attend(const float *packed, float *mixed, State *states,
                                 const Query *queries, int64_t first, int64_t group,
                                 const float *keys, const float *turned, const float *values,
                                 const int64_t *rows, const int64_t *value_rows,
                                 const int64_t *next, const int64_t *next_values, int64_t at,
                                 int64_t dim, int64_t value_dim, float cap, const int count) {
    float weights[ROWS * TILE], keep[ROWS];
    vec scores[PARTS][ROWS];
    for (int part = 0; part < PARTS; part++)
        if (turned)
            products(packed, turned + part * LANES, scores[part], dim, count);
        else
            direct(packed, keys, rows + part * LANES, next ? next + part * LANES : 0, scores[part],
                   dim, count);
    for (int r = 0; r < count; r++) {
        const Query *query = queries + (first + r) / group;
        vec own[PARTS];
        for (int part = 0; part < PARTS; part++) own[part] = scores[part][r];
        keep[r] = weigh(own, weights + r * TILE, states + r, query->start - at, query->end - at,
                        cap);
    }
    mix(mixed, keep, weights, values, value_rows, next_values, value_dim, count);
}

/* Offsets in a cache of the tokens at..at+TILE-1 of a sequence; past its end, of its last. Before
 * `seen`, which is in the tile or before it, of that: the blocks of what nobody sees may be gone. */
static inline void find_rows(int64_t *rows, const int64_t *table, int64_t at, int64_t seen,
                             int64_t len, int64_t block_size, int64_t token) {
    const int64_t count = len - at < TILE ? len - at : TILE, skip = seen > at ? seen - at : 0;
    int64_t block = (at + skip) / block_size, offset = (at + skip) % block_size;
    for (int64_t i = skip; i < count; block++, offset = 0) {
        const int64_t base = (table[block] * block_size + offset) * token;
        const int64_t run = block_size - offset < count - i ? block_size - offset : count - i;
        for (int64_t j = 0; j < run; j++) rows[i + j] = base + j * token;
        i += run;
    }
    for (int64_t i = 0; i < skip; i++) rows[i] = rows[skip];
    for (int64_t i = count; i < TILE; i++) rows[i] = rows[count - 1];
}

/* Of a cache: how far its tokens lie apart, and how long a head is, both in floats. */
typedef struct {
    int64_t token, dim;
} Layout;

/* What a task has in hand: query heads packed by key-value head, query and head of its group. */
typedef struct {
    const float *k, *v;
    float *packed, *mixed, *turned;
    State *states;
    Query *queries;
    Layout keys, values;
    int64_t count, group, from_head, to_head, block_size;
    float cap;
} Task;

/* Takes the keys begin..end-1 of a table into the queries low..high-1, which see none before
 * `seen`. */
static void sweep(const Task *task, const int64_t *table, int64_t low, int64_t high,
                  int64_t begin, int64_t seen, int64_t end) {
    const int64_t group = task->group, dim = task->keys.dim, value_dim = task->values.dim;
    const int apart = task->keys.token != task->values.token;
    int64_t rows[2][TILE], others[2][TILE]; /* of keys, and of values that lie otherwise */
#define FIND(INTO, AT, SEEN)                                                                  \
    do {                                                                                      \
        find_rows(rows[INTO], table, AT, SEEN, end, task->block_size, task->keys.token);      \
        if (apart)                                                                            \
            find_rows(others[INTO], table, AT, SEEN, end, task->block_size,                   \
                      task->values.token);                                                    \
    } while (0)
    if (begin < end) FIND(0, begin, seen);
    for (int64_t at = begin, now = 0; at < end; at += TILE, now ^= 1) {
        const int more = at + TILE < end;
        if (more) FIND(now ^ 1, at + TILE, 0);
        const int64_t *following = more ? rows[now ^ 1] : 0;
        const int64_t *value_rows = apart ? others[now] : rows[now];
        while (low < high && task->queries[low].end <= at) low++; /* of a chunk: those before */
        for (int64_t g = task->from_head; g < task->to_head; g++) {
            const int64_t base = (g - task->from_head) * task->count * group;
            const int64_t heads = (high - low) * group, steps = (heads + ROWS - 1) / ROWS;
            const float *turned = heads >= WORTH_TURNING ? task->turned : 0;
            const float *keys = task->k + g * dim;
            const float *values = task->v + g * value_dim;
            if (turned) turn(keys, rows[now], following, task->turned, dim);
            for (int64_t i = 0; i < steps; i++) {
                const int64_t first = low * group + heads * i / steps;
                const int64_t last = low * group + heads * (i + 1) / steps;
                const int64_t *next = i == 0 ? following : 0;
                const int64_t *next_values = next && apart ? others[now ^ 1] : next;
#define COUNT(N)                                                                              \
    case N:                                                                                   \
        attend(task->packed + (base + first) * dim, task->mixed + (base + first) * value_dim, \
               task->states + base + first, task->queries, first, group, keys, turned,        \
               values, rows[now], value_rows, next, next_values, at, dim, value_dim,          \
               task->cap, N);                                                                 \
        break;
                switch (last - first) {
                    COUNT(1) COUNT(2) COUNT(3)
#if ROWS > 3
                    COUNT(4) COUNT(5) COUNT(6)
#endif
                }
            }
        }
    }
}

/* Query heads `first`..`first + group - 1` of each key-value head's `all`. */
static void attend_task(const float *q, const float *k, const float *v, float *out, float *lse,
                        const float *sinks, const float *slopes, const int64_t *tables,
                        int64_t width, const int64_t *members, int64_t count, int64_t shared,
                        int64_t heads, int64_t all, int64_t from_head, int64_t to_head,
                        int64_t first, int64_t group, Layout keys, Layout values,
                        int64_t block_size, int64_t window, int64_t chunked, float scale,
                        float cap) {
    const int64_t total = (to_head - from_head) * count * group;
    const int64_t dim = keys.dim, value_dim = values.dim;
    float packed[total * dim], mixed[total * value_dim], turned[dim * TILE];
    State states[total];
    Query queries[count];
    int64_t seen = INT64_MAX;
    for (int64_t i = 0; i < count; i++) {
        const int64_t *member = members + i * 3, end = member[2];
        int64_t start = window && end > window ? end - window : 0;
        if (chunked) start = (end - 1) / window * window;
        queries[i] = (Query){member[0], member[1], start, end};
        seen = queries[i].start < seen ? queries[i].start : seen;
    }
    for (int64_t at = 0, g = from_head; g < to_head; g++)
        for (int64_t i = 0; i < count; i++)
            for (int64_t h = 0; h < group; h++, at++) {
                const float *from = q + (queries[i].row * heads + g * all + first + h) * dim;
                for (int64_t d = 0; d < dim; d++) packed[at * dim + d] = from[d] * scale;
                const int64_t head = g * all + first + h;
                states[at] = (State){-INFINITY, slopes ? slopes[head] : 0.0f, {}};
                if (sinks) { /* as a first score, without a value */
                    states[at].top = sinks[head];
                    states[at].total[0] = 1.0f;
                }
            }
    memset(mixed, 0, total * value_dim * sizeof(float));
    const Task task = {k,      v,     packed, mixed,     turned,  states,     queries, keys,
                       values, count, group,  from_head, to_head, block_size, cap};
    sweep(&task, tables + queries[0].sequence * width, 0, count, seen / TILE * TILE, seen, shared);
    for (int64_t i = 0; i < count; i++) {
        const int64_t tile = queries[i].start / TILE * TILE;
        sweep(&task, tables + queries[i].sequence * width, i, i + 1, tile > shared ? tile : shared,
              queries[i].start, queries[i].end > shared ? queries[i].end : 0);
    }
    for (int64_t at = 0, g = from_head; g < to_head; g++)
        for (int64_t i = 0; i < count; i++)
            for (int64_t h = 0; h < group; h++, at++) {
                const int64_t row = queries[i].row * heads + g * all + first + h;
                float sum = 0.0f;
                for (int lane = 0; lane < LANES; lane++) sum += states[at].total[lane];
                const float inverse = 1.0f / sum;
                for (int64_t d = 0; d < value_dim; d++)
                    out[row * value_dim + d] = mixed[at * value_dim + d] * inverse;
                if (lse) lse[row] = states[at].top + logf(sum);
            }
}

/* q: (T, heads, dim); out: (T, heads, value_dim); lse: (T, heads) or NULL; k: (blocks, block_size,
 * kv_heads, dim); v: (blocks, block_size, kv_heads, value_dim), the tokens `value_token` floats
 * apart, perhaps inside of k.
 * sinks: a score of each head without a key, or NULL. slopes: of each head, times key - query is
 * added to scores, or NULL.
 * tasks: (count, 3), the heaviest first: its first member, their number, and the keys they share.
 * members: (T, 3): a query's row of q, its sequence, and the context that it sees. Those of a
 * task see their shared keys or, of these, come in order of context; what they see beyond them
 * begins at a multiple of 16. tables: (S, width) blocks.
 * window: keys seen, counted back from the query's own; 0 for all. chunked: keys seen begin at
 * the last multiple of the window instead. parts: among how many jobs the heads of a key-value
 * head are shared out; 0: a lone query takes those of all by itself.
 * cap: scores become cap * tanh(score / cap); 0 for none. */
void paged_attention(const float *restrict q, const float *restrict k, const float *restrict v,
                     float *restrict out, float *restrict lse, const float *restrict sinks,
                     const float *restrict slopes, const int64_t *tasks, const int64_t *members,
                     const int64_t *tables, int64_t count, int64_t width, int64_t heads,
                     int64_t kv_heads, int64_t dim, int64_t value_dim, int64_t value_token,
                     int64_t block_size, int64_t window, int64_t chunked, int64_t parts,
                     float scale, float cap) {
    const Layout keys = {kv_heads * dim, dim}, values = {value_token, value_dim};
    const int64_t all = heads / kv_heads, shares = parts ? parts : 1;
#pragma omp parallel for TEAM schedule(dynamic, 1)
    for (int64_t job = 0; job < count * kv_heads * shares; job++) {
        const int64_t *task = tasks + job / (kv_heads * shares) * 3;
        const int64_t head = job / shares % kv_heads, share = job % shares;
        const int whole = task[1] == 1 && !parts;
        if (whole && head) continue;
        const int64_t room = ROOM / (task[1] * (dim + value_dim)), end = all * (share + 1) / shares;
        for (int64_t some, first = all * share / shares; first < end; first += some) {
            some = end - first;
            if (!whole && some > room) some = room > 1 ? room : 1;
            attend_task(q, k, v, out, lse, sinks, slopes, tables, width, members + task[0] * 3,
                        task[1], task[2], heads, all, head, whole ? kv_heads : head + 1, first,
                        some, keys, values, block_size, window, chunked, scale, cap);
        }
    }
}
