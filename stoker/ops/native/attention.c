/* Attention of ragged queries over paged keys and values, float32, read in place.
 *
 * Each pair of a query and a head is computed by itself, over tiles of keys that lie at fixed
 * positions of its sequence. So a result depends neither on the batch, nor on how a sequence was
 * cut into chunks, nor on whether its token was prefilled or decoded. The softmax is the running
 * one of Milakov and Gimelshein (2018), as in FlashAttention (Dao et al., 2022).
 * Built by build.py; described in stoker/ops/attention.py.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define TILE 16              /* keys taken at a time */
#define PARTS (TILE / LANES) /* vectors of scores in a tile */
#define CHUNK 64             /* floats of a head mixed at a time */
#define INLINE __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

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

/* Lane i of the result is the sum of the lanes of x[i]: halves are added pairwise, a tree of
 * adds and shuffles. */
#if LANES == 16
#define FOLD8(a, b)                                                                              \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +     \
     __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD4(a, b)                                                                              \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +   \
     __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#define FOLD2(a, b)                                                                              \
    (__builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +   \
     __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#define FOLD1(a, b)                                                                              \
    (__builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +  \
     __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
static inline vec sums_of_lanes(const vec *x) {
    vec a[8], b[4];
    for (int i = 0; i < 8; i++) a[i] = FOLD8(x[i], x[i + 8]);
    for (int i = 0; i < 4; i++) b[i] = FOLD4(a[i], a[i + 4]);
    const vec c = FOLD2(b[0], b[2]), d = FOLD2(b[1], b[3]);
    return FOLD1(c, d);
}
#else
#define FOLD4(a, b)                                             \
    (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +  \
     __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#define FOLD2(a, b)                                             \
    (__builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +  \
     __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15))
#define FOLD1(a, b)                                             \
    (__builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + \
     __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15))
static inline vec sums_of_lanes(const vec *x) {
    vec a[4];
    for (int i = 0; i < 4; i++) a[i] = FOLD4(x[i], x[i + 4]);
    const vec c = FOLD2(a[0], a[2]), d = FOLD2(a[1], a[3]);
    return FOLD1(c, d);
}
#endif

/* The largest lane. */
static inline float largest(vec x) {
    float lanes[LANES];
    store(lanes, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
}

/* Which floats of a row to ask of memory before they are needed, and where the rows lie. */
typedef struct {
    const int64_t *rows;
    int64_t from, to;
} Ahead;

static inline INLINE void fetch(const float *cache, Ahead ahead, int i) {
    for (int64_t d = ahead.from; d < ahead.to; d += 16)
        __builtin_prefetch(cache + ahead.rows[i] + d, 0, 2);
}

/* Scores of one query head with the LANES keys at keys + rows[i]. */
static inline INLINE vec scores_of(const float *query, const float *keys, const int64_t *rows,
                                   int64_t dim, Ahead ahead, int at) {
    vec sums[LANES] = {};
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES) {
        const vec q = load(query + d);
        for (int i = 0; i < LANES; i++) sums[i] += q * load(keys + rows[i] + d);
    }
    for (int i = 0; i < LANES; i++) fetch(keys, ahead, at + i);
    vec scores = sums_of_lanes(sums);
    for (; d < dim; d++)
        for (int i = 0; i < LANES; i++) scores[i] += query[d] * keys[rows[i] + d];
    return scores;
}

/* mixed = mixed * keep + sum over tokens of weight * value. */
static inline INLINE void mix(float *mixed, float keep, const float *weights, const float *values,
                              const int64_t *rows, int64_t dim, int64_t from, int64_t to,
                              Ahead ahead) {
    int64_t d = 0;
    for (; d + CHUNK <= dim; d += CHUNK) {
        vec sums[CHUNK / LANES];
        for (int i = 0; i < CHUNK / LANES; i++) sums[i] = load(mixed + d + i * LANES) * keep;
        for (int64_t t = from; t < to; t++) {
            const float *value = values + rows[t] + d;
            for (int i = 0; i < CHUNK / LANES; i++)
                sums[i] += load(value + i * LANES) * weights[t];
            if (d == 0) fetch(values, ahead, t);
        }
        for (int i = 0; i < CHUNK / LANES; i++) store(mixed + d + i * LANES, sums[i]);
    }
    for (; d < dim; d++) {
        float sum = mixed[d] * keep;
        for (int64_t t = from; t < to; t++) sum += values[rows[t] + d] * weights[t];
        mixed[d] = sum;
    }
}

typedef struct {
    float top; /* largest score so far */
    vec total; /* sums of exp(score - top), by lanes */
} State;

/* Takes keys from..to-1 of a tile into the result of one query head. */
static inline INLINE void attend(const float *query, float *mixed, State *state,
                                 const float *keys, const float *values, const int64_t *rows,
                                 int64_t dim, int64_t from, int64_t to, float scale,
                                 float cap, Ahead ahead) {
    float weights[TILE];
    vec scores[PARTS];
    for (int part = 0; part < PARTS; part++) {
        const int at = part * LANES;
        scores[part] = scale * scores_of(query, keys, rows + at, dim, ahead, at);
        if (cap > 0.0f) scores[part] = cap * tanh_of(scores[part] / cap);
        if (at < from || at + LANES > to)
            for (int i = 0; i < LANES; i++)
                if (at + i < from || at + i >= to) scores[part][i] = -INFINITY;
    }
    vec tops = scores[0];
    for (int part = 1; part < PARTS; part++) {
        const ivec more = scores[part] > tops;
        tops = (vec)((more & (ivec)scores[part]) | (~more & (ivec)tops));
    }
    const float top = largest(tops);
    float keep = 1.0f;
    if (top > state->top) {
        keep = exp_nonpositive(spread(state->top - top))[0];
        state->total *= keep;
        state->top = top;
    }
    for (int part = 0; part < PARTS; part++) {
        const vec weight = exp_nonpositive(scores[part] - state->top);
        state->total += weight;
        store(weights + part * LANES, weight);
    }
    mix(mixed, keep, weights, values, rows, dim, from, to, ahead);
}

/* Offsets in a cache of the tokens at..at+TILE-1 of a sequence; past its end, of its last. */
static inline void find_rows(int64_t *rows, const int64_t *table, int64_t at, int64_t len,
                             int64_t block_size, int64_t token) {
    const int64_t count = len - at < TILE ? len - at : TILE;
    int64_t block = at / block_size, offset = at % block_size;
    for (int64_t i = 0; i < count; block++, offset = 0) {
        const int64_t base = (table[block] * block_size + offset) * token;
        const int64_t run = block_size - offset < count - i ? block_size - offset : count - i;
        for (int64_t j = 0; j < run; j++) rows[i + j] = base + j * token;
        i += run;
    }
    for (int64_t i = count; i < TILE; i++) rows[i] = rows[count - 1];
}

static inline INLINE void attend_task(const float *q, const float *k, const float *v, float *out,
                                      float *lse, const int64_t *table, int64_t queries,
                                      int64_t context, int64_t heads, int64_t kv_heads,
                                      int64_t from_head, int64_t to_head, int64_t dim,
                                      int64_t block_size, int64_t window, float scale,
                                      float cap) {
    const int64_t group = heads / kv_heads, token = kv_heads * dim;
    State states[queries * heads];
    for (int64_t i = 0; i < queries * heads; i++) states[i] = (State){-INFINITY, {}};
    for (int64_t i = 0; i < queries; i++)
        memset(out + (i * heads + from_head * group) * dim, 0,
               (to_head - from_head) * group * dim * sizeof(float));
    const int64_t oldest = context - queries + 1; /* keys the first query sees, without window */
    const int64_t begin = window && oldest > window ? (oldest - window) / TILE * TILE : 0;
    int64_t rows[2][TILE];
    find_rows(rows[0], table, begin, context, block_size, token);
    for (int64_t at = begin, now = 0; at < context; at += TILE, now ^= 1) {
        const int more = at + TILE < context;
        if (more) find_rows(rows[now ^ 1], table, at + TILE, context, block_size, token);
        for (int64_t g = from_head; g < to_head; g++)
            for (int64_t i = 0; i < queries; i++) {
                const int64_t end = oldest + i;
                const int64_t start = window && end > window ? end - window : 0;
                const int64_t from = start > at ? start - at : 0;
                const int64_t to = end - at < TILE ? end - at : TILE;
                if (from >= to) continue;
                const int64_t share = more && i == queries - 1 ? dim : 0; /* spread over heads */
                for (int64_t h = 0; h < group; h++) {
                    const int64_t row = i * heads + g * group + h;
                    const Ahead ahead = {rows[now ^ 1], share * h / group & -16,
                                         h + 1 < group ? share * (h + 1) / group & -16 : share};
                    attend(q + row * dim, out + row * dim, states + row, k + g * dim,
                           v + g * dim, rows[now], dim, from, to, scale, cap, ahead);
                }
            }
    }
    for (int64_t i = 0; i < queries; i++)
        for (int64_t h = from_head * group; h < to_head * group; h++) {
            const int64_t row = i * heads + h;
            float total = 0.0f;
            for (int lane = 0; lane < LANES; lane++) total += states[row].total[lane];
            const float inverse = 1.0f / total;
            for (int64_t d = 0; d < dim; d++) out[row * dim + d] *= inverse;
            if (lse) lse[row] = states[row].top + logf(total);
        }
}

/* q, out: (T, heads, dim); lse: (T, heads) or NULL; k, v: (blocks, block_size, kv_heads, dim).
 * tasks: (count, 3), the heaviest first: a sequence, its first query in q, and the number of
 * queries, at most 16. ends: the context each task's last query sees. tables: (S, width) blocks.
 * window: keys seen, counted back from the query's own; 0 for all. cap: scores become
 * cap * tanh(score / cap); 0 for none. */
void paged_attention(const float *restrict q, const float *restrict k, const float *restrict v,
                     float *restrict out, float *restrict lse, const int64_t *tasks,
                     const int64_t *ends, const int64_t *tables, int64_t count, int64_t width,
                     int64_t heads, int64_t kv_heads, int64_t dim, int64_t block_size,
                     int64_t window, int64_t split, float scale, float cap) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t job = 0; job < count * split; job++) {
        const int64_t *task = tasks + job / split * 3;
        const int64_t from = kv_heads * (job % split) / split;
        const int64_t to = kv_heads * (job % split + 1) / split;
        const int64_t first = task[1] * heads;
#define TASK(DIM)                                                                             \
    attend_task(q + first * DIM, k, v, out + first * DIM, lse ? lse + first : 0,              \
                tables + task[0] * width, task[2], ends[job / split], heads, kv_heads, from,  \
                to, DIM, block_size, window, scale, cap)
        switch (dim) {
            case 64: TASK(64); break;
            case 128: TASK(128); break;
            default: TASK(dim);
        }
    }
}
