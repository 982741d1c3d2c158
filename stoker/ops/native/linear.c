/* y = x W^T + b (+ a residual), float32, with the weight laid out in panels (panels.h).
 *
 * Built by build.py; described in stoker/ops/linear.py.
 */
#include <omp.h>

#include "panels.h"

/* The rows of y, act(gate) * up, from sums that hold both. */
static void write_gated(const float *sums, const float *bias, Gate *gate, float *y, int64_t rows,
                        int64_t outputs, int64_t columns) {
    for (int64_t i = 0; i < rows; i++) {
        float row[WIDTH], last[LANES];
        for (int at = 0; at < WIDTH; at++) row[at] = sums[i * WIDTH + at] + (bias ? bias[at] : 0);
        float *to = columns < LANES ? last : y + i * outputs;
        gate(row, row + LANES, to, LANES);
        if (columns < LANES) memcpy(y + i * outputs, last, columns * sizeof(float));
    }
}

int64_t panel_width(void) { return WIDTH; }

/* x: (rows, size); scratch: as large, or NULL for a single row;
 * panels: (ceil(outputs / width), size, WIDTH), zero beyond the outputs, bf16 if `narrow`; the
 * width is LANES if `gate` is not NULL, or else WIDTH;
 * bias: (outputs), or (panels, WIDTH) with a gate, or NULL; add: (rows, outputs) or NULL, not with
 * a gate; y: (rows, outputs). */
void linear(const float *x, float *scratch, const char *panels, const float *bias,
            const float *add, Gate *gate, float *y, int64_t rows, int64_t size, int64_t outputs,
            int64_t narrow) {
    const int64_t width = gate ? LANES : WIDTH;
    const int64_t count = (outputs + width - 1) / width, tiles = (rows + TILE - 1) / TILE;
    const int64_t line = WIDTH * (narrow ? 2 : 4); /* bytes of weights for each k */
    const int64_t fitting = BLOCK_BYTES / 4 / size / TILE;
    const int64_t block = fitting > 1 ? fitting : 1, blocks = (tiles + block - 1) / block;
    const int64_t parts = (size + PACKED - 1) / PACKED;
#pragma omp parallel TEAM
    {
        if (rows > 1) {
#pragma omp for schedule(static)
            for (int64_t part = 0; part < tiles * parts; part++) {
                const int64_t t = part / parts, k = part % parts * PACKED;
                const int64_t from = rows * t / tiles, to = rows * (t + 1) / tiles;
                const float *own[TILE];
                for (int64_t i = from; i < to; i++) own[i - from] = x + i * size;
                pack(own, scratch + from * size, to - from, k,
                     k + PACKED < size ? k + PACKED : size);
            }
        }
        const float *inputs = rows > 1 ? scratch : x;
#pragma omp for schedule(dynamic, 1)
        for (int64_t job = 0; job < blocks * count; job++) {
            const int64_t p = job % count, first = job / count * block;
            const int64_t last = first + block < tiles ? first + block : tiles;
            const char *panel = panels + p * size * line;
            const char *next = panel + omp_get_num_threads() * size * line;
            const float *b = bias ? bias + p * WIDTH : 0;
            /* the next panel is shared out over the first tiles of this one */
            const int64_t shares = line <= 64 || last - first < 2 ? 1 : 2;
            for (int64_t t = first; t < last; t++) {
                const int64_t from = rows * t / tiles, to = rows * (t + 1) / tiles;
                const int64_t fetch = t - first < shares ? line / shares : 0;
                const char *ahead = next + (t - first) * fetch * size;
                float sums[TILE * WIDTH], *out = y + from * outputs + p * width;
                tiles_of[narrow][to - from - 1](inputs + from * size, panel, sums, ahead, fetch,
                                                size);
                if (gate)
                    write_gated(sums, b, gate, out, to - from, outputs, outputs - p * width);
                else
                    write(sums, b, add ? add + from * outputs + p * width : 0, out, to - from,
                          outputs, outputs - p * width);
            }
        }
    }
}

/* y[r, h] = W[h] x[r, h] for each of `heads`; the rows of x lie `x_row` apart and its heads `x_head`,
 * those of y alike. scratch: (heads, rows, size), or NULL for a single row; panels: (heads,
 * ceil(outputs / WIDTH), size, WIDTH), zero beyond the outputs. */
void linear_heads(const float *x, float *scratch, const float *panels, float *y, int64_t rows,
                  int64_t heads, int64_t size, int64_t outputs, int64_t x_row, int64_t x_head,
                  int64_t y_row, int64_t y_head) {
    const int64_t count = (outputs + WIDTH - 1) / WIDTH, tiles = (rows + TILE - 1) / TILE;
#pragma omp parallel TEAM
    {
        if (rows > 1) {
#pragma omp for schedule(static)
            for (int64_t job = 0; job < heads * tiles; job++) {
                const int64_t h = job / tiles, t = job % tiles;
                const int64_t from = rows * t / tiles, to = rows * (t + 1) / tiles;
                const float *own[TILE];
                for (int64_t i = from; i < to; i++) own[i - from] = x + i * x_row + h * x_head;
                pack(own, scratch + (h * rows + from) * size, to - from, 0, size);
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t job = 0; job < heads * count; job++) {
            const int64_t h = job / count, p = job % count;
            const char *panel = (const char *)(panels + job * size * WIDTH);
            const char *next = panel + omp_get_num_threads() * size * WIDTH * sizeof(float);
            const float *inputs = rows > 1 ? scratch + h * rows * size : x + h * x_head;
            for (int64_t t = 0; t < tiles; t++) {
                const int64_t from = rows * t / tiles, to = rows * (t + 1) / tiles;
                const int64_t fetch = t == 0 ? WIDTH * sizeof(float) : 0;
                float sums[TILE * WIDTH];
                tiles_of[0][to - from - 1](inputs + from * size, panel, sums, next, fetch, size);
                write(sums, 0, 0, y + from * y_row + h * y_head + p * WIDTH, to - from, y_row,
                      outputs - p * WIDTH);
            }
        }
    }
}
