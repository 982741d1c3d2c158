/* Small operations over rows, float32, each in one pass over memory.
 *
 * Every row is computed by itself, so a result does not depend on the batch. Built by build.py;
 * described in stoker/ops/norm.py, activation.py, rope.py, largest.py and bits.py.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "activation.h"
#include "vectors.h"

static inline void norm_row(const float *x, const float *weight, float *y, int64_t size,
                            float eps) {
    float sum = 0.0f;
    for (int64_t d = 0; d < size; d++) sum += x[d] * x[d];
    const float scale = 1.0f / sqrtf(sum / (float)size + eps);
    for (int64_t d = 0; d < size; d++) y[d] = weight[d] * (x[d] * scale);
}

/* top[r] is the largest of a row of x, (rows, size), which holds no NaN, and best[r] its first
 * place. */
void largest(const float *x, float *top, int64_t *best, int64_t rows, int64_t size) {
    enum { WIDE = 64, PART = 16 * WIDE };
#pragma omp parallel for TEAM schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * size;
        float most = row[0];
        int64_t first = 0, at = 0;
        for (; at + PART <= size; at += PART) {
            float tops[WIDE];
            memcpy(tops, row + at, sizeof tops);
            for (int64_t i = WIDE; i < PART; i += WIDE)
                for (int64_t j = 0; j < WIDE; j++)
                    tops[j] = row[at + i + j] > tops[j] ? row[at + i + j] : tops[j];
            float part = tops[0];
            for (int64_t j = 1; j < WIDE; j++) part = tops[j] > part ? tops[j] : part;
            if (part > most) {
                most = part;
                first = at;
                while (row[first] != part) first++;
            }
        }
        for (; at < size; at++)
            if (row[at] > most) {
                most = row[at];
                first = at;
            }
        best[r] = first;
        top[r] = most;
    }
}

/* In row rows[r] of x, (any, size), the places whose bit in bits[r], (width) bytes, is 0 become
 * -infinity. rows may be NULL, for row r. */
void bar_unset(float *x, const int64_t *rows, const uint8_t *bits, int64_t count, int64_t size,
               int64_t width) {
    typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
    ivec place;
    for (int i = 0; i < LANES; i++) place[i] = 1 << i;
#pragma omp parallel for TEAM schedule(static) if (count * size > 1 << 16)
    for (int64_t r = 0; r < count; r++) {
        float *row = x + (rows ? rows[r] : r) * size;
        const uint8_t *own = bits + r * width;
        int64_t at = 0;
        for (; at + LANES <= size; at += LANES) {
            const int set = LANES == 16 ? own[at / 8] | own[at / 8 + 1] << 8 : own[at / 8];
            const ivec kept = (place & set) != 0;
            const vec low = -INFINITY - (vec){};
            store(row + at, (vec)((kept & (ivec)load(row + at)) | (~kept & (ivec)low)));
        }
        for (; at < size; at++)
            if (!(own[at / 8] >> at % 8 & 1)) row[at] = -INFINITY;
    }
}

/* y = norm(x) * weight; x, y: (rows, size). */
void rms_norm(const float *x, const float *weight, float *y, int64_t rows, int64_t size,
              float eps) {
#pragma omp parallel for TEAM schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++) norm_row(x + r * size, weight, y + r * size, size, eps);
}

/* y = (x - mean) / deviation * weight + bias; x, y: (rows, size). Row r takes row r % periods of
 * weight and bias, (periods, size); bias may be NULL. */
void layer_norm(const float *x, const float *weight, const float *bias, float *y, int64_t rows,
                int64_t periods, int64_t size, float eps) {
#pragma omp parallel for TEAM schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * size, *w = weight + r % periods * size;
        const float *b = bias ? bias + r % periods * size : 0;
        float *out = y + r * size, sum = 0.0f, squares = 0.0f;
        for (int64_t d = 0; d < size; d++) sum += row[d];
        const float mean = sum / (float)size;
        for (int64_t d = 0; d < size; d++) squares += (row[d] - mean) * (row[d] - mean);
        const float scale = 1.0f / sqrtf(squares / (float)size + eps);
        if (b)
            for (int64_t d = 0; d < size; d++) out[d] = (row[d] - mean) * scale * w[d] + b[d];
        else
            for (int64_t d = 0; d < size; d++) out[d] = (row[d] - mean) * scale * w[d];
    }
}

static inline void gate_row(Gate *apply, const float *gate, const float *up, float *y,
                            int64_t size) {
    const int64_t whole = size / GATED * GATED, rest = size - whole;
    apply(gate, up, y, whole);
    if (rest) {
        float last[3][GATED] = {0};
        memcpy(last[0], gate + whole, rest * sizeof(float));
        memcpy(last[1], up + whole, rest * sizeof(float));
        apply(last[0], last[1], last[2], GATED);
        memcpy(y + whole, last[2], rest * sizeof(float));
    }
}

/* y = act(x); x, y: (rows, size). If gated y = act(gate) * up, where x: (rows, 2 * size) holds
 * gate and up. */
#define ACTIVATION(NAME)                                                                          \
    void activate_##NAME(const float *x, float *y, int64_t rows, int64_t size, int64_t gated) {   \
        _Pragma("omp parallel for TEAM schedule(static) if (rows * size > 16384)")                \
        for (int64_t r = 0; r < rows; r++) {                                                      \
            const float *gate = x + r * (gated ? 2 : 1) * size;                                   \
            if (gated)                                                                            \
                gate_row(gate_##NAME, gate, gate + size, y + r * size, size);                     \
            else                                                                                  \
                for (int64_t d = 0; d < size; d++) y[r * size + d] = NAME(gate[d]);               \
        }                                                                                         \
    }
ACTIVATION(silu)
ACTIVATION(relu)
ACTIVATION(sigmoid)
ACTIVATION(relu2)
ACTIVATION(gelu)
ACTIVATION(gelu_tanh)
ACTIVATION(quick_gelu)
ACTIVATION(softplus)

/* tanh(x): a polynomial near 0, where the quotient would lose digits. */
static inline float tanh_of(float x) {
    const float square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    p = p * square * x + x;
    const float far = 1.0f - 2.0f / (exp_clamped(2.0f * x) + 1.0f);
    return square < 0.390625f ? p : far;
}

/* y = x * sigmoid(gates); x, y: (rows, size), gates: rows of (count), stride apart, each for
 * size / count neighbours in a row. */
void sigmoid_gate(const float *x, const float *gates, float *y, int64_t rows, int64_t size,
                  int64_t count, int64_t stride) {
    const int64_t part = size / count;
#pragma omp parallel for TEAM schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *own = gates + r * stride;
        if (part == 1) {
            gate_row(gate_sigmoid, own, x + r * size, y + r * size, size);
            continue;
        }
        float ones[GATED], factors[count];
        for (int i = 0; i < GATED; i++) ones[i] = 1.0f;
        for (int64_t at = 0; at < count; at += GATED)
            gate_row(gate_sigmoid, own + at, ones, factors + at,
                     count - at < GATED ? count - at : GATED);
        for (int64_t i = 0; i < count; i++)
            for (int64_t d = r * size + i * part; d < r * size + (i + 1) * part; d++)
                y[d] = x[d] * factors[i];
    }
}

/* y = cap * tanh(x / cap); x, y: (rows, size). */
void soft_cap(const float *x, float *y, int64_t rows, int64_t size, float cap) {
#pragma omp parallel for TEAM schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < size; d++) y[r * size + d] = cap * tanh_of(x[r * size + d] / cap);
}

/* y = above * x^2 + x / 2 above 0, below * (e^x - 1 - x) + x / 2 below; x, y: (rows, size). */
void xielu(const float *x, float *y, int64_t rows, int64_t size, float above, float below) {
#pragma omp parallel for TEAM schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = r * size; d < (r + 1) * size; d++) {
            const float low = below * (expm1f(x[d] < -1e-6f ? x[d] : -1e-6f) - x[d]);
            y[d] = (x[d] > 0.0f ? above * x[d] * x[d] : low) + 0.5f * x[d];
        }
}

/* One head: normed if there is a weight, then rotated. */
static inline INLINE void turn(const float *restrict x, const float *restrict weight,
                               const float *restrict table, float *restrict y, const int64_t dim,
                               const int64_t rotary, float eps) {
    const int64_t half = rotary / 2;
    float normed[512];
    const float *from = x;
    if (weight) {
        norm_row(x, weight, normed, dim, eps);
        from = normed;
    }
    for (int64_t d = 0; d < half; d++) {
        const float low = from[d], high = from[d + half];
        y[d] = low * table[d] - high * table[half + d];
        y[d + half] = high * table[d] + low * table[half + d];
    }
    for (int64_t d = rotary; d < dim; d++) y[d] = from[d];
}

/* Splits qkv (rows, (heads + 2 * kv_heads) * dim); norms q, k and v if the weights are there;
 * rotates the first `rotary` of each head of q and k by the rows' tables (rows, 2, rotary / 2);
 * writes q (rows, heads, dim), and k and v to their cells in the caches (cells, kv_heads, dim),
 * unless the cell is negative. Without kv_heads there are neither. dim is at most 512. */
void rotate_and_store(const float *qkv, const float *q_weight, const float *k_weight,
                      const float *v_weight, const float *tables, const int64_t *cells, float *q, float *k_cache,
                      float *v_cache, int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim,
                      int64_t rotary, float eps) {
    const int64_t width = (heads + 2 * kv_heads) * dim;
#pragma omp parallel for TEAM schedule(static) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = qkv + r * width, *table = tables + r * rotary;
        const int64_t cell = kv_heads ? cells[r] : -1, last = cell < 0 ? heads : heads + kv_heads;
        for (int64_t h = 0; h < last; h++, x += dim) {
            const float *weight = h < heads ? q_weight : k_weight;
            float *y = h < heads ? q + (r * heads + h) * dim
                                 : k_cache + (cell * kv_heads + h - heads) * dim;
            if (dim == 64 && rotary == 64) /* known sizes need no loops */
                turn(x, weight, table, y, 64, 64, eps);
            else if (dim == 128 && rotary == 128)
                turn(x, weight, table, y, 128, 128, eps);
            else
                turn(x, weight, table, y, dim, rotary, eps);
        }
        if (cell < 0) continue;
        float *values = v_cache + cell * kv_heads * dim;
        if (v_weight)
            for (int64_t d = 0; d < kv_heads * dim; d += dim)
                norm_row(x + d, v_weight, values + d, dim, eps);
        else
            memcpy(values, x, kv_heads * dim * sizeof(float));
    }
}

/* Of latent attention: the latent row of each token, and the rotated numbers of its queries.
 * q: (rows, heads, plain + shared), kv: (rows, rank + shared); query: (rows, heads, rank + shared),
 * of which the last `shared` are written: those of q, the first `rotary` of them rotated by the
 * rows' tables (rows, 2, rotary / 2). cache: (cells, rank + shared): norm(kv) * weight * gain and
 * the shared numbers, rotated alike, at the rows' cells, unless these are negative. */
void store_latent(const float *q, const float *kv, const float *weight, const float *tables,
                  const int64_t *cells, float *query, float *cache, int64_t rows, int64_t heads,
                  int64_t plain, int64_t rank, int64_t shared, int64_t rotary, float eps,
                  float gain) {
#pragma omp parallel for TEAM schedule(static) if (rows * heads * shared > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *table = tables + r * rotary;
        for (int64_t h = 0; h < heads; h++)
            turn(q + (r * heads + h) * (plain + shared) + plain, 0, table,
                 query + (r * heads + h) * (rank + shared) + rank, shared, rotary, 0.0f);
        if (cells[r] < 0) continue;
        const float *from = kv + r * (rank + shared);
        float *to = cache + cells[r] * (rank + shared);
        norm_row(from, weight, to, rank, eps);
        for (int64_t d = 0; gain != 1.0f && d < rank; d++) to[d] *= gain;
        turn(from + rank, 0, table, to + rank, shared, rotary, 0.0f);
    }
}
