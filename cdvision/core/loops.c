/* The baseline of the loops, for every processor, and the choice at run time. */
#include "loops.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "loops_body.h"

#define BLOCK 16

static void pair_sums(const int16_t *here, const int16_t *beside, const uint32_t *lines,
                      size_t pairs, const int16_t *matrix, size_t stride, const int32_t *bias,
                      int32_t *here_sums, int32_t *beside_sums) {
    for (size_t out = 0; out < stride; out += BLOCK) {
        int32_t a[BLOCK], b[BLOCK];
        for (size_t k = 0; k < BLOCK; k++) a[k] = b[k] = bias[out + k];
        for (size_t p = 0; p < pairs; p++) {
            const int16_t *first = matrix + lines[2 * p] * stride + out;
            const int16_t *second = matrix + lines[2 * p + 1] * stride + out;
            int32_t a0 = here[2 * p], a1 = here[2 * p + 1];
            int32_t b0 = beside[2 * p], b1 = beside[2 * p + 1];
            for (size_t k = 0; k < BLOCK; k++) {
                a[k] += a0 * first[k] + a1 * second[k];
                b[k] += b0 * first[k] + b1 * second[k];
            }
        }
        memcpy(here_sums + out, a, sizeof a);
        memcpy(beside_sums + out, b, sizeof b);
    }
}

static size_t find_busy(const float *values, size_t rows, size_t width, float threshold,
                        size_t *busy, size_t *total) {
    size_t used = 0, all = 0;
    for (size_t row = 0; row < rows; row++, values += width) {
        uint32_t found = 0;
        for (size_t k = 0; k < width; k++) found += values[k] > threshold;
        /* Written always, kept only if it has any: the next row overwrites it otherwise. */
        busy[used] = row;
        used += found > 0;
        all += found;
    }
    *total = all;
    return used;
}

/* aarch64 has NEON always: the compiler uses it here. */
#if defined(__aarch64__)
#define NAME "neon"
#else
#define NAME "baseline"
#endif

const loops baseline_loops = {NAME, pair_sums, to_bytes, to_shorts, add_corners, find_busy};

static _Atomic int only_baseline;

void cdv_use_baseline(int baseline) { only_baseline = baseline; }

#if defined(__x86_64__)
/* Asked of the processor itself: the compilers' own question is in no library that all of them have. */
static int has_avx2(void) {
    unsigned a, b, c, d, saved, upper;
    const unsigned saves_registers = 1u << 27, avx2 = 1u << 5;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & saves_registers)) return 0;
    /* The system has to keep both halves of the wide registers, too. */
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    if ((saved & 6) != 6) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & avx2);
}
#endif

const loops *chosen_loops(void) {
#if defined(__x86_64__)
    /* cpuid leaves a virtual machine, which takes a microsecond: asked once. A race only asks twice. */
    static _Atomic int known;
    if (!known) known = has_avx2() ? 2 : 1;
    if (known == 2 && !only_baseline) return &avx2_loops;
#endif
    return &baseline_loops;
}

const char *cdv_instructions(void) { return chosen_loops()->name; }
