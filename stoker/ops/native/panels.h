/* Tiles of rows against panels of weights, for float32 sums: what linear.c and experts.c share.
 *
 * A panel holds WIDTH outputs: for each k, their WIDTH weights side by side. A tile of rows, for
 * each k their inputs side by side, meets a panel with its sums in registers, while the next
 * panel is fetched. Every sum runs over k in order, so a row's result has the same bits in any
 * batch.
 *
 * Weights that are bf16 numbers are narrow: 2 bytes each, widened in the registers, which changes
 * no bit of a result. A narrow panel has outputs 0, LANES, 1, LANES + 1, ... side by side, so that
 * one load holds the two vectors of weights in the lower and upper halves of its lanes.
 *
 * A gated panel holds LANES outputs: their gates, then the values that they gate, so that the
 * activation is applied before anything is written.
 */
#include "activation.h"
#include "vectors.h"

#if LANES == 16
#define TILE 14 /* rows: 28 sums, 2 weights, 1 input in 32 registers */
#else
#define TILE 6 /* 12 sums, 2 weights, 1 input in 16 registers */
#endif
#define WIDTH (2 * LANES)
#define BLOCK_BYTES (512 << 10) /* of inputs, which stay in the second-level cache */
#define PACKED 64 /* inputs of a tile that a thread packs at a time */

typedef uint32_t bits __attribute__((vector_size(4 * LANES)));

/* The two vectors of weights for input k. */
static inline INLINE void weights_at(const char *panel, int64_t k, vec *low, vec *high,
                                     const int narrow) {
    if (narrow) {
        bits both;
        memcpy(&both, panel + k * WIDTH * 2, sizeof both);
        *low = (vec)(both << 16);
        *high = (vec)(both & 0xffff0000u);
    } else {
        *low = load((const float *)panel + k * WIDTH);
        *high = load((const float *)panel + k * WIDTH + LANES);
    }
}

/* Asks for the next `fetch` bytes (at most two lines of a cache) at `ahead`. Where a tile of
 * `rows` leaves the time they come to the first-level cache, or else to the second. */
static inline INLINE void ask(const char *ahead, int64_t fetch, const int rows) {
    if (fetch > 64) {
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead + 64, 0, 2);
    } else if (fetch > 0) {
        if (rows > 8)
            __builtin_prefetch(ahead, 0, 3);
        else
            __builtin_prefetch(ahead, 0, 2);
    }
}

/* sums: (rows, WIDTH), over k in [0, size), of a tile of inputs and a panel. Meanwhile `fetch` bytes
 * at `ahead` are asked for with each k. One function for each number of rows: their sums stay in
 * registers. */
typedef void Tile(const float *x, const char *panel, float *sums, const char *ahead,
                  int64_t fetch, int64_t size);

static inline INLINE void tile(const float *x, const char *panel, float *sums, const char *ahead,
                               int64_t fetch, int64_t size, const int rows, const int narrow) {
    vec own[TILE][2];
    for (int i = 0; i < rows; i++) own[i][0] = own[i][1] = (vec){};
    for (int64_t k = 0; k < size; k++) {
        vec low, high;
        weights_at(panel, k, &low, &high, narrow);
        ask(ahead + k * fetch, fetch, rows);
        for (int i = 0; i < rows; i++) {
            const float input = x[k * rows + i];
            own[i][0] += low * input;
            own[i][1] += high * input;
        }
    }
    for (int i = 0; i < rows; i++)
        for (int half = 0; half < 2; half++) store(sums + i * WIDTH + half * LANES, own[i][half]);
}

#if LANES == 16
#define EACH(DO) \
    DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
#else
#define EACH(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#endif
#define TILE_OF(NAME, ROWS, NARROW)                                                             \
    static void NAME##ROWS(const float *x, const char *panel, float *sums, const char *ahead,   \
                           int64_t fetch, int64_t size) {                                       \
        tile(x, panel, sums, ahead, fetch, size, ROWS, NARROW);                                 \
    }
#define BOTH(ROWS) TILE_OF(wide, ROWS, 0) TILE_OF(narrow, ROWS, 1)
EACH(BOTH)
#define WIDE(ROWS) wide##ROWS,
#define NARROW(ROWS) narrow##ROWS,
static Tile *const tiles_of[2][TILE] = {{EACH(WIDE)}, {EACH(NARROW)}};

/* The rows of y from sums over a whole panel, or its first `columns`: sums + bias + add. */
static inline void write(const float *sums, const float *bias, const float *add, float *y, int64_t rows,
                  int64_t outputs, int64_t columns) {
    for (int64_t i = 0; i < rows; i++, sums += WIDTH, y += outputs, add += add ? outputs : 0)
        if (columns >= WIDTH)
            for (int at = 0; at < WIDTH; at += LANES) {
                vec sum = load(sums + at);
                if (bias) sum += load(bias + at);
                if (add) sum += load(add + at);
                store(y + at, sum);
            }
        else
            for (int64_t at = 0; at < columns; at++)
                y[at] = sums[at] + (bias ? bias[at] : 0) + (add ? add[at] : 0);
}

/* Sixteen values, four of each of the rows x, to where columns were, `width` apart. */
static inline INLINE void transpose(const float *const *x, int64_t k, float *to, int64_t width) {
    typedef float four __attribute__((vector_size(16)));
    typedef int32_t ifour __attribute__((vector_size(16)));
    four in[4], pairs[4];
    for (int i = 0; i < 4; i++) memcpy(in + i, x[i] + k, sizeof *in);
    for (int i = 0; i < 2; i++) {
        pairs[i] = SHUFFLE(ifour, in[2 * i], in[2 * i + 1], 0, 4, 1, 5);
        pairs[2 + i] = SHUFFLE(ifour, in[2 * i], in[2 * i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 2; i++) {
        const four even = SHUFFLE(ifour, pairs[2 * i], pairs[2 * i + 1], 0, 1, 4, 5);
        const four odd = SHUFFLE(ifour, pairs[2 * i], pairs[2 * i + 1], 2, 3, 6, 7);
        memcpy(to + 2 * i * width, &even, sizeof even);
        memcpy(to + (2 * i + 1) * width, &odd, sizeof odd);
    }
}

/* Lays the values for k in [from, to) of the rows x out as a tile, side by side for each k. */
static void pack(const float *const *x, float *tile, int64_t rows, int64_t from, int64_t to) {
    const int64_t fours = rows < 4 ? from : from + (to - from) / 4 * 4;
    for (int64_t i = 0; i < rows; i += 4) { /* the last four may overlap those before */
        const int64_t row = i < rows - 4 ? i : rows - 4;
        for (int64_t k = from; k < fours; k += 4)
            transpose(x + row, k, tile + k * rows + row, rows);
    }
    for (int64_t k = fours; k < to; k++)
        for (int64_t i = 0; i < rows; i++) tile[k * rows + i] = x[i][k];
}
