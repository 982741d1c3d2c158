/* y = x W^T + b (+ a residual) with 8-bit integers inside: each row of x is quantised as it comes,
 * by its own largest value; each output's weights have been, at load (panels_int8.h).
 *
 * Built by build.py; described in stoker/ops/int8.py.
 */
#include <omp.h>

#include "panels_int8.h"

int64_t panel_width(void) { return WIDTH; }
int64_t group_size(void) { return GROUP; }
int64_t weight_offset(void) { return OFFSET; }

int64_t input_bytes(int64_t size) { return input_stride(size) * (int64_t)sizeof(input_t); }

/* x: (rows, size); panels: (ceil(outputs / WIDTH), groups, WIDTH, GROUP), OFFSET added;
 * scale, bias: (outputs), bias or NULL; add: (rows, outputs) or NULL; y: (rows, outputs);
 * integers: (rows, input_bytes) bytes; worth: rows. */
void linear_int8(const float *x, const int8_t *panels, const float *scale, const float *bias,
                 const float *add, float *y, input_t *integers, Worth *worth, int64_t rows,
                 int64_t size, int64_t outputs) {
    const int64_t count = (outputs + WIDTH - 1) / WIDTH, groups = (size + GROUP - 1) / GROUP;
    const int64_t padded = groups * GROUP, stride = input_stride(size);
    const int64_t fitting = BLOCK_BYTES / (int64_t)sizeof(input_t) / padded / TILE * TILE;
    const int64_t block = fitting > TILE ? fitting : TILE, blocks = (rows + block - 1) / block;
#pragma omp parallel TEAM
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            worth[i] = quantise(x + i * size, integers + i * stride, size, stride);
#pragma omp for schedule(dynamic, 1)
        for (int64_t job = 0; job < blocks * count; job++) {
            const int64_t p = job % count, first = job / count * block;
            const int64_t last = first + block < rows ? first + block : rows;
            const int64_t tiles = (last - first + TILE - 1) / TILE;
            const int8_t *panel = panels + p * padded * WIDTH;
            const char *ahead = (const char *)panel + omp_get_num_threads() * padded * WIDTH;
            for (int64_t t = 0; t < tiles; t++) {
                const int64_t from = first + (last - first) * t / tiles;
                const int64_t to = first + (last - first) * (t + 1) / tiles;
                int32_t sums[TILE * WIDTH];
                tiles_of[to - from - 1](integers + from * stride, panel, sums,
                                        t ? (const char *)panel : ahead, groups, stride);
                write(sums, worth + from, scale + p * WIDTH, bias ? bias + p * WIDTH : 0,
                      add ? add + from * outputs + p * WIDTH : 0,
                      y + from * outputs + p * WIDTH, to - from, outputs, outputs - p * WIDTH);
            }
        }
    }
}
