/* Activations, and their products with the values that they gate.
 *
 * `gate_NAME` is never inlined and takes GATED values at a time, so all libraries that contain it
 * (elementwise.c, linear.c) give the same bits for a value, wherever it lies in a row.
 */
#include <math.h>
#include <stdint.h>

#define GATED 8

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

static inline float silu(float x) { return x / (1.0f + exp_clamped(-x)); }

static inline float sigmoid(float x) { return 1.0f / (1.0f + exp_clamped(-x)); }

static inline float relu(float x) { return x < 0.0f ? 0.0f : x; }

static inline float relu2(float x) { return relu(x) * relu(x); }

static inline float gelu(float x) { return 0.5f * x * erfcf(x * -0.70710678f); }

/* x/2 (1 + tanh(u)) = x / (1 + exp(-2u)) */
static inline float gelu_tanh(float x) {
    const float u = 0.79788456f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exp_clamped(-2.0f * u));
}

static inline float softplus(float x) { return x > 20.0f ? x : log1pf(exp_clamped(x)); }

static inline float quick_gelu(float x) { return x / (1.0f + exp_clamped(-1.702f * x)); }

/* y = act(gate) * up; count is a multiple of GATED. */
typedef void Gate(const float *gate, const float *up, float *y, int64_t count);

#define GATE(NAME)                                                                                \
    __attribute__((noinline)) void gate_##NAME(const float *gate, const float *up, float *y,      \
                                               int64_t count) {                                   \
        for (int64_t at = 0; at < count; at += GATED)                                             \
            for (int64_t d = at; d < at + GATED; d++) y[d] = NAME(gate[d]) * up[d];               \
    }
GATE(silu)
GATE(relu)
GATE(sigmoid)
GATE(relu2)
GATE(gelu)
GATE(gelu_tanh)
GATE(quick_gelu)
GATE(softplus)
