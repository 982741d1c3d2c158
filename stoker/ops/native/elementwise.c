/* Small operations over rows, float32, each in one pass over memory.
 *
 * Every row is computed by itself, so a result does not depend on the batch. Built by build.py;
 * described in stoker/ops/norm.py, activation.py and rope.py.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) for x in [-87, 87], clamped outside (relative error below 2e-7). */
static inline float exp_clamped(float x) {
    x = x < -87.0f ? -87.0f : (x > 87.0f ? 87.0f : x);
    float n = floorf(x * 1.44269504f + 0.5f);
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

static inline void norm_row(const float *x, const float *weight, float *y, int64_t size,
                            float eps) {
    float sum = 0.0f;
    for (int64_t d = 0; d < size; d++) sum += x[d] * x[d];
    const float scale = 1.0f / sqrtf(sum / (float)size + eps);
    for (int64_t d = 0; d < size; d++) y[d] = weight[d] * (x[d] * scale);
}

/* y = norm(x) * weight; x, y: (rows, size). */
void rms_norm(const float *x, const float *weight, float *y, int64_t rows, int64_t size,
              float eps) {
#pragma omp parallel for schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++) norm_row(x + r * size, weight, y + r * size, size, eps);
}

/* y = silu(gate) * up; x: (rows, 2 * size) holds gate and up, y: (rows, size). */
void silu_mul(const float *x, float *y, int64_t rows, int64_t size) {
#pragma omp parallel for schedule(static) if (rows * size > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = x + r * 2 * size, *up = gate + size;
        for (int64_t d = 0; d < size; d++)
            y[r * size + d] = gate[d] / (1.0f + exp_clamped(-gate[d])) * up[d];
    }
}

static inline void rotate_row(const float *x, const float *table, float *y, int64_t half) {
    for (int64_t d = 0; d < half; d++) {
        const float low = x[d], high = x[d + half];
        y[d] = low * table[d] - high * table[half + d];
        y[d + half] = high * table[d] + low * table[half + d];
    }
}

/* Splits qkv (rows, (heads + 2 * kv_heads) * dim); norms q and k if the weights are there;
 * rotates them by the rows' tables (rows, 2, dim / 2); writes q (rows, heads, dim), and k and v
 * to their slots in the caches (slots, kv_heads, dim). dim is at most 512. */
void rotate_and_store(const float *qkv, const float *q_weight, const float *k_weight,
                      const float *tables, const int64_t *slots, float *q, float *k_cache,
                      float *v_cache, int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim,
                      float eps) {
    const int64_t width = (heads + 2 * kv_heads) * dim;
#pragma omp parallel for schedule(static) if (rows * width > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = qkv + r * width, *table = tables + r * dim;
        float *keys = k_cache + slots[r] * kv_heads * dim;
        float normed[512];
        for (int64_t h = 0; h < heads + kv_heads; h++, x += dim) {
            const float *weight = h < heads ? q_weight : k_weight;
            float *y = h < heads ? q + (r * heads + h) * dim : keys + (h - heads) * dim;
            if (weight) norm_row(x, weight, normed, dim, eps);
            rotate_row(weight ? normed : x, table, y, dim / 2);
        }
        memcpy(v_cache + slots[r] * kv_heads * dim, x, kv_heads * dim * sizeof(float));
    }
}
