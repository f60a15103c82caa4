/* The loops with AVX2: portable forms compiled for it, and the integer sums by hand. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "loops.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include "loops_body.h"

#define BLOCK 16

typedef struct two {
    __m256i low, high; /* of 16 sums: 0-3 and 8-11, then 4-7 and 12-15, as unpacking leaves them */
} two;

static inline __m256i load(const void *from) { return _mm256_loadu_si256(from); }

static inline void store(int32_t *to, __m256i sums) { _mm256_storeu_si256((__m256i *)to, sums); }

/* Put 16 numbers in the order of `two`, and back: the same exchange of the middle quarters. */
static inline two exchanged(__m256i low, __m256i high) {
    two out = {_mm256_permute2x128_si256(low, high, 0x20),
               _mm256_permute2x128_si256(low, high, 0x31)};
    return out;
}

/* One pair of inputs in every lane. */
static inline __m256i spread(const int16_t *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return _mm256_set1_epi32(both);
}

static inline void add_products(two *sums, __m256i pair, two weights) {
    sums->low = _mm256_add_epi32(sums->low, _mm256_madd_epi16(pair, weights.low));
    sums->high = _mm256_add_epi32(sums->high, _mm256_madd_epi16(pair, weights.high));
}

/* The weights of two rows side by side, as the pairs of inputs are. */
static inline two unpacked(const int16_t *first, const int16_t *second) {
    two out = {_mm256_unpacklo_epi16(load(first), load(second)),
               _mm256_unpackhi_epi16(load(first), load(second))};
    return out;
}

static inline void store_two(int32_t *to, two sums) {
    two out = exchanged(sums.low, sums.high);
    store(to, out.low);
    store(to + 8, out.high);
}

/* 32 sums at two positions: eight accumulators stay in registers. */
static void sums_of_32(const int16_t *here, const int16_t *beside, const uint32_t *lines,
                       size_t pairs, const int16_t *matrix, size_t stride, const int32_t *bias,
                       int32_t *here_sums, int32_t *beside_sums) {
    two a0 = exchanged(load(bias), load(bias + 8)), b0 = a0;
    two a1 = exchanged(load(bias + 16), load(bias + 24)), b1 = a1;
    for (size_t p = 0; p < pairs; p++) {
        const int16_t *first = matrix + lines[2 * p] * stride;
        const int16_t *second = matrix + lines[2 * p + 1] * stride;
        __m256i a = spread(here + 2 * p), b = spread(beside + 2 * p);
        two left = unpacked(first, second), right = unpacked(first + BLOCK, second + BLOCK);
        add_products(&a0, a, left);
        add_products(&b0, b, left);
        add_products(&a1, a, right);
        add_products(&b1, b, right);
    }
    store_two(here_sums, a0), store_two(here_sums + BLOCK, a1);
    store_two(beside_sums, b0), store_two(beside_sums + BLOCK, b1);
}

static void sums_of_16(const int16_t *here, const int16_t *beside, const uint32_t *lines,
                       size_t pairs, const int16_t *matrix, size_t stride, const int32_t *bias,
                       int32_t *here_sums, int32_t *beside_sums) {
    two a0 = exchanged(load(bias), load(bias + 8)), b0 = a0;
    for (size_t p = 0; p < pairs; p++) {
        two weights = unpacked(matrix + lines[2 * p] * stride, matrix + lines[2 * p + 1] * stride);
        add_products(&a0, spread(here + 2 * p), weights);
        add_products(&b0, spread(beside + 2 * p), weights);
    }
    store_two(here_sums, a0), store_two(beside_sums, b0);
}

static void pair_sums(const int16_t *here, const int16_t *beside, const uint32_t *lines,
                      size_t pairs, const int16_t *matrix, size_t stride, const int32_t *bias,
                      int32_t *here_sums, int32_t *beside_sums) {
    size_t out = 0;
    for (; out + 2 * BLOCK <= stride; out += 2 * BLOCK)
        sums_of_32(here, beside, lines, pairs, matrix + out, stride, bias + out, here_sums + out,
                   beside_sums + out);
    if (out < stride)
        sums_of_16(here, beside, lines, pairs, matrix + out, stride, bias + out, here_sums + out,
                   beside_sums + out);
}

/* Whether any of a row is above a threshold, 16 at a time. */
static inline int any_above(const float *row, size_t width, float threshold) {
    __m256 limit = _mm256_set1_ps(threshold), a = _mm256_setzero_ps(), b = a;
    size_t k = 0;
    int rest = 0;
    for (; k + 16 <= width; k += 16) {
        a = _mm256_or_ps(a, _mm256_cmp_ps(_mm256_loadu_ps(row + k), limit, _CMP_GT_OQ));
        b = _mm256_or_ps(b, _mm256_cmp_ps(_mm256_loadu_ps(row + k + 8), limit, _CMP_GT_OQ));
    }
    for (; k < width; k++) rest |= row[k] > threshold;
    return rest | _mm256_movemask_ps(_mm256_or_ps(a, b));
}

static size_t find_busy_avx2(const float *values, size_t rows, size_t width, float threshold,
                             size_t *busy, size_t *total) {
    size_t used = 0;
    *total = 0;
    for (size_t row = 0; row < rows; row++, values += width) {
        if (!any_above(values, width, threshold)) continue;
        busy[used++] = row;
        for (size_t k = 0; k < width; k++) *total += values[k] > threshold;
    }
    return used;
}

const loops avx2_loops = {"avx2", pair_sums, to_bytes, to_shorts, add_corners, find_busy_avx2};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int no_avx2_here; /* a translation unit holds something */
#endif
