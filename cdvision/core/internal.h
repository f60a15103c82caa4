/* What the files of the core share: little-endian reads, checked sizes, the choice of loops. */
#ifndef CDV_INTERNAL_H
#define CDV_INTERNAL_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CDV_BUILDING
#include "cdv.h"

/* Bits of a table, its slots, and the code of symbol 0 (code 0 is the escape). */
#define PRECISION 12
#define TOTAL (1u << PRECISION)
#define SLOT_MASK (TOTAL - 1u)
#define SYMBOL_LIMIT 127
#define ZERO_CODE 128
#define MAX_TABLES 4096
/* Escaped values are smaller in magnitude; six nibbles hold them. */
#define ESCAPE_LIMIT (1 << 20)
#define MOST_NIBBLES 6u
/* Integer networks are proved to stay below this. */
#define EXACT_LIMIT (INT64_C(1) << 24)

/* The look-ups of one table. */
typedef struct table {
    uint32_t entries[256]; /* code -> frequency << 16 | start, 0 for what the table does not hold */
    uint8_t slots[TOTAL];  /* slot -> code: symbol + 128, or 0 for an escape */
} table;

struct cdv_tables {
    size_t count;
    int16_t *low, *high; /* the range of each */
    table *tables;
};

static inline uint32_t load16(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static inline uint32_t load32(const uint8_t *bytes) {
    return load16(bytes) | load16(bytes + 2) << 16;
}

static inline void store16(uint8_t *bytes, uint32_t value) {
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

static inline void store32(uint8_t *bytes, uint32_t value) {
    store16(bytes, value);
    store16(bytes + 2, value >> 16);
}

/* a * b, or SIZE_MAX, which no allocation grants, where that overflows. */
static inline size_t product(size_t a, size_t b) {
    return b && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

/* `count` elements of `size` bytes, uninitialised; NULL where there is no such memory. */
static inline void *allocate(size_t count, size_t size) {
    size_t bytes = product(count, size);
    return bytes > PTRDIFF_MAX ? NULL : malloc(bytes ? bytes : 1);
}

static inline void *allocate_zeros(size_t count, size_t size) {
    size_t bytes = product(count, size);
    return bytes > PTRDIFF_MAX ? NULL : calloc(bytes ? bytes : 1, 1);
}

/* The entry that codes a symbol: its own, or the escape's; 0 where the table can code neither. */
static inline uint32_t entry_of(const cdv_tables *tables, size_t at, int32_t symbol, int *escaped) {
    uint32_t entry = 0;
    if (symbol >= -SYMBOL_LIMIT && symbol <= SYMBOL_LIMIT)
        entry = tables->tables[at].entries[symbol + ZERO_CODE];
    *escaped = entry == 0;
    if (*escaped && symbol > -ESCAPE_LIMIT && symbol < ESCAPE_LIMIT)
        entry = tables->tables[at].entries[0];
    return entry;
}

/* How far an escaped symbol lies beyond its table's range, from 0, and on which side. */
static inline uint32_t escape_distance(const cdv_tables *tables, size_t at, int32_t symbol,
                                       uint32_t *below) {
    int32_t low = tables->low[at], high = tables->high[at];
    *below = symbol < low;
    return (uint32_t)(*below ? low - symbol : symbol - high) - 1u;
}

/* The value of an escape; ESCAPE_LIMIT where it is none that an encoder writes. */
static inline int32_t escaped_value(const cdv_tables *tables, size_t at, uint32_t below,
                                    uint32_t distance) {
    int32_t beyond = (int32_t)distance + 1;
    int32_t value = below ? tables->low[at] - beyond : tables->high[at] + beyond;
    return value > -ESCAPE_LIMIT && value < ESCAPE_LIMIT ? value : ESCAPE_LIMIT;
}

#endif
