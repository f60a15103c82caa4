/* A range coder for short bodies (Martin, "Range encoding", 1979), with carries.
 *
 * The encoder narrows an interval of a 32-bit window, and writes a byte whenever less than 24 bits
 * of it are left. Beside rANS with four states, whose states cost 8 bytes over the information in
 * them, it costs half a byte a body; it decodes about an eighth as fast. A byte beyond the end reads
 * as zero. */
#include "range_coder.h"

#define FULL (UINT64_C(1) << 32)
#define LEAST (UINT64_C(1) << 24)
#define NIBBLE_BITS 4

/* Bytes after which some point of any interval of this width has only zeros: a width is at least
 * 2^24, so a multiple of 2^24 lies in it. */
static size_t closing_bytes(uint64_t width) { return width < FULL; }

/* ---- encoding --------------------------------------------------------------------------------- */

/* A carry runs through bytes of 255 and ends in the first byte at the latest: the whole is below 1. */
static void carry(range_writer *w) {
    size_t back = w->position - 1;
    while (w->out[back] == 255) w->out[back--] = 0;
    w->out[back]++;
    w->low &= FULL - 1;
}

/* Narrow the interval to `size` of 2^bits parts from `start`. */
static void narrow(range_writer *w, uint64_t start, uint64_t size, unsigned bits) {
    uint64_t part = w->width >> bits;
    w->low += part * start;
    w->width = part * size;
    if (w->low >= FULL) carry(w);
    for (; w->width < LEAST; w->width <<= 8) {
        w->out[w->position++] = (uint8_t)(w->low >> 24);
        w->low = w->low << 8 & (FULL - 1);
    }
}

/* Write sign and nibble count, so that the decoder knows what follows, then nibbles, highest first. */
static void write_escaped(range_writer *w, const cdv_tables *tables, size_t at, int32_t symbol) {
    uint32_t below, distance = escape_distance(tables, at, symbol, &below);
    unsigned count = 0;
    while (distance >> (NIBBLE_BITS * count)) count++;
    narrow(w, count | below << 3, 1, NIBBLE_BITS);
    while (count--) narrow(w, distance >> (NIBBLE_BITS * count) & 15, 1, NIBBLE_BITS);
}

cdv_status cdv_range_put(range_writer *w, const cdv_tables *tables, size_t at, int32_t symbol) {
    int escaped;
    if (at >= tables->count) return CDV_BAD_INDEX;
    uint32_t entry = entry_of(tables, at, symbol, &escaped);
    if (!entry) return CDV_NOT_CODABLE;
    /* Certain: all of the interval is this symbol's, and dividing it would only lose width. */
    if (entry >> 16 == TOTAL) return CDV_OK;
    narrow(w, entry & 0xFFFF, entry >> 16, PRECISION);
    if (escaped) write_escaped(w, tables, at, symbol);
    return CDV_OK;
}

/* Write the first point of the interval that `closing_bytes` bytes reach. That number depends on the
 * width only, so a decoder knows how many bytes there must be. */
static void close_interval(range_writer *w) {
    size_t count = closing_bytes(w->width);
    uint64_t step = FULL >> (8 * count), up = (step - w->low % step) % step;
    /* With the full width, moving the low end up carries where it has to, and writes nothing. */
    w->width = FULL;
    narrow(w, up, FULL, 32);
    if (count) w->out[w->position++] = (uint8_t)(w->low >> 24);
}

range_writer cdv_range_begin(uint8_t *out) { return (range_writer){out, 0, 0, FULL}; }

size_t cdv_range_close(range_writer *w) {
    close_interval(w);
    return w->position;
}

cdv_status cdv_range_encode(const cdv_segment *segments, size_t segment_count, uint8_t *out,
                            size_t capacity, size_t *written, size_t *segment) {
    size_t symbols = 0;
    for (size_t k = 0; k < segment_count; k++) symbols += segments[k].count;
    /* A symbol takes at most 12 + 4 + 24 bits: five bytes. */
    if (product(symbols, 5) > capacity || capacity - 5 * symbols < 4) return CDV_ARGUMENT;
    range_writer w = cdv_range_begin(out);
    for (size_t k = 0; k < segment_count; k++)
        for (size_t i = 0; i < segments[k].count; i++) {
            const cdv_segment *s = &segments[k];
            cdv_status status = cdv_range_put(&w, s->tables, s->index[i], s->symbols[i]);
            if (!status) continue;
            *written = i;
            if (segment) *segment = k;
            return status;
        }
    *written = cdv_range_close(&w);
    return CDV_OK;
}

/* ---- decoding --------------------------------------------------------------------------------- */

cdv_status cdv_range_open(cdv_range_decoder *decoder, const uint8_t *bytes, size_t size) {
    *decoder = (cdv_range_decoder){bytes, size, 0, 0, FULL};
    for (size_t k = 0; k < 4; k++) decoder->point = decoder->point << 8 | (k < size ? bytes[k] : 0);
    return CDV_OK;
}

/* Follow the encoder into `size` of 2^bits parts from `start`: with the low end at 0, the point
 * moves instead of it. */
static void follow(cdv_range_decoder *d, uint64_t start, uint64_t size, unsigned bits) {
    uint64_t part = d->width >> bits;
    d->point -= part * start;
    d->width = part * size;
    for (; d->width < LEAST; d->width <<= 8) {
        size_t behind = d->position++ + 4;
        d->point = d->point << 8 | (behind < d->size ? d->bytes[behind] : 0);
    }
}

/* 16 where the point lies in no nibble's interval. */
static uint32_t read_nibble(cdv_range_decoder *d) {
    uint64_t nibble = d->point / (d->width >> NIBBLE_BITS);
    if (nibble > 15) return 16;
    follow(d, nibble, 1, NIBBLE_BITS);
    return (uint32_t)nibble;
}

/* Read sign, nibble count and nibbles; ESCAPE_LIMIT where they are no escaped value. */
static int32_t read_escaped(cdv_range_decoder *d, const cdv_tables *tables, size_t at) {
    uint32_t head = read_nibble(d), distance = 0;
    if (head > 15 || (head & 7) > MOST_NIBBLES) return ESCAPE_LIMIT;
    for (uint32_t k = 0; k < (head & 7); k++) {
        uint32_t nibble = read_nibble(d);
        /* A leading zero would be a second spelling of a value with fewer nibbles. */
        if (nibble > 15 || (!nibble && !distance)) return ESCAPE_LIMIT;
        distance = distance << 4 | nibble;
    }
    return escaped_value(tables, at, head >> 3, distance);
}

cdv_status cdv_range_get(cdv_range_decoder *d, const cdv_tables *tables, size_t at,
                         int32_t *symbol) {
    /* The first slot's code: of a certain symbol it is the only one. */
    const table *t = &tables->tables[at];
    uint32_t code = t->slots[0], entry = t->entries[code];
    if (entry >> 16 != TOTAL) {
        /* What is left of the width by the division belongs to no slot. */
        uint64_t slot = d->point / (d->width >> PRECISION);
        if (slot >= TOTAL) return CDV_BAD_POINT;
        code = t->slots[slot], entry = t->entries[code];
        follow(d, entry & 0xFFFF, entry >> 16, PRECISION);
    }
    *symbol = code ? (int32_t)code - ZERO_CODE : read_escaped(d, tables, at);
    if (*symbol == ESCAPE_LIMIT) return CDV_BAD_ESCAPE;
    return d->position > d->size ? CDV_TRUNCATED : CDV_OK;
}

cdv_status cdv_range_read(cdv_range_decoder *decoder, const uint16_t *index, size_t count,
                          const cdv_tables *tables, int32_t *symbols) {
    cdv_status status = CDV_OK;
    for (size_t i = 0; i < count && !status; i++)
        status = index[i] < tables->count ? cdv_range_get(decoder, tables, index[i], &symbols[i])
                                          : CDV_BAD_INDEX;
    return status;
}

cdv_status cdv_range_finish(const cdv_range_decoder *decoder) {
    size_t closing = closing_bytes(decoder->width);
    if (decoder->position + closing != decoder->size) return CDV_BAD_LENGTH;
    /* Of all points of the last interval an encoder takes the first: one body, one spelling. */
    return decoder->point >= FULL >> (8 * closing) ? CDV_BAD_STATE : CDV_OK;
}
