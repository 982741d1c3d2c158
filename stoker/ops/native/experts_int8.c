/* A layer of experts with 8-bit integers inside: as experts.c, with the arithmetic of linear_int8.c.
 * A row is quantised once for all its experts, and what lies between up and down again.
 *
 * Built by build.py; described in stoker/ops/experts_native.py.
 */
#include <omp.h>

#include "panels_int8.h"

#include "activation.h"
#include "experts_plan.h"

int64_t panel_width(void) { return WIDTH; }
int64_t group_size(void) { return GROUP; }
int64_t weight_offset(void) { return OFFSET; }
int64_t input_bytes(int64_t size) { return input_stride(size) * (int64_t)sizeof(input_t); }
int64_t scratch_bytes(int64_t pairs, int64_t experts) { return plan_bytes(pairs, experts); }

/* Each row in integers, at the places of all its pairs; weights, if they scale it, go into what the
 * integers are worth. */
static void quantise_inputs(const Plan *plan, const float *x, const float *scales,
                            input_t *integers, Worth *worth, int64_t rows, int64_t each,
                            int64_t size) {
    const int64_t stride = input_stride(size);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const input_t *first = 0;
        Worth own = {0};
        for (int64_t i = r * each; i < (r + 1) * each; i++) {
            const int64_t place = plan->place[i];
            if (place < 0) continue;
            if (first)
                memcpy(integers + place * stride, first, stride * sizeof *first);
            else
                own = quantise(x + r * size, integers + place * stride, size, stride);
            first = integers + place * stride;
            worth[place] = (Worth){scales ? own.scale * scales[i] : own.scale, own.total};
        }
    }
}

static int64_t tiles_that_fit(int64_t size) {
    const int64_t fitting = BLOCK_BYTES / (int64_t)sizeof(input_t) / size / TILE;
    return fitting > 1 ? fitting : 1;
}

/* x, y, add: (rows, size), add may be NULL; chosen, weights: (rows, each); one that is chosen
 * beyond `count` experts gives what it reads.
 * up: (experts, panels, groups, WIDTH, GROUP), OFFSET added, a gated panel holding LANES gates and
 * what they gate; down alike; scales and biases: (experts, panels, WIDTH), biases or NULL.
 * act: of gates, which a value of 1 stands for if `gated` is 0.
 * out: (rows * each, size), middle: (rows * each, inner) floats; integers: rows * each of the wider
 * input_bytes; worth: rows * each; memory: scratch_bytes. */
void experts_int8(const float *x, const int64_t *chosen, const float *weights, const int8_t *up,
                  const float *up_scale, const float *up_bias, const int8_t *down,
                  const float *down_scale, const float *down_bias, Gate *act, const float *add,
                  float *y, float *out, float *middle, input_t *integers, Worth *worth,
                  char *memory, int64_t rows, int64_t each, int64_t count, int64_t size,
                  int64_t inner, int64_t gated, int64_t weighs_input, int64_t clamps, float limit,
                  float shift) {
    const int64_t width = gated ? LANES : WIDTH;
    const int64_t groups[2] = {(size + GROUP - 1) / GROUP, (inner + GROUP - 1) / GROUP};
    const int64_t bytes[2] = {groups[0] * GROUP * WIDTH, groups[1] * GROUP * WIDTH};
    const int64_t strides[2] = {input_stride(size), input_stride(inner)};
    Plan plan = {.block = {tiles_that_fit(size), tiles_that_fit(inner)},
                 .panels = {(inner + width - 1) / width, (size + WIDTH - 1) / WIDTH}};
    make_plan(&plan, memory, chosen, rows * each, count, TILE);
#pragma omp parallel TEAM
    {
        const int threads = omp_get_num_threads();
        float ones[WIDTH];
        for (int at = 0; at < WIDTH; at++) ones[at] = 1.0f;
        quantise_inputs(&plan, x, weighs_input ? weights : 0, integers, worth, rows, each, size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t number = 0; number < plan.jobs[0]; number++) {
            const Job job = job_at(&plan, number, 0);
            const int8_t *panel = up + job.panel * bytes[0];
            const int8_t *next = up + job_at(&plan, number + threads, 0).panel * bytes[0];
            const float *scale = up_scale + job.panel * WIDTH;
            const float *bias = up_bias ? up_bias + job.panel * WIDTH : 0;
            const int64_t left = inner - job.own * width, columns = left < width ? left : width;
            for (int64_t t = job.first; t < job.last; t++) {
                const int64_t from = plan.start[t], n = plan.start[t + 1] - from;
                int32_t sums[TILE * WIDTH];
                float sums_of[TILE * WIDTH], values[WIDTH];
                tiles_of[n - 1](integers + from * strides[0], panel, sums,
                                (const char *)(t > job.first ? panel : next), groups[0],
                                strides[0]);
                write(sums, worth + from, scale, bias, 0, sums_of, n, WIDTH, WIDTH);
                for (int64_t i = 0; i < n; i++) {
                    float *gates = sums_of + i * WIDTH, *others = gated ? gates + LANES : 0;
                    if (clamps) clamp_gates(gates, others, width, limit, shift);
                    act(gates, gated ? others : ones, values, width);
                    memcpy(middle + (from + i) * inner + job.own * width, values,
                           columns * sizeof(float));
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < plan.start[plan.tiles]; i++)
            worth[i] = quantise(middle + i * inner, integers + i * strides[1], inner, strides[1]);
#pragma omp for schedule(dynamic, 1)
        for (int64_t number = 0; number < plan.jobs[1]; number++) {
            const Job job = job_at(&plan, number, 1);
            const int8_t *panel = down + job.panel * bytes[1];
            const int8_t *next = down + job_at(&plan, number + threads, 1).panel * bytes[1];
            for (int64_t t = job.first; t < job.last; t++) {
                const int64_t from = plan.start[t], n = plan.start[t + 1] - from;
                int32_t sums[TILE * WIDTH];
                tiles_of[n - 1](integers + from * strides[1], panel, sums,
                                (const char *)(t > job.first ? panel : next), groups[1],
                                strides[1]);
                write(sums, worth + from, down_scale + job.panel * WIDTH,
                      down_bias ? down_bias + job.panel * WIDTH : 0, 0,
                      out + from * size + job.own * WIDTH, n, size, size - job.own * WIDTH);
            }
        }
        combine(&plan, out, x, chosen, weights, weighs_input, add, y, rows, each, count, size);
    }
}
