/* Layers that keep a state of each sequence: causal convolutions and the scans of Mamba, float32.
 *
 * Sequences of any lengths lie one after another among a step's tokens. A token's arithmetic is the
 * same whether it comes alone or in a chunk, and in the same order: a result depends neither on the
 * batch nor on how a sequence was cut. States are read and written in their places.
 *
 * A tile of a state stays in registers while all tokens of a chunk go through it. Built by build.py;
 * described in stoker/ops/causal_conv.py, selective_scan.py and gated_norm.py.
 */
#include <math.h>
#include <stdint.h>

#include "vector_math.h"

#define MOST_TAPS 16 /* of a convolution */
#define BLOCK 256    /* channels that a convolution takes at a time */
#define CHUNK 32     /* tokens that a scan takes at a time */
#define ROWS 4       /* rows of a state in registers */
#if LANES == 16
#define TILE 4 /* vectors of a row in registers */
#else
#define TILE 2
#endif
#define WIDTH (TILE * LANES)

/* ---- Causal convolution ---- */

/* The convolution of `channels` <= BLOCK neighbouring channels of one sequence. `rows` holds the
 * last inputs in a ring, of which `oldest` is the next to go. */
static inline INLINE void convolve_block(const float *x, const float *before, const float *after,
                                         const float *weight, const float *bias, float *state,
                                         int fresh, float *y, int64_t tokens, int64_t channels,
                                         int64_t x_stride, int64_t stride, int silu,
                                         const int64_t taps) {
    float rows[MOST_TAPS][BLOCK];
    int64_t oldest = 0;
    for (int64_t k = 0; k + 1 < taps; k++)
        if (fresh)
            memset(rows[k], 0, (size_t)channels * sizeof(float));
        else
            memcpy(rows[k], state + k * stride, (size_t)channels * sizeof(float));
    int64_t newest = taps - 1;
    for (int64_t t = 0; t < tokens; t++, x += x_stride, y += stride) {
        const float *gate = before ? before + t * x_stride : 0;
        const float *last = after ? after + t * x_stride : 0;
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t left = channels - c;
            vec input = load_some(x + c, left);
            if (gate) input *= load_some(gate + c, left);
            store_some(rows[newest] + c, input, left);
            vec sum = bias ? load_some(bias + c, left) : (vec){};
            for (int64_t k = 0, at = oldest; k < taps; k++, at = at + 1 == taps ? 0 : at + 1)
                sum += load_some(weight + k * stride + c, left) * load_some(rows[at] + c, left);
            if (silu) sum = silu_of(sum);
            if (last) sum *= load_some(last + c, left);
            store_some(y + c, sum, left);
        }
        oldest = oldest + 1 == taps ? 0 : oldest + 1;
        newest = newest + 1 == taps ? 0 : newest + 1;
    }
    for (int64_t k = 0, at = oldest; k + 1 < taps; k++, at = at + 1 == taps ? 0 : at + 1)
        memcpy(state + k * stride, rows[at], (size_t)channels * sizeof(float));
}

/* y[t] = after[t] * act(bias + sum over k of weight[k] * u[t - taps + 1 + k]) with u = before * x;
 * x, before, after: rows of (channels), x_stride apart; before, after and bias may be NULL.
 * weight: (taps, channels), the last for the token itself; state: (places, taps - 1, channels), the
 * inputs u before the sequence's first token. */
void causal_conv(const float *x, const float *before, const float *after, const float *weight,
                 const float *bias, float *states, const int64_t *slots, const int64_t *starts,
                 const uint8_t *fresh, float *y, int64_t sequences, int64_t channels, int64_t taps,
                 int64_t x_stride, int64_t silu) {
    const int64_t blocks = (channels + BLOCK - 1) / BLOCK;
#pragma omp parallel for TEAM schedule(dynamic) if (starts[sequences] * channels > 8192)
    for (int64_t task = 0; task < sequences * blocks; task++) {
        const int64_t s = task / blocks, c = task % blocks * BLOCK;
        const int64_t tokens = starts[s + 1] - starts[s], at = starts[s] * x_stride + c;
        if (!tokens) continue;
        const int64_t count = channels - c < BLOCK ? channels - c : BLOCK;
#define CONVOLVE(TAPS)                                                                            \
    convolve_block(x + at, before ? before + at : 0, after ? after + at : 0, weight + c,          \
                   bias ? bias + c : 0, states + slots[s] * (taps - 1) * channels + c, fresh[s],  \
                   y + starts[s] * channels + c, tokens, count, x_stride, channels, silu != 0,    \
                   TAPS)
        switch (taps) { /* of a known number the loops are unrolled */
            case 3: CONVOLVE(3); break;
            case 4: CONVOLVE(4); break;
            default: CONVOLVE(taps);
        }
    }
}

/* ---- Scans ---- */

/* A chunk of tokens at a tile of columns: what all rows of the state need. */
typedef struct {
    float decay[CHUNK];        /* of a head */
    float inputs[CHUNK][WIDTH]; /* dt * x */
    float steps[CHUNK][WIDTH];  /* dt, where each channel has its own */
    float y[CHUNK][WIDTH];
    float b[CHUNK][ROWS], c[CHUNK][ROWS];
} Chunk;

/* Takes `tokens` tokens through `rows` rows of a state, each of `vecs` vectors: s = s * decay +
 * b * input, y += s * c. */
static inline INLINE void advance_rows(Chunk *chunk, float *state, int64_t stride, int64_t tokens,
                                       const int rows, const int vecs) {
    vec s[ROWS][TILE];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) s[i][j] = load(state + i * stride + j * LANES);
    for (int64_t t = 0; t < tokens; t++) {
        const float decay = chunk->decay[t];
        for (int j = 0; j < vecs; j++) {
            const vec input = load(chunk->inputs[t] + j * LANES);
            vec y = load(chunk->y[t] + j * LANES);
            for (int i = 0; i < rows; i++) {
                const vec more = input * chunk->b[t][i];
                s[i][j] = s[i][j] * decay + more;
                y += s[i][j] * chunk->c[t][i];
            }
            store(chunk->y[t] + j * LANES, y);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) store(state + i * stride + j * LANES, s[i][j]);
}

/* A number of vectors that the compiler knows keeps the state in registers; heads of 32 channels
 * have two of 16 lanes. */
static inline INLINE void advance(Chunk *chunk, float *state, int64_t stride, int64_t tokens,
                                  int64_t vecs, const int rows) {
    if (vecs == 1)
        advance_rows(chunk, state, stride, tokens, rows, 1);
    else if (vecs == 2)
        advance_rows(chunk, state, stride, tokens, rows, 2);
    else
        advance_rows(chunk, state, stride, tokens, rows, TILE);
}

/* The same for one row, whose decay is exp(dt * a), of each channel. */
static inline INLINE void advance_channels(Chunk *chunk, float *state, const float *a,
                                           int64_t tokens) {
    vec s[TILE], rate[TILE];
    for (int j = 0; j < TILE; j++) {
        s[j] = load(state + j * LANES);
        rate[j] = load(a + j * LANES);
    }
    for (int64_t t = 0; t < tokens; t++)
        for (int j = 0; j < TILE; j++) {
            const vec decay = exp_of_nonpositive(load(chunk->steps[t] + j * LANES) * rate[j]);
            const vec more = load(chunk->inputs[t] + j * LANES) * chunk->b[t][0];
            s[j] = s[j] * decay + more;
            store(chunk->y[t] + j * LANES,
                  load(chunk->y[t] + j * LANES) + s[j] * chunk->c[t][0]);
        }
    for (int j = 0; j < TILE; j++) store(state + j * LANES, s[j]);
}

/* Copies `rows` rows of `width` floats between places with strides of their own; the rest is 0. */
static inline void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                             int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * to_stride, from + i * from_stride, (size_t)width * sizeof(float));
}

static inline vec bounded(vec x, float least, float most) {
    x = choose(x < least, broadcast(least), x);
    return choose(x > most, broadcast(most), x);
}

/* The scan of Mamba 2. dt = bounded(softplus(steps + dt_bias)), s = s * exp(dt * a) + dt * x * b,
 * y = c * s + d * x, for each head.
 *
 * xbc: tokens of x (heads, dim), b and c (groups, size), contiguous; steps: rows of (heads),
 * step_stride apart; dt_bias, a, d: (heads); states: (places, heads, size, dim); y: (tokens, heads,
 * dim). */
void ssd_scan(const float *xbc, const float *steps, const float *dt_bias, const float *a,
              const float *d, float *states, const int64_t *slots, const int64_t *starts,
              const uint8_t *fresh, float *y, int64_t sequences, int64_t heads, int64_t dim,
              int64_t groups, int64_t size, int64_t step_stride, float least, float most) {
    const int64_t channels = heads * dim, row = channels + 2 * groups * size;
#pragma omp parallel for TEAM schedule(dynamic)
    for (int64_t task = 0; task < sequences * heads; task++) {
        const int64_t s = task / heads, h = task % heads, end = starts[s + 1];
        if (starts[s] == end) continue;
        float *state = states + (slots[s] * heads + h) * size * dim;
        if (fresh[s]) memset(state, 0, (size_t)(size * dim) * sizeof(float));
        Chunk chunk;
        for (int64_t first = starts[s]; first < end; first += CHUNK) {
            const int64_t tokens = end - first < CHUNK ? end - first : CHUNK;
            float dt[CHUNK];
            for (int64_t t = 0; t < tokens; t += LANES) {
                vec step = {};
                for (int64_t i = 0; i < LANES && t + i < tokens; i++)
                    step[i] = steps[(first + t + i) * step_stride + h];
                step = bounded(softplus_of(step + dt_bias[h]), least, most);
                store(dt + t, step);
                store(chunk.decay + t, exp_of_nonpositive(step * a[h]));
            }
            const float *b = xbc + first * row + channels + h * groups / heads * size;
            const float *c = b + groups * size;
            for (int64_t p = 0; p < dim; p += WIDTH) {
                const int64_t width = dim - p < WIDTH ? dim - p : WIDTH;
                /* a tile that fills its vectors lies in the state, others in a copy */
                const int whole = width == LANES || width == 2 * LANES || width == WIDTH;
                const int64_t vecs = whole ? width / LANES : TILE;
                for (int64_t t = 0; t < tokens; t++)
                    for (int64_t i = 0; i < vecs * LANES; i += LANES) {
                        const float *from = xbc + (first + t) * row + h * dim + p + i;
                        const vec x = width > i ? load_some(from, width - i) : (vec){};
                        store(chunk.inputs[t] + i, x * dt[t]);
                        store(chunk.y[t] + i, x * d[h]);
                    }
                for (int64_t n = 0; n < size; n += ROWS) {
                    const int64_t rows = size - n < ROWS ? size - n : ROWS;
                    for (int64_t t = 0; t < tokens; t++)
                        for (int64_t i = 0; i < rows; i++) {
                            chunk.b[t][i] = b[t * row + n + i];
                            chunk.c[t][i] = c[t * row + n + i];
                        }
                    float *tile = state + n * dim + p, narrow[ROWS][WIDTH];
                    if (!whole) {
                        memset(narrow, 0, sizeof narrow);
                        copy_rows(narrow[0], WIDTH, tile, dim, rows, width);
                    }
                    float *at = whole ? tile : narrow[0];
                    const int64_t stride = whole ? dim : WIDTH;
                    if (rows == ROWS)
                        advance(&chunk, at, stride, tokens, vecs, ROWS);
                    else
                        for (int64_t i = 0; i < rows; i++) {
                            for (int64_t t = 0; i && t < tokens; t++) {
                                chunk.b[t][0] = chunk.b[t][i];
                                chunk.c[t][0] = chunk.c[t][i];
                            }
                            advance(&chunk, at + i * stride, stride, tokens, vecs, 1);
                        }
                    if (!whole) copy_rows(tile, dim, narrow[0], WIDTH, rows, width);
                }
                for (int64_t t = 0; t < tokens; t++)
                    memcpy(y + (first + t) * channels + h * dim + p, chunk.y[t],
                           (size_t)width * sizeof(float));
            }
        }
    }
}

/* The scan of Mamba 1. dt = softplus(steps + dt_bias), s = s * exp(dt * a) + dt * x * b,
 * y = (c * s + d * x) * silu(z), for each channel. Channels form `groups` with b and c of their own.
 *
 * x, steps, y: (tokens, channels); z: rows of (channels), z_stride apart; b, c: rows of (groups,
 * size), bc_stride apart; dt_bias, d: (channels); a: (size, channels); states: (places, size,
 * channels). */
void selective_scan(const float *x, const float *steps, const float *b, const float *c,
                    const float *z, const float *dt_bias, const float *a, const float *d,
                    float *states, const int64_t *slots, const int64_t *starts,
                    const uint8_t *fresh, float *y, int64_t sequences, int64_t channels,
                    int64_t groups, int64_t size, int64_t bc_stride, int64_t z_stride) {
    const int64_t group = channels / groups, tiles = (group + WIDTH - 1) / WIDTH;
#pragma omp parallel for TEAM schedule(dynamic)
    for (int64_t task = 0; task < sequences * groups * tiles; task++) {
        const int64_t s = task / (groups * tiles), g = task / tiles % groups;
        const int64_t inside = task % tiles * WIDTH, at = g * group + inside, end = starts[s + 1];
        const int64_t width = group - inside < WIDTH ? group - inside : WIDTH;
        if (starts[s] == end) continue;
        float *state = states + slots[s] * size * channels + at;
        Chunk chunk;
        for (int64_t first = starts[s]; first < end; first += CHUNK) {
            const int64_t tokens = end - first < CHUNK ? end - first : CHUNK;
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t i = 0; i < WIDTH; i += LANES) {
                    const int64_t from = (first + t) * channels + at + i, left = width - i;
                    vec value = {}, step = {}, skip = {};
                    if (left > 0) {
                        value = load_some(x + from, left);
                        step = load_some(steps + from, left) + load_some(dt_bias + at + i, left);
                        step = softplus_of(step);
                        skip = load_some(d + at + i, left);
                    }
                    store(chunk.steps[t] + i, step);
                    store(chunk.inputs[t] + i, value * step);
                    store(chunk.y[t] + i, value * skip);
                }
            const int clear = fresh[s] && first == starts[s];
            for (int64_t n = 0; n < size; n++) {
                for (int64_t t = 0; t < tokens; t++) {
                    chunk.b[t][0] = b[(first + t) * bc_stride + g * size + n];
                    chunk.c[t][0] = c[(first + t) * bc_stride + g * size + n];
                }
                float *tile = state + n * channels, narrow[2][WIDTH];
                const float *rate = a + n * channels + at;
                if (clear) memset(tile, 0, (size_t)width * sizeof(float));
                if (width < WIDTH) {
                    memset(narrow, 0, sizeof narrow);
                    copy_rows(narrow[0], WIDTH, tile, channels, 1, width);
                    copy_rows(narrow[1], WIDTH, rate, channels, 1, width);
                    advance_channels(&chunk, narrow[0], narrow[1], tokens);
                    copy_rows(tile, channels, narrow[0], WIDTH, 1, width);
                } else
                    advance_channels(&chunk, tile, rate, tokens);
            }
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t i = 0; i < width; i += LANES) {
                    const int64_t left = width - i;
                    const vec gate = silu_of(load_some(z + (first + t) * z_stride + at + i, left));
                    store_some(y + (first + t) * channels + at + i,
                               load(chunk.y[t] + i) * gate, left);
                }
        }
    }
}

/* ---- Gated norm ---- */

/* y = norm(x * silu(z)) * weight, or norm(x) * weight * silu(z) if `norm_first`; without a weight
 * x * silu(z). The norm is that of the root mean square over each of `groups` parts of a row.
 * x, y: (rows, size); z: rows of (size), z_stride apart. */
void gated_norm(const float *x, const float *z, const float *weight, float *y, int64_t rows,
                int64_t groups, int64_t size, int64_t z_stride, int64_t norm_first, float eps) {
    const int64_t part = size / groups;
    const int gate_first = !norm_first || !weight;
#pragma omp parallel for TEAM schedule(static) if (rows * size > 8192)
    for (int64_t task = 0; task < rows * groups; task++) {
        const int64_t r = task / groups, at = task % groups * part;
        const float *from = x + r * size + at, *gates = z + r * z_stride + at;
        float *to = y + r * size + at;
        vec squares = {};
        for (int64_t i = 0; i < part; i += LANES) {
            vec value = load_some(from + i, part - i);
            if (gate_first) value *= silu_of(load_some(gates + i, part - i));
            squares += value * value;
            store_some(to + i, value, part - i);
        }
        if (!weight) continue;
        const float scale = 1.0f / sqrtf(sum_of_lanes(squares) / (float)part + eps);
        for (int64_t i = 0; i < part; i += LANES) {
            vec value = load_some(to + i, part - i) * scale;
            value *= load_some(weight + at + i, part - i);
            if (!gate_first) value *= silu_of(load_some(gates + i, part - i));
            store_some(to + i, value, part - i);
        }
    }
}

/* ---- The gated linear recurrence of Griffin ---- */

/* a = exp(rate * sigmoid(r)), s = a * s + sqrt(1 - a^2) * sigmoid(i) * x, y = s, for each channel; a
 * sequence's first token is s = sigmoid(i) * x.
 *
 * x, y: (tokens, channels); gates: (tokens, 2 * channels), i then r; rate: (channels); states:
 * (places, channels). */
void rg_lru(const float *x, const float *gates, const float *rate, float *states,
            const int64_t *slots, const int64_t *starts, const uint8_t *fresh, float *y,
            int64_t sequences, int64_t channels) {
    const int64_t blocks = (channels + BLOCK - 1) / BLOCK;
#pragma omp parallel for TEAM schedule(dynamic) if (starts[sequences] * channels > 8192)
    for (int64_t task = 0; task < sequences * blocks; task++) {
        const int64_t s = task / blocks, from = task % blocks * BLOCK, end = starts[s + 1];
        const int64_t to = from + BLOCK < channels ? from + BLOCK : channels;
        float *state = states + slots[s] * channels;
        for (int64_t c = from; c < to; c += LANES) {
            const int64_t left = to - c;
            const vec fade = load_some(rate + c, left);
            vec now = load_some(state + c, left);
            for (int64_t t = starts[s]; t < end; t++) {
                const float *gate = gates + t * 2 * channels + c;
                const vec log_a = fade * sigmoid_of(load_some(gate + channels, left));
                vec in = load_some(x + t * channels + c, left);
                in *= sigmoid_of(load_some(gate, left));
                if (fresh[s] && t == starts[s])
                    now = in;
                else {
                    const vec room = 1.0f - exp_of_nonpositive(log_a * 2.0f);
                    vec root = {};
                    for (int i = 0; i < LANES; i++) root[i] = sqrtf(room[i]);
                    in *= root;
                    now = exp_of_nonpositive(log_a) * now + in;
                }
                store_some(y + t * channels + c, now, left);
            }
            store_some(state + c, now, left);
        }
    }
}
