/* Five tables for the coders' targets: skipped, narrow, wide, nearly certain, mostly escapes. */
#ifndef KNOWN_TABLES_H
#define KNOWN_TABLES_H

#include "fuzz.h"

#define KNOWN_TABLES 5

static inline cdv_tables *known_tables(void) {
    static const int16_t low[KNOWN_TABLES] = {0, -1, -127, 5, -3};
    static const int16_t high[KNOWN_TABLES] = {0, 1, 127, 6, 3};
    static const uint16_t narrow[] = {4096, 0, 1000, 2000, 1000, 96}, certain[] = {4095, 1, 0};
    static const uint16_t escapes[] = {1, 1, 1, 1, 1, 1, 1, 4089};
    uint16_t frequencies[6 + 256 + 3 + 8];
    cdv_tables *tables;
    memcpy(frequencies, narrow, sizeof narrow);
    for (size_t k = 0; k < 256; k++) frequencies[6 + k] = 16;
    memcpy(frequencies + 262, certain, sizeof certain);
    memcpy(frequencies + 265, escapes, sizeof escapes);
    size_t entries = sizeof frequencies / sizeof *frequencies;
    MUST(cdv_tables_new(low, high, KNOWN_TABLES, frequencies, entries, &tables) == CDV_OK);
    return tables;
}

/* The table of each of `count` symbols; every other input names tables only. */
static inline uint16_t *take_index(input *in, size_t count) {
    size_t wild = take_size(in, 1);
    uint16_t *index = room(count, sizeof *index);
    for (size_t k = 0; k < count; k++)
        index[k] = (uint16_t)(wild ? take_number(in, 2) : take_number(in, 1) % KNOWN_TABLES);
    return index;
}

#endif
