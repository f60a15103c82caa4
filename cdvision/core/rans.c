/* rANS (Duda, "Asymmetric numeral systems", 2013) with 32-bit states that renormalise by 16-bit
 * words, interleaved as Giesen described ("Interleaved entropy coders", 2014).
 *
 *     bytes:  4 states (uint32) | words (uint16), both little-endian
 *
 * Symbol i of a segment belongs to state i mod 4. Each state costs 2 bytes over the information in
 * it; 1, 2, 4, 8 states decoded 153, 281, 470, 588 Msymbol/s on one Zen 5 core, so four it is. */
#include "internal.h"

#define LANES 4u
#define STATE_BYTES (4 * LANES)
#define LOWEST (1u << 16)
/* A state must stay below frequency << HEADROOM before the step that codes a symbol. */
#define HEADROOM (32 - PRECISION)
/* The entry of symbol 0 in a table that holds nothing else: coding it leaves the state as it is. */
#define SKIP ((uint32_t)TOTAL << 16)

/* ---- encoding: backwards, words grow downwards ---------------------------------------------- */

typedef struct writer {
    uint32_t states[LANES];
    uint8_t *out;
    size_t position; /* of the lowest byte written */
} writer;

static inline void shed(writer *w, size_t lane) {
    w->position -= 2;
    store16(w->out + w->position, w->states[lane]);
    w->states[lane] >>= 16;
}

/* Put four uniform bits on a state. */
static void push_nibble(writer *w, size_t lane, uint32_t nibble) {
    if (w->states[lane] >= 1u << 28) shed(w, lane);
    w->states[lane] = w->states[lane] << 4 | nibble;
}

/* Put the nibbles, then their head: the decoder meets them in the opposite order. */
static void push_escaped(writer *w, size_t lane, uint32_t distance, uint32_t below) {
    uint32_t count = 0;
    for (; distance; distance >>= 4, count++) push_nibble(w, lane, distance & 15);
    push_nibble(w, lane, below << 3 | count);
}

static cdv_status push_symbol(writer *w, size_t lane, const cdv_tables *tables, size_t at,
                              int32_t symbol) {
    int escaped;
    if (at >= tables->count) return CDV_BAD_INDEX;
    uint32_t entry = entry_of(tables, at, symbol, &escaped);
    if (!entry) return CDV_NOT_CODABLE;
    if (escaped) {
        uint32_t below, distance = escape_distance(tables, at, symbol, &below);
        push_escaped(w, lane, distance, below);
    }
    uint32_t frequency = entry >> 16;
    if (w->states[lane] >= (uint64_t)frequency << HEADROOM) shed(w, lane);
    /* Duda's step: (state / frequency) * 2^12 + state % frequency + start. */
    uint32_t state = w->states[lane], whole = state / frequency;
    w->states[lane] = (whole << PRECISION) + (state - whole * frequency) + (entry & 0xFFFF);
    return CDV_OK;
}

static cdv_status push_segment(writer *w, const cdv_segment *segment, size_t *at) {
    for (size_t i = segment->count; i-- > 0;) {
        cdv_status status =
            push_symbol(w, i % LANES, segment->tables, segment->index[i], segment->symbols[i]);
        if (status) {
            *at = i;
            return status;
        }
    }
    return CDV_OK;
}

cdv_status cdv_rans_encode(const cdv_segment *segments, size_t segment_count, uint8_t *out,
                           size_t capacity, size_t *written, size_t *segment) {
    size_t symbols = 0;
    for (size_t k = 0; k < segment_count; k++) symbols += segments[k].count;
    /* A symbol takes at most 12 + 4 + 20 bits, and a state sheds words of 16: 3 words are ample. */
    if (product(symbols, 6) > capacity || capacity - 6 * symbols < STATE_BYTES) return CDV_ARGUMENT;
    writer w = {{LOWEST, LOWEST, LOWEST, LOWEST}, out, capacity};
    for (size_t k = segment_count; k-- > 0;) {
        cdv_status status = push_segment(&w, &segments[k], written);
        if (status) {
            if (segment) *segment = k;
            return status;
        }
    }
    size_t words = capacity - w.position;
    memmove(out + STATE_BYTES, out + w.position, words);
    for (size_t lane = 0; lane < LANES; lane++) store32(out + 4 * lane, w.states[lane]);
    *written = STATE_BYTES + words;
    return CDV_OK;
}

/* ---- decoding -------------------------------------------------------------------------------- */

cdv_status cdv_rans_open(cdv_rans_decoder *decoder, const uint8_t *bytes, size_t size) {
    if (size < STATE_BYTES || size % 2) return CDV_BAD_LENGTH;
    *decoder = (cdv_rans_decoder){bytes, size, STATE_BYTES, {0}};
    for (size_t lane = 0; lane < LANES; lane++) {
        decoder->states[lane] = load32(bytes + 4 * lane);
        if (decoder->states[lane] < LOWEST) return CDV_BAD_STATE;
    }
    return CDV_OK;
}

/* Append a word to a state that is too small; 0 where no word is left. */
static inline int refill(cdv_rans_decoder *d, size_t lane, uint32_t state) {
    int enough = 1;
    if (state < LOWEST) {
        enough = d->size - d->position >= 2;
        state <<= 16;
        if (enough) {
            state |= load16(d->bytes + d->position);
            d->position += 2;
        }
    }
    d->states[lane] = state;
    return enough;
}

/* Nibbles are uniform: four low bits of the state are one, the rest is the next state. */
static inline int pop_nibble(cdv_rans_decoder *d, size_t lane, uint32_t *nibble) {
    *nibble = d->states[lane] & 15;
    return refill(d, lane, d->states[lane] >> 4);
}

/* Read sign and nibble count, then the nibbles. */
static cdv_status pop_escaped(cdv_rans_decoder *d, size_t lane, const cdv_tables *tables,
                              size_t at, int32_t *value) {
    uint32_t head, nibble, distance = 0;
    int enough = pop_nibble(d, lane, &head);
    if ((head & 7) > MOST_NIBBLES) return CDV_BAD_ESCAPE;
    for (uint32_t k = 0; k < (head & 7); k++) {
        enough &= pop_nibble(d, lane, &nibble);
        distance = distance << 4 | nibble;
    }
    *value = escaped_value(tables, at, head >> 3, distance);
    if (*value == ESCAPE_LIMIT) return CDV_BAD_ESCAPE;
    return enough ? CDV_OK : CDV_TRUNCATED;
}

static inline size_t index_at(const void *index, size_t index_bytes, size_t i) {
    return index_bytes == 1 ? ((const uint8_t *)index)[i] : ((const uint16_t *)index)[i];
}

/* Decode symbols `start` to `stop` one by one, escapes included. */
static cdv_status read_slowly(cdv_rans_decoder *d, const void *index, size_t index_bytes,
                              const cdv_tables *tables, int32_t *symbols, size_t start,
                              size_t stop) {
    for (size_t i = start; i < stop; i++) {
        size_t lane = i % LANES, at = index_at(index, index_bytes, i);
        const table *t = &tables->tables[at];
        uint32_t state = d->states[lane], slot = state & SLOT_MASK;
        uint32_t code = t->slots[slot], entry = t->entries[code];
        /* Duda's step backwards: frequency * (state / 2^12) + slot - start. */
        state = (entry >> 16) * (state >> PRECISION) + slot - (entry & 0xFFFF);
        int enough = refill(d, lane, state);
        int32_t value = (int32_t)code - ZERO_CODE;
        if (code == 0) {
            cdv_status status = pop_escaped(d, lane, tables, at, &value);
            if (status) return status;
        }
        if (!enough) return CDV_TRUNCATED;
        symbols[i] = value;
    }
    return CDV_OK;
}

/* Read the tables between the first and the last that an index names, front to back: a cold cache
 * fills several times faster so than by the look-ups of symbols, which go all over them. */
static void read_through(const cdv_tables *tables, size_t lowest, size_t highest, size_t count) {
    volatile uint32_t sink;
    uint32_t total = 0;
    /* Not for a few symbols in many tables: reading all of these would cost more than it saves. */
    if ((highest + 1 - lowest) * (sizeof(table) / 64) > 2 * count) return;
    const uint8_t *first = (const uint8_t *)&tables->tables[lowest];
    for (size_t at = 0; at < (highest + 1 - lowest) * sizeof(table); at += 64) total += first[at];
    sink = total;
    (void)sink;
}

static cdv_status check_index(const void *index, size_t index_bytes, size_t count,
                              const cdv_tables *tables) {
    size_t lowest = SIZE_MAX, highest = 0;
    if (index_bytes == 1) {
        const uint8_t *narrow = index;
        uint8_t low = 255, high = 0;
        for (size_t i = 0; i < count; i++) {
            low = narrow[i] < low ? narrow[i] : low;
            high = narrow[i] > high ? narrow[i] : high;
        }
        lowest = low, highest = high;
    } else {
        const uint16_t *wide = index;
        uint16_t low = 65535, high = 0;
        for (size_t i = 0; i < count; i++) {
            low = wide[i] < low ? wide[i] : low;
            high = wide[i] > high ? wide[i] : high;
        }
        lowest = low, highest = high;
    }
    if (highest >= tables->count) return CDV_BAD_INDEX;
    read_through(tables, lowest, highest, count);
    return CDV_OK;
}

/* One lane of a group of four: step, then a word if the state is too small, without a branch. */
#define STEP(lane)                                                                              \
    x##lane = (e##lane >> 16) * (x##lane >> PRECISION) + (x##lane & SLOT_MASK) -                \
              (e##lane & 0xFFFF);                                                               \
    {                                                                                           \
        uint32_t word = x##lane << 16 | (uint16_t)next;                                         \
        size_t needs = x##lane < LOWEST;                                                        \
        x##lane = needs ? word : x##lane;                                                       \
        next = needs ? next >> 16 : next;                                                       \
        words += 2 * needs;                                                                     \
    }

/* Decode groups of four from `i` on, until an escape, the last `tail` bytes, or `whole` symbols.
 *
 * A group runs without a branch on the data except for an escape, which is rare, and for four
 * skipped symbols, which come in long runs. Returns the next symbol. */
#define READ_GROUPS(name, type)                                                                 \
    static size_t name(cdv_rans_decoder *d, const type *index, const cdv_tables *tables,        \
                       int32_t *symbols, size_t i, size_t whole) {                              \
        const table *all = tables->tables;                                                      \
        const uint8_t *words = d->bytes + d->position;                                          \
        const uint8_t *last = d->bytes + d->size - 2 * LANES;                                   \
        const int skips = all->entries[ZERO_CODE] == SKIP;                                      \
        uint32_t x0 = d->states[0], x1 = d->states[1], x2 = d->states[2], x3 = d->states[3];    \
        for (; i < whole; i += LANES) {                                                         \
            size_t i0 = index[i], i1 = index[i + 1], i2 = index[i + 2], i3 = index[i + 3];      \
            if (skips & !(i0 | i1 | i2 | i3)) {                                                 \
                symbols[i] = symbols[i + 1] = symbols[i + 2] = symbols[i + 3] = 0;              \
                continue;                                                                       \
            }                                                                                   \
            const table *t0 = all + i0, *t1 = all + i1, *t2 = all + i2, *t3 = all + i3;         \
            int32_t c0 = t0->slots[x0 & SLOT_MASK], c1 = t1->slots[x1 & SLOT_MASK];             \
            int32_t c2 = t2->slots[x2 & SLOT_MASK], c3 = t3->slots[x3 & SLOT_MASK];             \
            /* Leaves the states untouched, so that these four are decoded again slowly: at the end\
             * of the words, and where a code is 0. */                                          \
            if (words > last || ((c0 - 1) | (c1 - 1) | (c2 - 1) | (c3 - 1)) < 0) break;         \
            symbols[i] = c0 - ZERO_CODE, symbols[i + 1] = c1 - ZERO_CODE;                       \
            symbols[i + 2] = c2 - ZERO_CODE, symbols[i + 3] = c3 - ZERO_CODE;                   \
            uint32_t e0 = t0->entries[c0], e1 = t1->entries[c1];                                \
            uint32_t e2 = t2->entries[c2], e3 = t3->entries[c3];                                \
            uint64_t next = load32(words) | (uint64_t)load32(words + 4) << 32;                  \
            STEP(0) STEP(1) STEP(2) STEP(3)                                                     \
        }                                                                                       \
        d->states[0] = x0, d->states[1] = x1, d->states[2] = x2, d->states[3] = x3;             \
        d->position = (size_t)(words - d->bytes);                                               \
        return i;                                                                               \
    }

READ_GROUPS(read_groups_narrow, uint8_t)
READ_GROUPS(read_groups_wide, uint16_t)

cdv_status cdv_rans_read(cdv_rans_decoder *decoder, const void *index, size_t index_bytes,
                         size_t count, const cdv_tables *tables, int32_t *symbols) {
    if (index_bytes != 1 && index_bytes != 2) return CDV_ARGUMENT;
    if (count == 0) return CDV_OK;
    cdv_status status = check_index(index, index_bytes, count, tables);
    size_t i = 0, whole = count - count % LANES;
    while (!status && i < whole) {
        i = index_bytes == 1 ? read_groups_narrow(decoder, index, tables, symbols, i, whole)
                             : read_groups_wide(decoder, index, tables, symbols, i, whole);
        size_t stop = i < whole ? i + LANES : whole;
        status = read_slowly(decoder, index, index_bytes, tables, symbols, i, stop);
        i = stop;
    }
    return status ? status : read_slowly(decoder, index, index_bytes, tables, symbols, i, count);
}

cdv_status cdv_rans_finish(const cdv_rans_decoder *decoder) {
    /* What an encoder pushed onto fresh states leaves fresh states when it is popped. */
    if (decoder->position != decoder->size) return CDV_BAD_LENGTH;
    for (size_t lane = 0; lane < LANES; lane++)
        if (decoder->states[lane] != LOWEST) return CDV_BAD_STATE;
    return CDV_OK;
}
