/* Routing of mixtures of experts: a row's logits to the experts it takes and their weights.
 *
 * Every row is computed by itself, so a result does not depend on the batch. Built by build.py;
 * described in stoker/ops/routing.py.
 */
#include <stdint.h>
#include <string.h>

#include "activation.h"
#include "compilers.h"

enum { SOFTMAX, SIGMOID, CHOSEN };

/* Softmax of `count` numbers, or of those at `places` if it is not NULL; y may be x. */
static void softmax(const float *x, const int64_t *places, float *y, int64_t count) {
    float most = x[places ? places[0] : 0], sum = 0.0f;
    for (int64_t e = 1; e < count; e++) {
        const float value = x[places ? places[e] : e];
        most = value > most ? value : most;
    }
    for (int64_t e = 0; e < count; e++) y[e] = exp_clamped(x[places ? places[e] : e] - most);
    for (int64_t e = 0; e < count; e++) sum += y[e];
    for (int64_t e = 0; e < count; e++) y[e] /= sum;
}

/* best: the places of the `most` largest of `count` numbers, the largest first; of equals the first
 * is the larger. */
static void top(const float *x, int64_t count, int64_t *best, int64_t most) {
    int64_t found = 0;
    for (int64_t e = 0; e < count; e++) {
        if (found == most && !(x[e] > x[best[most - 1]])) continue;
        int64_t at = found < most ? found++ : most - 1;
        for (; at > 0 && x[e] > x[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = e;
    }
}

/* Numbers outside the best `top_groups` of `groups` become minus infinity. */
static void bar_groups(float *x, int64_t experts, int64_t groups, int64_t top_groups,
                       int64_t group_best) {
    const int64_t size = experts / groups;
    float worth[groups];
    int64_t best[size > groups ? size : groups];
    for (int64_t g = 0; g < groups; g++) {
        worth[g] = 0.0f;
        top(x + g * size, size, best, group_best);
        for (int64_t i = 0; i < group_best; i++) worth[g] += x[g * size + best[i]];
    }
    top(worth, groups, best, top_groups);
    char stays[groups];
    memset(stays, 0, groups);
    for (int64_t i = 0; i < top_groups; i++) stays[best[i]] = 1;
    for (int64_t e = 0; e < experts; e++)
        if (!stays[e / size]) x[e] = -INFINITY;
}

/* logits: (rows, experts); correction, gains: (experts) or NULL; chosen, weights: (rows, active).
 * corrects_logits: the correction is added to logits for the choice, not to scores.
 * floor: what the sum of weights is raised by before they are divided by it, if `normalised`. */
void route(const float *logits, const float *correction, const float *gains, int64_t *chosen,
           float *weights, int64_t rows, int64_t experts, int64_t active, int64_t kind,
           int64_t corrects_logits, int64_t groups, int64_t top_groups, int64_t group_best,
           int64_t normalised, float floor, float scale) {
#pragma omp parallel for TEAM schedule(static) if (rows * experts > 16384)
    for (int64_t r = 0; r < rows; r++) {
        const float *own = logits + r * experts;
        int64_t *best = chosen + r * active;
        float *weight = weights + r * active, scores[experts], choice[experts];
        if (kind == SOFTMAX)
            softmax(own, 0, scores, experts);
        else
            for (int64_t e = 0; e < experts; e++)
                scores[e] = kind == SIGMOID ? sigmoid(own[e]) : own[e];
        const float *worth = corrects_logits ? own : scores;
        for (int64_t e = 0; e < experts; e++)
            choice[e] = correction ? worth[e] + correction[e] : worth[e];
        if (groups > 1) bar_groups(choice, experts, groups, top_groups, group_best);
        top(choice, experts, best, active);
        if (kind == CHOSEN)
            softmax(scores, best, weight, active);
        else
            for (int64_t i = 0; i < active; i++) weight[i] = scores[best[i]];
        float sum = floor;
        for (int64_t i = 0; i < active; i++) sum += weight[i];
        for (int64_t i = 0; i < active; i++)
            weight[i] = (normalised ? weight[i] / sum : weight[i]) * scale *
                        (gains ? gains[best[i]] : 1.0f);
    }
}
