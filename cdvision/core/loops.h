/* The loops that exist for several instruction sets. Every form gives the same bits: integers are
 * exact in any order, and of floats no operation is fused or reordered. */
#ifndef CDV_LOOPS_H
#define CDV_LOOPS_H

#include "internal.h"

typedef struct loops {
    const char *name;

    /* The products of pairs of inputs at two positions with their rows of weights, added to `bias`.
     * here[2 p], here[2 p + 1] and the same of `beside` are the inputs of pair p; lines[2 p] and
     * lines[2 p + 1] are their rows of `matrix`, whose rows have `stride` (a multiple of 16) numbers.
     * Writes `stride` sums each. */
    void (*pair_sums)(const int16_t *here, const int16_t *beside, const uint32_t *lines,
                      size_t pairs, const int16_t *matrix, size_t stride, const int32_t *bias,
                      int32_t *here_sums, int32_t *beside_sums);

    /* out = clip(sum >> shift, low, high). */
    void (*to_bytes)(const int32_t *sums, size_t count, int32_t shift, int32_t low, int32_t high,
                     uint8_t *out);
    void (*to_shorts)(const int32_t *sums, size_t count, int32_t shift, int32_t low, int32_t high,
                      int16_t *out);

    /* total += w[0] a + w[1] b + w[2] c + w[3] d, in this order. */
    void (*add_corners)(const float *a, const float *b, const float *c, const float *d,
                        const float *w, size_t count, float *total);

    /* The rows (of `width`) with any value above a threshold: writes their numbers to `busy`, which
     * has room for all, and how many such values there are to `total`; returns how many rows. */
    size_t (*find_busy)(const float *values, size_t rows, size_t width, float threshold,
                        size_t *busy, size_t *total);
} loops;

/* The loops that this processor runs fastest; the choice costs a few instructions. */
const loops *chosen_loops(void);

extern const loops baseline_loops;
#if defined(__x86_64__)
extern const loops avx2_loops;
#endif

#endif
