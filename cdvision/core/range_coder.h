/* The range coder, symbol by symbol: for loops that choose each table from what came before. */
#ifndef CDV_RANGE_CODER_H
#define CDV_RANGE_CODER_H

#include "internal.h"

typedef struct range_writer {
    uint8_t *out;
    size_t position;
    uint64_t low, width;
} range_writer;

/* `out` must have room: five bytes a symbol, and four more. */
range_writer cdv_range_begin(uint8_t *out);
cdv_status cdv_range_put(range_writer *writer, const cdv_tables *tables, size_t at, int32_t symbol);
/* Writes the closing byte; returns how many bytes there are. */
size_t cdv_range_close(range_writer *writer);

/* `at` must name a table. */
cdv_status cdv_range_get(cdv_range_decoder *decoder, const cdv_tables *tables, size_t at,
                         int32_t *symbol);

#endif
