/* Exponentials of vectors, and what is made of them: a lane's result depends on that lane alone. */
#ifndef VECTOR_MATH_H
#define VECTOR_MATH_H

#include <stdint.h>

#include "vectors.h"

typedef int32_t lanes_int __attribute__((vector_size(4 * LANES)));

static inline vec broadcast(float x) { return x - (vec){}; }

/* yes where the mask is all ones, no where it is 0. */
static inline vec choose(lanes_int mask, vec yes, vec no) {
    return (vec)((mask & (lanes_int)yes) | (~mask & (lanes_int)no));
}

/* exp(x) for x <= 0, -infinity included: 2^n times a polynomial on [-ln2/2, ln2/2] (relative error
 * below 2e-7; 0 below -87). NaN stays NaN. */
static inline vec exp_of_nonpositive(vec x) {
    const lanes_int tiny = x < -87.0f;
    x = choose(tiny, broadcast(-87.0f), x);
    const lanes_int n = __builtin_convertvector(x * 1.44269504f - 0.5f, lanes_int);
    const vec whole = __builtin_convertvector(n, vec);
    const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)(~tiny & (lanes_int)(p * (vec)((n + 127) << 23)));
}

static inline vec negative_size(vec x) { return choose(x > 0.0f, -x, x); }

/* 1 / (1 + exp(-x)) */
static inline vec sigmoid_of(vec x) {
    const vec e = exp_of_nonpositive(negative_size(x));
    return choose(x < 0.0f, e, broadcast(1.0f)) / (1.0f + e);
}

/* x / (1 + exp(-x)) */
static inline vec silu_of(vec x) { return x * sigmoid_of(x); }

/* log(1 + u) for u in [0, 1]: 2 atanh(s) with s = u / (2 + u) <= 1/3 (relative error below 2e-7). */
static inline vec log1p_of(vec u) {
    const vec s = u / (2.0f + u), square = s * s;
    vec p = square * (1.0f / 15.0f) + 1.0f / 13.0f;
    p = p * square + 1.0f / 11.0f;
    p = p * square + 1.0f / 9.0f;
    p = p * square + 1.0f / 7.0f;
    p = p * square + 1.0f / 5.0f;
    p = p * square + 1.0f / 3.0f;
    p = p * square + 1.0f;
    return 2.0f * s * p;
}

/* log(1 + exp(x)) */
static inline vec softplus_of(vec x) {
    return choose(x > 0.0f, x, broadcast(0.0f)) + log1p_of(exp_of_nonpositive(negative_size(x)));
}

/* The first `count` lanes from memory, the others 0; all if there are as many. */
static inline vec load_some(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    float lanes[LANES] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i] = from[i];
    return load(lanes);
}

static inline void store_some(float *to, vec x, int64_t count) {
    if (count >= LANES)
        store(to, x);
    else
        memcpy(to, &x, (size_t)count * sizeof(float));
}

static inline float sum_of_lanes(vec x) {
    float lanes[LANES];
    memcpy(lanes, &x, sizeof lanes);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

#endif
