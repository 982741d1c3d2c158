/* A layer of experts in float32: each row through its experts, weighted and summed.
 *
 * Rows are sorted by expert, and each expert's meet its panels of weights in tiles (panels.h,
 * experts_plan.h): up with the activation, then down. Nothing is padded, and an expert that no row
 * takes is not read. A row's result has the same bits in any batch.
 * Built by build.py; described in stoker/ops/experts_native.py.
 */
#include <omp.h>

#include "experts_plan.h"
#include "panels.h"

int64_t panel_width(void) { return WIDTH; }
int64_t scratch_bytes(int64_t pairs, int64_t experts) { return plan_bytes(pairs, experts); }

/* Lays out the inputs of the tiles of more than one row, or of all if weights scale them. */
static void pack_inputs(const Plan *plan, const float *x, const float *scales, float *packed,
                        int64_t each, int64_t size) {
    const int64_t parts = (size + PACKED - 1) / PACKED;
#pragma omp for schedule(static)
    for (int64_t part = 0; part < plan->tiles * parts; part++) {
        const int64_t t = part / parts, k = part % parts * PACKED;
        const int64_t from = plan->start[t], rows = plan->start[t + 1] - from;
        if (rows == 1 && !scales) continue;
        const int64_t end = k + PACKED < size ? k + PACKED : size;
        const float *own[TILE];
        float *tile = packed + from * size;
        for (int64_t i = 0; i < rows; i++) own[i] = x + plan->pair[from + i] / each * size;
        pack(own, tile, rows, k, end);
        if (scales)
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = k; j < end; j++) tile[j * rows + i] *= scales[plan->pair[from + i]];
    }
}

/* x, y, add: (rows, size), add may be NULL; chosen, weights: (rows, each); one that is chosen
 * beyond `count` experts gives what it reads.
 * up: (experts, panels, size, WIDTH), a gated panel holding LANES gates and what they gate;
 * down: (experts, panels, inner, WIDTH); biases: (experts, panels, WIDTH) or NULL; `narrow_up`,
 * `narrow_down`: which weights are bf16.
 * act: of gates, which a value of 1 stands for if `gated` is 0.
 * packed: (rows * each, size) and middle: (rows * each, inner) floats; memory: scratch_bytes. */
void experts(const float *x, const int64_t *chosen, const float *weights, const char *up,
             const float *up_bias, const char *down, const float *down_bias, Gate *act,
             const float *add, float *y, float *packed, float *middle, char *memory, int64_t rows,
             int64_t each, int64_t count, int64_t size, int64_t inner, int64_t gated,
             int64_t narrow_up, int64_t narrow_down, int64_t weighs_input, int64_t clamps,
             float limit, float shift) {
    const int64_t width = gated ? LANES : WIDTH;
    const int64_t lines[2] = {WIDTH * (narrow_up ? 2 : 4), WIDTH * (narrow_down ? 2 : 4)};
    const int64_t fits[2] = {BLOCK_BYTES / 4 / size / TILE, BLOCK_BYTES / 4 / inner / TILE};
    Plan plan = {.block = {fits[0] > 1 ? fits[0] : 1, fits[1] > 1 ? fits[1] : 1},
                 .panels = {(inner + width - 1) / width, (size + WIDTH - 1) / WIDTH}};
    make_plan(&plan, memory, chosen, rows * each, count, TILE);
    const float *scales = weighs_input ? weights : 0;
#pragma omp parallel TEAM
    {
        const int threads = omp_get_num_threads();
        float ones[WIDTH];
        for (int at = 0; at < WIDTH; at++) ones[at] = 1.0f;
        pack_inputs(&plan, x, scales, packed, each, size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t number = 0; number < plan.jobs[0]; number++) {
            const Job job = job_at(&plan, number, 0);
            const char *panel = up + job.panel * size * lines[0];
            const char *next = up + job_at(&plan, number + threads, 0).panel * size * lines[0];
            const float *bias = up_bias ? up_bias + job.panel * WIDTH : 0;
            const int64_t left = inner - job.own * width, columns = left < width ? left : width;
            const int64_t shares = lines[0] <= 64 || job.last - job.first < 2 ? 1 : 2;
            for (int64_t t = job.first; t < job.last; t++) {
                const int64_t from = plan.start[t], n = plan.start[t + 1] - from;
                const int64_t fetch = t - job.first < shares ? lines[0] / shares : 0;
                const float *input = n > 1 || scales ? packed + from * size
                                                     : x + plan.pair[from] / each * size;
                float sums[TILE * WIDTH], values[TILE * WIDTH];
                const float *own[TILE];
                tiles_of[narrow_up][n - 1](input, panel, sums,
                                           next + (t - job.first) * fetch * size, fetch, size);
                for (int64_t i = 0; i < n; i++) {
                    float *gates = sums + i * WIDTH, *others = gated ? gates + LANES : 0;
                    for (int at = 0; bias && at < WIDTH; at++) gates[at] += bias[at];
                    if (clamps) clamp_gates(gates, others, width, limit, shift);
                    act(gates, gated ? others : ones, values + i * WIDTH, width);
                    own[i] = values + i * WIDTH;
                }
                pack(own, middle + from * inner + job.own * width * n, n, 0, columns);
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t number = 0; number < plan.jobs[1]; number++) {
            const Job job = job_at(&plan, number, 1);
            const char *panel = down + job.panel * inner * lines[1];
            const char *next = down + job_at(&plan, number + threads, 1).panel * inner * lines[1];
            const float *bias = down_bias ? down_bias + job.panel * WIDTH : 0;
            const int64_t shares = lines[1] <= 64 || job.last - job.first < 2 ? 1 : 2;
            for (int64_t t = job.first; t < job.last; t++) {
                const int64_t from = plan.start[t], n = plan.start[t + 1] - from;
                const int64_t fetch = t - job.first < shares ? lines[1] / shares : 0;
                float sums[TILE * WIDTH];
                tiles_of[narrow_down][n - 1](middle + from * inner, panel, sums,
                                             next + (t - job.first) * fetch * inner, fetch, inner);
                write(sums, bias, 0, packed + from * size + job.own * WIDTH, n, size,
                      size - job.own * WIDTH);
            }
        }
        combine(&plan, packed, x, chosen, weights, weighs_input, add, y, rows, each, count, size);
    }
}
