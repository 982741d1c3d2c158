/* Decode attention over paged keys and values, float32, read in place.
 *
 * Sequences (and heads, where there are few) run in parallel and none depends on another, so a
 * sequence's result does not depend on the batch.
 * Built by build.py; described in stoker/ops/attention.py.
 */
#include <stdint.h>
#include <string.h>

/* exp(x) for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2] (relative error below 2e-7). */
static inline float exp_nonpositive(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = (float)(int32_t)(x * 1.44269504f - 0.5f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } scale = {((int32_t)n + 127) << 23};
    return p * scale.f;
}

/* Pages follow one another in no order that the hardware could foresee: ask for the next one. */
static inline void fetch(const float *from, int64_t count) {
    for (int64_t at = 0; at < count; at += 16) __builtin_prefetch(from + at);
}

/* One sequence and one key-value head: `group` query heads over positions first..len-1. */
static inline __attribute__((always_inline)) void attend(
    const float *query, const float *k, const float *v, float *result, const int64_t *table,
    int64_t first, int64_t len, int64_t group, int64_t span, int64_t token, int64_t dim,
    int64_t block_size, float scale, float *scores) {
    for (int64_t at = first; at < len;) {
        const int64_t block = at / block_size, start = block * block_size;
        const int64_t end = start + block_size < len ? start + block_size : len;
        const float *keys = k + (table[block] * block_size - start) * token;
        const float *next = end < len ? k + (table[block + 1] * block_size - start) * token : keys;
        for (; at < end; at++) {
            const float *key = keys + at * token;
            fetch(next + at * token, token);
            for (int64_t h = 0; h < group; h++) {
                const float *one = query + h * dim;
                float sum = 0.0f;
                for (int64_t d = 0; d < dim; d++) sum += one[d] * key[d];
                scores[h * span + at] = sum * scale;
            }
        }
    }
    for (int64_t h = 0; h < group; h++) {
        float *row = scores + h * span, top = row[first], total = 0.0f;
        for (int64_t t = first; t < len; t++) top = row[t] > top ? row[t] : top;
        for (int64_t t = first; t < len; t++) {
            row[t] = exp_nonpositive(row[t] - top);
            total += row[t];
        }
        const float inverse = 1.0f / total;
        for (int64_t t = first; t < len; t++) row[t] *= inverse;
    }
    memset(result, 0, group * dim * sizeof(float));
    for (int64_t at = first; at < len;) {
        const int64_t block = at / block_size, start = block * block_size;
        const int64_t end = start + block_size < len ? start + block_size : len;
        const float *values = v + (table[block] * block_size - start) * token;
        const float *next = end < len ? v + (table[block + 1] * block_size - start) * token : values;
        for (; at + 4 <= end; at += 4) {
            fetch(next + at * token, 4 * token);
            const float *a = values + at * token, *b = a + token, *c = b + token, *e = c + token;
            for (int64_t h = 0; h < group; h++) {
                const float *w = scores + h * span + at;
                float *one = result + h * dim;
                for (int64_t d = 0; d < dim; d++)
                    one[d] += w[0] * a[d] + w[1] * b[d] + w[2] * c[d] + w[3] * e[d];
            }
        }
        for (; at < end; at++)
            for (int64_t h = 0; h < group; h++) {
                const float weight = scores[h * span + at], *value = values + at * token;
                for (int64_t d = 0; d < dim; d++) result[h * dim + d] += weight * value[d];
            }
    }
}

/* q, out: (rows, heads, dim); k, v: (blocks, block_size, kv_heads, dim).
 * For each of `count` sequences: its row of q, its length, its `width` blocks.
 * window: keys seen, counted back from the last; 0 for all.
 * scratch: count * heads * (width * block_size) floats. */
void paged_decode(const float *restrict q, const float *restrict k, const float *restrict v,
                  float *restrict out, const int64_t *rows, const int64_t *lens,
                  const int64_t *tables, int64_t count, int64_t width, int64_t heads,
                  int64_t kv_heads, int64_t dim, int64_t block_size, int64_t window, float scale,
                  float *restrict scratch) {
    const int64_t group = heads / kv_heads, span = width * block_size;
    /* Enough sequences: one task reads whole pages in order. Few: heads are shared out too. */
    const int64_t split = count < 8 ? kv_heads : 1;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t task = 0; task < count * split; task++) {
        const int64_t s = task / split, len = lens[s];
        const int64_t first = window && len > window ? len - window : 0;
        const int64_t from = split > 1 ? task % split : 0, to = split > 1 ? from + 1 : kv_heads;
        for (int64_t g = from; g < to; g++) {
            const int64_t head = rows[s] * heads + g * group;
            float *scores = scratch + (s * heads + g * group) * span;
#define ATTEND(DIM)                                                                          \
    attend(q + head * dim, k + g * dim, v + g * dim, out + head * dim, tables + s * width,   \
           first, len, group, span, kv_heads * dim, DIM, block_size, scale, scores)
            switch (dim) {
                case 64: ATTEND(64); break;
                case 128: ATTEND(128); break;
                default: ATTEND(dim);
            }
        }
    }
}
