/* What the fuzz targets share: numbers and arrays from the input, and checks that abort.
 *
 * Arrays are copies of exactly their size, so that the address sanitizer sees the byte behind. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cdv.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define MUST(condition)                                                          \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                             \
        }                                                                        \
    } while (0)

typedef struct input {
    const uint8_t *bytes;
    size_t left;
} input;

/* A little-endian number of `size` bytes; zeros stand for what the input lacks. */
static inline uint64_t take_number(input *in, size_t size) {
    uint64_t number = 0;
    for (size_t k = 0; k < size && in->left; k++, in->left--)
        number |= (uint64_t)*in->bytes++ << (8 * k);
    return number;
}

/* A number from 0 to `most`, which is below 65,536. */
static inline size_t take_size(input *in, size_t most) {
    return (size_t)take_number(in, most > 255 ? 2 : 1) % (most + 1);
}

static inline float take_float(input *in) {
    uint32_t bits = (uint32_t)take_number(in, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* `count` elements of `size` bytes, as they come; zeros where the input ends. To be freed. */
static inline void *take_array(input *in, size_t count, size_t size) {
    size_t bytes = count * size, there = bytes < in->left ? bytes : in->left;
    uint8_t *array = calloc(bytes ? bytes : 1, 1);
    if (!bytes) return realloc(array, 1);
    if (there) memcpy(array, in->bytes, there);
    in->bytes += there, in->left -= there;
    return array;
}

/* Uninitialised room of exactly this size. To be freed. */
static inline void *room(size_t count, size_t size) {
    return malloc(count * size ? count * size : 1);
}

#endif
