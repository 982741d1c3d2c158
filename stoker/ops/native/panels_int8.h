/* Tiles of rows against panels of weights in 8-bit integers: what linear_int8.c and experts_int8.c
 * share. A panel holds WIDTH outputs: for each group of inputs, their weights side by side. Sums are
 * exact, so a row's result depends neither on the batch nor on the machine's instructions.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "compilers.h"

#define BLOCK_BYTES (512 << 10) /* of inputs, which stay in the second-level cache */

#if defined(__AVX512VNNI__)
#define LANES 16
#define TILE 14
#define GROUP 4
#define OFFSET 128 /* of the weights: the instruction wants one side unsigned */
typedef int8_t input_t;
typedef __m512i sums_t;
static inline sums_t zero(void) { return _mm512_setzero_si512(); }
static inline sums_t weights_at(const int8_t *from) { return _mm512_loadu_si512(from); }
/* _mm512_dpbusd_epi32, in a way that leaves the sums in their registers (GCC 12 copies them). */
static inline INLINE sums_t multiply_add(sums_t sums, const input_t *inputs, sums_t weights) {
    int32_t four;
    memcpy(&four, inputs, sizeof four);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(_mm512_set1_epi32(four)));
    return sums;
}
#elif defined(__AVX2__)
#define LANES 8
#define TILE 4 /* five and more leave the registers */
#define GROUP 2
#define OFFSET 0
typedef int16_t input_t;
typedef __m256i sums_t;
static inline sums_t zero(void) { return _mm256_setzero_si256(); }
static inline sums_t weights_at(const int8_t *from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
}
static inline INLINE sums_t multiply_add(sums_t sums, const input_t *inputs, sums_t weights) {
    int32_t two;
    memcpy(&two, inputs, sizeof two);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_set1_epi32(two), weights));
}
#else
#define LANES 8
#define TILE 4
#define GROUP 1
#define OFFSET 0
typedef int16_t input_t;
typedef int32_t sums_t __attribute__((vector_size(32)));
static inline sums_t zero(void) { return (sums_t){}; }
static inline sums_t weights_at(const int8_t *from) {
    typedef int8_t bytes __attribute__((vector_size(8)));
    bytes some;
    memcpy(&some, from, sizeof some);
    return __builtin_convertvector(some, sums_t);
}
static inline INLINE sums_t multiply_add(sums_t sums, const input_t *inputs, sums_t weights) {
    return sums + *inputs * weights;
}
#endif
#define WIDTH (2 * LANES)

/* What the integers of a row are worth, and their sum. */
typedef struct {
    float scale;
    int32_t total;
} Worth;

/* sums: (rows, WIDTH), over `groups` groups, of rows of integers and a panel, whose place among the
 * panels `ahead` is asked for meanwhile. One function for each number of rows: their sums stay in
 * registers. */
typedef void Tile(const input_t *x, const int8_t *panel, int32_t *sums, const char *ahead,
                  int64_t groups, int64_t stride);

static inline INLINE void tile(const input_t *x, const int8_t *panel, int32_t *sums,
                               const char *ahead, int64_t groups, int64_t stride,
                               const int rows) {
    sums_t own[TILE][2];
    for (int i = 0; i < rows; i++) own[i][0] = own[i][1] = zero();
    for (int64_t k = 0; k < groups; k++) {
        const sums_t low = weights_at(panel + k * WIDTH * GROUP);
        const sums_t high = weights_at(panel + (k * WIDTH + LANES) * GROUP);
        __builtin_prefetch(ahead + k * WIDTH * GROUP, 0, 2);
        if (WIDTH * GROUP > 64) __builtin_prefetch(ahead + k * WIDTH * GROUP + 64, 0, 2);
        for (int i = 0; i < rows; i++) {
            const input_t *inputs = x + i * stride + k * GROUP;
            own[i][0] = multiply_add(own[i][0], inputs, low);
            own[i][1] = multiply_add(own[i][1], inputs, high);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++) {
            const sums_t sum = own[i][half]; /* a copy, or all sums leave registers */
            memcpy(sums + i * WIDTH + half * LANES, &sum, sizeof sum);
        }
}

#if TILE == 14
#define EACH(DO) \
    DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
#else
#define EACH(DO) DO(1) DO(2) DO(3) DO(4)
#endif
#define TILE_OF(ROWS)                                                                           \
    static void tile##ROWS(const input_t *x, const int8_t *panel, int32_t *sums,                \
                           const char *ahead, int64_t groups, int64_t stride) {                 \
        tile(x, panel, sums, ahead, groups, stride, ROWS);                                      \
    }
EACH(TILE_OF)
#define NAME(ROWS) tile##ROWS,
static Tile *const tiles_of[TILE] = {EACH(NAME)};

/* The rows of y from sums over a panel, or its first `columns`. */
static inline void write(const int32_t *sums, const Worth *worth, const float *scale, const float *bias,
                  const float *add, float *y, int64_t rows, int64_t outputs, int64_t columns) {
    const int64_t count = columns < WIDTH ? columns : WIDTH;
    for (int64_t i = 0; i < rows; i++, sums += WIDTH, y += outputs, add += add ? outputs : 0)
        for (int64_t at = 0; at < count; at++) {
            const int32_t whole = sums[at] - OFFSET * worth[i].total;
            y[at] = (float)whole * (scale[at] * worth[i].scale) + (bias ? bias[at] : 0) +
                    (add ? add[at] : 0);
        }
}

/* One row in integers of -127 to 127. A row with NaN or infinity gives NaN for all its outputs. */
static Worth quantise(const float *x, input_t *to, int64_t size, int64_t stride) {
    int32_t largest = 0, total = 0; /* absolute values compare as integers do, NaN above all */
    for (int64_t k = 0; k < size; k++) {
        int32_t bits;
        memcpy(&bits, x + k, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    const int bad = largest >= 0x7f800000;
    float top;
    memcpy(&top, &largest, sizeof top);
    const float inverse = largest && !bad ? 127.0f / top : 0.0f;
    for (int64_t k = 0; k < size; k++) {
        const float scaled = x[k] * inverse;
        const int32_t whole = bad ? 0 : (int32_t)(scaled + copysignf(0.5f, scaled));
        to[k] = (input_t)whole;
        total += whole;
    }
    for (int64_t k = size; k < stride; k++) to[k] = 0;
    return (Worth){bad ? NAN : top / 127.0f, total};
}

/* Room for a row of integers, and for a line of zeros that keeps rows out of each other's places
 * in the first-level cache. */
static int64_t input_stride(int64_t size) { return (size + GROUP - 1) / GROUP * GROUP + 64; }
