/* The gated delta rule over a state of each sequence and head, float32.
 *
 * Sequences of any lengths lie one after another among a step's tokens. A token's arithmetic is the
 * same whether it comes alone or in a chunk, and in the same order: a result depends neither on the
 * batch nor on how a sequence was cut. The columns of a state do not meet: a tile of them stays in
 * the processor's first cache while the tokens of a chunk go through it. Built by build.py;
 * described in stoker/ops/delta_rule.py.
 */
#include <math.h>
#include <stdint.h>

#include "vector_math.h"

#define CHUNK 32 /* tokens that go through a tile at a time */
#define TILE 2   /* vectors of a tile's row */
#define WIDTH (TILE * LANES)
#define MANY 3   /* tokens that repay a copy of the tile to where its rows lie close */
#define AHEAD 4  /* tokens whose numbers are fetched early: they lie too far apart to be foreseen */
#define LINE 16  /* numbers that come into the cache together */

enum { SILU, SIGMOID }; /* gates */

/* What the rows of the state meet in a token, `padded` numbers of each kind. */
enum { DECAY, KEY, KEPT_KEY, KEPT_QUERY, KINDS }; /* kept: times the decay */

typedef struct {
    float beta, meet; /* meet = key . query */
} Token;

/* What the state holds for a token's key, and for its query, before the token is written; the even
 * and the odd rows are summed apart. */
typedef struct {
    vec held[2][TILE], answer[2][TILE];
} Recalled;

/* One row of the state. `last` and `next`: the row's place in the numbers of a token, as above. */
static inline INLINE void take_row(float *state, const float *last, const vec *delta,
                                   const float *next, int64_t padded, vec *held, vec *answer,
                                   const int writes, const int asks) {
    for (int j = 0; j < TILE; j++) {
        vec s = load(state + j * LANES);
        if (writes) {
            const vec more = delta[j] * last[KEY * padded];
            s = s * last[DECAY * padded] + more;
            store(state + j * LANES, s);
        }
        if (asks) {
            held[j] += s * next[KEPT_KEY * padded];
            answer[j] += s * next[KEPT_QUERY * padded];
        }
    }
}

/* If `writes`, state = decay * state + key delta^T with the token at `last`; then, if `asks`, what
 * the state says to the token at `next`. */
static inline INLINE void take_rows(float *state, int64_t stride, const float *last,
                                    const vec *delta, const float *next, int64_t padded,
                                    int64_t keys, Recalled *found, const int writes,
                                    const int asks) {
    Recalled sums = {};
    vec d[TILE];
    for (int j = 0; j < TILE; j++) d[j] = writes ? delta[j] : (vec){};
    for (int64_t i = 0; i < keys; i += 2)
        for (int half = 0; half < 2 && i + half < keys; half++)
            take_row(state + (i + half) * stride, last + i + half, d, next + i + half, padded,
                     sums.held[half], sums.answer[half], writes, asks);
    if (asks) *found = sums;
}

static NOINLINE void recall(float *state, int64_t stride, const float *next, int64_t padded,
                            int64_t keys, Recalled *found) {
    take_rows(state, stride, next, 0, next, padded, keys, found, 0, 1);
}

static NOINLINE void write(float *state, int64_t stride, const float *last, const vec *delta,
                           int64_t padded, int64_t keys) {
    take_rows(state, stride, last, delta, last, padded, keys, 0, 1, 0);
}

/* Both in one pass, for the token after `last`. */
static NOINLINE void write_and_recall(float *state, int64_t stride, const float *last,
                                      const vec *delta, int64_t padded, int64_t keys,
                                      Recalled *found) {
    take_rows(state, stride, last, delta, last + KINDS * padded, padded, keys, found, 1, 1);
}

/* Takes a chunk's tokens through `width` columns of a state. v, y: those columns, of tokens
 * v_stride and y_stride apart. */
static NOINLINE void advance(float *state, int64_t stride, const float *rows, const Token *tokens,
                             int64_t count, int64_t padded, int64_t keys, int64_t width,
                             const float *v, int64_t v_stride, float *y, int64_t y_stride) {
    Recalled found;
    vec delta[TILE];
    recall(state, stride, rows, padded, keys, &found);
    for (int64_t t = 0; t < count; t++, v += v_stride, y += y_stride, rows += KINDS * padded) {
        for (int j = 0; j < TILE; j++) {
            const int64_t left = width - j * LANES;
            const vec value = left > 0 ? load_some(v + j * LANES, left) : (vec){};
            const vec held = found.held[0][j] + found.held[1][j];
            delta[j] = (value - held) * tokens[t].beta;
            const vec answer =
                found.answer[0][j] + found.answer[1][j] + delta[j] * tokens[t].meet;
            if (left > 0) store_some(y + j * LANES, answer, left);
        }
        if (t + 1 < count)
            write_and_recall(state, stride, rows, delta, padded, keys, &found);
        else
            write(state, stride, rows, delta, padded, keys);
    }
}

/* Brings `size` numbers into the cache before they are needed. */
static inline void fetch(const float *from, int64_t size) {
    for (int64_t i = 0; i < size; i += LINE) __builtin_prefetch(from + i);
}

static inline void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                             int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * to_stride, from + i * from_stride, (size_t)width * sizeof(float));
}

/* 1 / sqrt(sum of squares + eps) */
static inline float inverse_length(const float *x, int64_t size, float eps) {
    vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const vec part = load_some(x + i, size - i);
        squares += part * part;
    }
    return 1.0f / sqrtf(sum_of_lanes(squares) + eps);
}

/* exp(-rate softplus(x)), or exp(bound sigmoid(rate x)) if there is a bound */
static inline vec decay_of(vec x, float rate, float bound) {
    return exp_of_nonpositive(bound < 0.0f ? sigmoid_of(x * rate) * bound : softplus_of(x) * -rate);
}

/* y = norm(y) * weight * act(gate) over `size` numbers. */
static inline void norm_and_gate(float *y, const float *weight, const float *gate, int64_t size,
                                 float eps, int kind) {
    vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const vec part = load_some(y + i, size - i);
        squares += part * part;
    }
    const float scale = 1.0f / sqrtf(sum_of_lanes(squares) / (float)size + eps);
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i;
        const vec z = load_some(gate + i, left), act = kind == SIGMOID ? sigmoid_of(z) : silu_of(z);
        store_some(y + i, load_some(y + i, left) * scale * load_some(weight + i, left) * act, left);
    }
}

/* For each value head, with q and k of unit length, q / sqrt(keys), and beta = beta_most
 * sigmoid(b): state = decay * state; state += k (beta (v - k^T state))^T; y = q^T state, normed and
 * gated.
 *
 * qkv: (tokens, 2 * key_heads * keys + heads * values); a: rows of (heads), or of (heads * keys) if
 * `by_channel`, a_stride apart; b: rows of (heads); gate: rows of (heads * values); rate: (heads);
 * dt_bias: as a row of a; norm: (values); states: (places, heads, keys, values);
 * y: (tokens, heads * values). bound: 0 for none. */
void delta_rule(const float *qkv, const float *a, const float *b, const float *gate,
                const float *rate, const float *dt_bias, const float *norm, float *states,
                const int64_t *slots, const int64_t *starts, const uint8_t *fresh, float *y,
                int64_t sequences, int64_t key_heads, int64_t heads, int64_t keys, int64_t values,
                int64_t a_stride, int64_t b_stride, int64_t gate_stride, int64_t by_channel,
                int64_t gate_kind, float beta_most, float bound, float eps) {
    const int64_t all_keys = key_heads * keys, row = 2 * all_keys + heads * values;
    const int64_t y_row = heads * values, padded = (keys + LANES - 1) / LANES * LANES;
    const float shrink = 1.0f / sqrtf((float)keys);
#pragma omp parallel for TEAM schedule(dynamic) if (starts[sequences] * heads * keys > 4096)
    for (int64_t task = 0; task < sequences * heads; task++) {
        const int64_t s = task / heads, h = task % heads, end = starts[s + 1];
        if (starts[s] == end) continue;
        float *state = states + (slots[s] * heads + h) * keys * values;
        if (fresh[s]) memset(state, 0, (size_t)(keys * values) * sizeof(float));
        const int64_t most = end - starts[s] < CHUNK ? end - starts[s] : CHUNK;
        float rows[most * KINDS * padded];
        Token tokens[CHUNK];
        float tile[keys * WIDTH];
        for (int64_t first = starts[s]; first < end; first += CHUNK) {
            const int64_t count = end - first < CHUNK ? end - first : CHUNK;
            for (int64_t t = 0; t < count; t++) {
                const float *q = qkv + (first + t) * row + h * key_heads / heads * keys;
                const float *k = q + all_keys;
                const int64_t later = first + t + AHEAD;
                if (later < end) {
                    fetch(q + AHEAD * row, keys);
                    fetch(k + AHEAD * row, keys);
                    fetch(qkv + later * row + 2 * all_keys + h * values, values);
                    fetch(gate + later * gate_stride + h * values, values);
                }
                const float q_scale = inverse_length(q, keys, 1e-6f) * shrink;
                const float k_scale = inverse_length(k, keys, 1e-6f);
                const float *steps = a + (first + t) * a_stride + h * (by_channel ? keys : 1);
                const float *biases = dt_bias + h * (by_channel ? keys : 1);
                vec meet = {}, decay = {};
                for (int64_t i = 0; i < keys; i += LANES) {
                    const int64_t left = keys - i;
                    const vec query = load_some(q + i, left) * q_scale;
                    const vec key = load_some(k + i, left) * k_scale;
                    if (by_channel)
                        decay = decay_of(load_some(steps + i, left) + load_some(biases + i, left),
                                         rate[h], bound);
                    else if (!i)
                        decay = decay_of(broadcast(steps[0] + biases[0]), rate[h], bound);
                    float *here = rows + t * KINDS * padded + i;
                    store(here + DECAY * padded, decay);
                    store(here + KEY * padded, key);
                    store(here + KEPT_KEY * padded, decay * key);
                    store(here + KEPT_QUERY * padded, decay * query);
                    meet += query * key;
                }
                const vec beta = sigmoid_of(broadcast(b[(first + t) * b_stride + h]));
                tokens[t] = (Token){beta[0] * beta_most, sum_of_lanes(meet)};
            }
            const float *v = qkv + first * row + 2 * all_keys + h * values;
            float *out = y + first * y_row + h * values;
            for (int64_t at = 0; at < values; at += WIDTH) {
                const int64_t width = values - at < WIDTH ? values - at : WIDTH;
                if (count < MANY && width == WIDTH) {
                    advance(state + at, values, rows, tokens, count, padded, keys, width, v + at,
                            row, out + at, y_row);
                    continue;
                }
                if (width < WIDTH) memset(tile, 0, sizeof tile);
                copy_rows(tile, WIDTH, state + at, values, keys, width);
                advance(tile, WIDTH, rows, tokens, count, padded, keys, width, v + at, row, out + at,
                        y_row);
                copy_rows(state + at, values, tile, WIDTH, keys, width);
            }
            for (int64_t t = 0; t < count; t++)
                norm_and_gate(out + t * y_row, norm, gate + (first + t) * gate_stride + h * values,
                              values, eps, (int)gate_kind);
        }
    }
}
