/* What GCC 9 and newer and clang write differently. */
#ifndef COMPILERS_H
#define COMPILERS_H

#define INLINE __attribute__((always_inline))
#define NOINLINE __attribute__((noinline)) /* what need not be compiled again for each caller */

/* Lanes of a and b, vectors of N, by number: 0..N-1 are those of a, N..2N-1 those of b. INTEGERS is
 * the vector type of integers as wide as a lane. GCC has __builtin_shufflevector since 12. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(INTEGERS, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(INTEGERS, a, b, ...) __builtin_shuffle(a, b, (INTEGERS){__VA_ARGS__})
#endif

/* The threads of a parallel region. What clang compiles has an OpenMP of its own, beside the one
 * that torch was told its number of threads; omp_get_max_threads is torch's. */
#ifdef __clang__
#include <omp.h>
#define TEAM num_threads(omp_get_max_threads())
#else
#define TEAM
#endif

#endif
