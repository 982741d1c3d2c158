/* Which rows each expert takes, and the jobs of a product over them.
 *
 * A pair is a row and one of its experts. Pairs are sorted by expert, rows in order, and those of
 * an expert are cut into tiles as equal as can be. With 2 experts a row and tiles of 2:
 *
 *     chosen     row 0: 5 1    row 1: 1 3    row 2: 1 5
 *     sorted     expert 1: rows 0 1 2    expert 3: row 1    expert 5: rows 0 2
 *     pair                 1 2 4                   3                  0 5
 *     tiles                0 | 1 2                 3                  4 5
 *
 * A job is a panel of an expert's weights for a block of its tiles.
 */
#include <stdint.h>

typedef struct {
    int64_t expert, tile, tiles; /* its first tile, and how many it has */
    int64_t jobs[2];             /* before its own, in the products up and down */
} Share;

typedef struct {
    int64_t tiles, active;  /* tiles in all; experts that have pairs */
    int64_t jobs[2];        /* of the products up and down */
    int64_t block[2];       /* most tiles of a job */
    int64_t panels[2];      /* of an expert's weights */
    int32_t *pair, *place;  /* of each place its pair, and the other way round, or -1 */
    int32_t *start;         /* first place of each tile, and the end of the last */
    Share *shares;          /* of the active experts, in order */
} Plan;

static int64_t plan_bytes(int64_t pairs, int64_t experts) {
    return (pairs * 3 + experts + 4) / 2 * 8 + experts * (int64_t)sizeof(Share) + 64;
}

/* Fills in `plan`, whose `block` and `panels` are there; memory: plan_bytes. An expert beyond
 * `experts` has no weights, and its pairs no place. */
static void make_plan(Plan *plan, char *memory, const int64_t *chosen, int64_t pairs,
                      int64_t experts, int64_t tile) {
    plan->shares = (Share *)memory;
    plan->pair = (int32_t *)(plan->shares + experts);
    plan->place = plan->pair + pairs;
    plan->start = plan->place + pairs;
    int32_t *next = plan->start + pairs + 1; /* place of each expert's next pair */
    for (int64_t e = 0; e < experts; e++) next[e] = 0;
    for (int64_t i = 0; i < pairs; i++)
        if (chosen[i] < experts) next[chosen[i]]++;
    int64_t first = 0, tiles = 0, active = 0, jobs[2] = {0, 0};
    for (int64_t e = 0; e < experts; e++) {
        const int64_t count = next[e];
        next[e] = (int32_t)first;
        if (!count) continue;
        Share *share = plan->shares + active++;
        *share = (Share){e, tiles, (count + tile - 1) / tile, {jobs[0], jobs[1]}};
        for (int64_t t = 0; t < share->tiles; t++)
            plan->start[tiles++] = (int32_t)(first + count * t / share->tiles);
        for (int way = 0; way < 2; way++) {
            const int64_t block = plan->block[way];
            jobs[way] += (share->tiles + block - 1) / block * plan->panels[way];
        }
        first += count;
    }
    plan->start[tiles] = (int32_t)first;
    plan->tiles = tiles;
    plan->active = active;
    for (int way = 0; way < 2; way++) plan->jobs[way] = jobs[way];
    for (int64_t i = 0; i < pairs; i++) {
        plan->place[i] = -1;
        if (chosen[i] >= experts) continue;
        const int32_t place = next[chosen[i]]++;
        plan->place[i] = place;
        plan->pair[place] = (int32_t)i;
    }
}

typedef struct {
    int64_t panel; /* of the panels of all experts */
    int64_t own;   /* of those of its expert */
    int64_t first, last; /* tiles */
} Job;

/* The job of that number of a product, 0 up or 1 down; the last one for a number beyond. */
static Job job_at(const Plan *plan, int64_t number, const int way) {
    const int64_t panels = plan->panels[way], block = plan->block[way];
    if (number >= plan->jobs[way]) number = plan->jobs[way] - 1;
    int64_t low = 0, high = plan->active;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (plan->shares[middle].jobs[way] <= number)
            low = middle;
        else
            high = middle;
    }
    const Share *share = plan->shares + low;
    const int64_t left = number - share->jobs[way], own = left % panels;
    const int64_t first = share->tile + left / panels * block, end = share->tile + share->tiles;
    return (Job){share->expert * panels + own, own, first,
                 first + block < end ? first + block : end};
}

/* gate <= limit, and of what it gates, if it is not NULL, -limit <= up <= limit, then up + shift. */
static inline void clamp_gates(float *gate, float *up, int64_t count, float limit, float shift) {
    for (int64_t d = 0; d < count; d++) gate[d] = gate[d] > limit ? limit : gate[d];
    for (int64_t d = 0; up && d < count; d++) {
        const float bounded = up[d] > limit ? limit : (up[d] < -limit ? -limit : up[d]);
        up[d] = bounded + shift;
    }
}

/* y (rows, size): add, if it is not NULL, and what the row's experts gave times their weights, in
 * their order. out (places, size): what those with weights of their own gave, which `applied` says
 * have been multiplied already; others, beyond `experts`, give what they read. Called by all
 * threads. */
static void combine(const Plan *plan, const float *out, const float *x, const int64_t *chosen,
                    const float *weights, int64_t applied, const float *add, float *y,
                    int64_t rows, int64_t each, int64_t experts, int64_t size) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *to = y + r * size;
        for (int64_t d = 0; d < size; d++) to[d] = add ? add[r * size + d] : 0.0f;
        for (int64_t i = r * each; i < (r + 1) * each; i++) {
            const int own = chosen[i] < experts;
            const float *from = own ? out + plan->place[i] * size : x + r * size;
            const float weight = own && applied ? 1.0f : weights[i];
            for (int64_t d = 0; d < size; d++) to[d] += weight * from[d];
        }
    }
}
