/* y = x W^T + b (+ a residual), float32, with the weight laid out in panels.
 *
 * A panel holds WIDTH outputs: for each k, their WIDTH weights side by side. A tile of rows meets
 * a panel with its sums in registers, while the next panel is fetched. Every sum runs over k in
 * order, so a row's result has the same bits in any batch.
 * Built by build.py; described in stoker/ops/linear.py.
 */
#include <omp.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define TILE 14 /* rows: 28 sums, 2 weights, 1 input in 32 registers */
#else
#define LANES 8
#define TILE 6 /* 12 sums, 2 weights, 1 input in 16 registers */
#endif
#define WIDTH (2 * LANES)
#define BLOCK_BYTES (512 << 10) /* of inputs, which stay in the second-level cache */
#define INLINE __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

/* `rows` rows of y, `columns` wide, from one panel. The panel at `ahead` is asked for
 * meanwhile, if it is not NULL. */
static inline INLINE void tile(const float *x, const float *panel, const float *bias,
                               const float *add, float *y, const float *ahead, int64_t lines, int64_t size,
                               int64_t stride, int64_t outputs, int64_t columns, const int rows) {
    vec sums[TILE][2];
    for (int i = 0; i < rows; i++) sums[i][0] = sums[i][1] = (vec){};
    for (int64_t k = 0; k < size; k++) {
        const vec low = load(panel + k * WIDTH), high = load(panel + k * WIDTH + LANES);
        if (lines > 0) __builtin_prefetch(ahead + k * lines * 16, 0, 2);
        if (lines > 1) __builtin_prefetch(ahead + k * lines * 16 + 16, 0, 2);
        for (int i = 0; i < rows; i++) {
            const float input = x[i * stride + k];
            sums[i][0] += low * input;
            sums[i][1] += high * input;
        }
    }
    for (int i = 0; i < rows; i++)
        if (columns >= WIDTH)
            for (int half = 0; half < 2; half++) {
                const int64_t at = half * LANES;
                vec sum = sums[i][half];
                if (bias) sum += load(bias + at);
                if (add) sum += load(add + i * outputs + at);
                store(y + i * outputs + at, sum);
            }
        else
            for (int64_t at = 0; at < columns; at++) {
                float sum = sums[i][at / LANES][at % LANES];
                if (bias) sum += bias[at];
                if (add) sum += add[i * outputs + at];
                y[i * outputs + at] = sum;
            }
}

int64_t panel_width(void) { return WIDTH; }

/* Rows a multiple of 2 KiB apart would all want the same few places of the first-level cache. */
int64_t padded_size(int64_t size) { return size % 512 ? size : size + LANES; }

/* x: (rows, size); scratch: (rows, padded_size(size)) if that is more than size; panels: (ceil(outputs / WIDTH), size, WIDTH), zero beyond the outputs;
 * bias: (outputs) or NULL; add: (rows, outputs) or NULL; y: (rows, outputs). */
void linear(const float *x, float *scratch, const float *panels, const float *bias, const float *add,
            float *y, int64_t rows, int64_t size, int64_t outputs) {
    const int64_t count = (outputs + WIDTH - 1) / WIDTH;
    const int64_t fitting = BLOCK_BYTES / 4 / size / TILE * TILE;
    const int64_t block = fitting > TILE ? fitting : TILE, blocks = (rows + block - 1) / block;
    const int64_t stride = padded_size(size);
    if (stride > size) {
#pragma omp parallel for schedule(static) if (rows * size > 16384)
        for (int64_t i = 0; i < rows; i++)
            memcpy(scratch + i * stride, x + i * size, size * sizeof(float));
        x = scratch;
    }
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t job = 0; job < blocks * count; job++) {
        const int64_t p = job % count, first = job / count * block;
        const int64_t last = first + block < rows ? first + block : rows;
        const int64_t tiles = (last - first + TILE - 1) / TILE;
        const float *panel = panels + p * size * WIDTH;
        const float *next = panel + omp_get_num_threads() * size * WIDTH;
        const float *b = bias ? bias + p * WIDTH : 0;
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t from = first + (last - first) * t / tiles;
            const int64_t to = first + (last - first) * (t + 1) / tiles;
            /* the lines of the next panel, shared out over the first tiles of this one */
            const int64_t shares = tiles < WIDTH / 16 ? tiles : WIDTH / 16;
            const int64_t lines = t < shares ? WIDTH / 16 / shares : 0;
            const float *ahead = next + t * lines * size * 16;
            const float *a = add ? add + from * outputs + p * WIDTH : 0;
#define ROWS(N)                                                                               \
    case N:                                                                                   \
        tile(x + from * stride, panel, b, a, y + from * outputs + p * WIDTH, ahead, lines,    \
             size, stride, outputs, outputs - p * WIDTH, N);                                  \
        break;
            switch (to - from) {
                ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
#if TILE > 6
                ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
#endif
            }
        }
    }
}
