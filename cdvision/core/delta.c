/* Delta packets: the change of a map, block by block, cell by cell, value by value.
 *
 *     block of 4 x 4 cells   skip | delta | intra
 *     cell                   as it was | coded
 *     symbol                 the change (delta), or the symbol itself (intra)
 *
 * One walk serves encoder, decoder and counter, so that all choose the same tables. A table depends
 * on integers that both sides have: the scale index of the last key, how much the last packet
 * changed, how much this one has changed in the cells to the left and above, and how many of the
 * cell's values were not zero so far. */
#include "range_coder.h"

#define BLOCK 4
#define GROUP 16 /* channels: a count steps behind each group, not behind each symbol */
enum { SKIP, DELTA, INTRA };

/* The tables: 3 x 3 for modes, 4 x 3 x 2 + 4 for cells, 4 x 9 x 6 for values. */
#define CELL_TABLES 9
#define INTRA_CELL_TABLES (CELL_TABLES + 24)
#define VALUE_TABLES (INTRA_CELL_TABLES + 4)
#define RATES 9
#define SCALES 6

typedef struct walker {
    cdv_delta_map *map;
    const int32_t *target; /* NULL: the decoder finds it */
    const cdv_tables *tables;
    range_writer *writer;
    cdv_range_decoder *decoder;
    uint32_t *counted;
} walker;

/* Write, read or count one symbol. */
static cdv_status code(walker *w, size_t at, int32_t *symbol) {
    if (w->writer) return cdv_range_put(w->writer, w->tables, at, *symbol);
    if (w->decoder) return cdv_range_get(w->decoder, w->tables, at, symbol);
    int32_t clipped = *symbol < -SYMBOL_LIMIT ? -SYMBOL_LIMIT : *symbol;
    clipped = clipped > SYMBOL_LIMIT ? SYMBOL_LIMIT : clipped;
    w->counted[256 * at + (size_t)(clipped + ZERO_CODE)]++;
    return CDV_OK;
}

/* 0, few or many. */
static size_t amount(size_t count, size_t few) { return count == 0 ? 0 : count <= few ? 1 : 2; }

/* ---- values ----------------------------------------------------------------------------------- */

static size_t scale_class(uint8_t scale) {
    static const uint8_t limits[SCALES - 1] = {1, 6, 11, 16, 23};
    size_t k = 0;
    while (k < SCALES - 1 && scale >= limits[k]) k++;
    return k;
}

/* How many of 128 symbols the groups so far lead to expect; of the first group, the neighbours. */
static size_t rate_class(size_t found, size_t groups, size_t around) {
    static const uint8_t limits[] = {1, 3, 6, 12, 24};
    if (groups == 0) return 6 + amount(around, 8);
    size_t rate = 8 * found / groups, k = 0;
    while (k < 5 && rate >= limits[k]) k++;
    return k;
}

/* What a symbol was before, without its sign. */
static size_t past_class(int32_t before, int intra) {
    if (intra) return 3;
    return amount((size_t)(before < 0 ? -before : before), 1);
}

static cdv_status code_value(walker *w, size_t place, int intra, size_t rate, int *is_zero) {
    int32_t *symbol = &w->map->symbols[place], before = *symbol, base = intra ? 0 : before;
    /* A symbol tends back to zero: with the sign of what it was, one table serves both signs. */
    int32_t sign = base < 0 ? -1 : 1, value = 0;
    if (w->target) value = sign * (w->target[place] - base);
    size_t at = (past_class(before, intra) * RATES + rate) * SCALES;
    cdv_status status = code(w, VALUE_TABLES + at + scale_class(w->map->scales[place]), &value);
    *is_zero = value == 0;
    *symbol = base + sign * value;
    if (*symbol <= -ESCAPE_LIMIT || *symbol >= ESCAPE_LIMIT) {
        *symbol = before;
        return CDV_BAD_ESCAPE;
    }
    return status;
}

/* ---- cells ------------------------------------------------------------------------------------ */

static size_t count_at(const cdv_delta_map *m, size_t row, size_t column) {
    return m->counts[row * m->width + column];
}

/* Of the cells to the left, above and between: how many changed, and how much. */
static size_t around_cell(const cdv_delta_map *m, size_t row, size_t column, size_t *changed) {
    size_t left = column ? count_at(m, row, column - 1) : 0;
    size_t up = row ? count_at(m, row - 1, column) : 0;
    size_t corner = row && column ? count_at(m, row - 1, column - 1) : 0;
    *changed = (left > 0) + (up > 0) + (corner > 0);
    return left + up;
}

static size_t cell_table(const cdv_delta_map *m, size_t row, size_t column, size_t changed) {
    size_t right = column + 1 < m->width ? count_at(m, row, column + 1) : 0;
    size_t below = row + 1 < m->height ? count_at(m, row + 1, column) : 0;
    size_t last = amount(count_at(m, row, column), 4);
    return CELL_TABLES + (changed * 3 + last) * 2 + (right + below > 0);
}

static int cell_is_coded(const walker *w, size_t cell, int intra) {
    size_t cells = w->map->height * w->map->width;
    for (size_t c = 0; c < w->map->channels; c++) {
        int32_t base = intra ? 0 : w->map->symbols[c * cells + cell];
        if (w->target[c * cells + cell] != base) return 1;
    }
    return 0;
}

static cdv_status code_values(walker *w, size_t cell, int intra, size_t around, size_t *changed) {
    size_t cells = w->map->height * w->map->width, found = 0, rate = 0;
    for (size_t c = 0; c < w->map->channels; c++) {
        size_t place = c * cells + cell;
        int32_t before = w->map->symbols[place];
        int is_zero;
        if (c % GROUP == 0) rate = rate_class(found, c / GROUP, around);
        cdv_status status = code_value(w, place, intra, rate, &is_zero);
        if (status) return status;
        found += !is_zero;
        *changed += w->map->symbols[place] != before;
    }
    return CDV_OK;
}

/* An intra cell without symbols: all of them become zero. */
static size_t clear_cell(walker *w, size_t cell) {
    size_t cells = w->map->height * w->map->width, changed = 0;
    for (size_t c = 0; c < w->map->channels; c++) {
        changed += w->map->symbols[c * cells + cell] != 0;
        w->map->symbols[c * cells + cell] = 0;
    }
    return changed;
}

static cdv_status code_cell(walker *w, size_t row, size_t column, int intra) {
    cdv_delta_map *m = w->map;
    size_t cell = row * m->width + column, neighbours, changed = 0;
    size_t around = around_cell(m, row, column, &neighbours);
    size_t at = intra ? INTRA_CELL_TABLES + neighbours : cell_table(m, row, column, neighbours);
    int32_t coded = w->target ? cell_is_coded(w, cell, intra) : 0;
    cdv_status status = code(w, at, &coded);
    if (!status && coded) status = code_values(w, cell, intra, around, &changed);
    if (!coded && intra) changed = clear_cell(w, cell);
    m->counts[cell] = (uint8_t)(changed > 255 ? 255 : changed);
    return status;
}

/* ---- blocks ----------------------------------------------------------------------------------- */

typedef struct block {
    size_t top, left, bottom, right;
} block;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static block block_at(const cdv_delta_map *m, size_t top, size_t left) {
    return (block){top, left, least(top + BLOCK, m->height), least(left + BLOCK, m->width)};
}

static size_t changed_cells(const cdv_delta_map *m, block b) {
    size_t found = 0;
    for (size_t row = b.top; row < b.bottom; row++)
        for (size_t column = b.left; column < b.right; column++) found += count_at(m, row, column) > 0;
    return found;
}

static size_t mode_table(const cdv_delta_map *m, block b) {
    size_t around = 0;
    if (b.left) around += changed_cells(m, block_at(m, b.top, b.left - BLOCK)) > 0;
    if (b.top) around += changed_cells(m, block_at(m, b.top - BLOCK, b.left)) > 0;
    return around * 3 + amount(changed_cells(m, b), 2);
}

/* Whichever has fewer values that are not zero. */
static int32_t chosen_mode(const walker *w, block b) {
    size_t cells = w->map->height * w->map->width, delta = 0, intra = 0;
    for (size_t c = 0; c < w->map->channels; c++)
        for (size_t row = b.top; row < b.bottom; row++)
            for (size_t column = b.left; column < b.right; column++) {
                size_t place = c * cells + row * w->map->width + column;
                delta += w->target[place] != w->map->symbols[place];
                intra += w->target[place] != 0;
            }
    return delta == 0 ? SKIP : delta > intra ? INTRA : DELTA;
}

static cdv_status code_block(walker *w, block b) {
    int32_t mode = w->target ? chosen_mode(w, b) : SKIP;
    cdv_status status = code(w, mode_table(w->map, b), &mode);
    for (size_t row = b.top; row < b.bottom && !status; row++)
        for (size_t column = b.left; column < b.right && !status; column++)
            if (mode == SKIP)
                w->map->counts[row * w->map->width + column] = 0;
            else
                status = code_cell(w, row, column, mode == INTRA);
    return status;
}

static cdv_status walk(walker *w) {
    cdv_status status = CDV_OK;
    for (size_t top = 0; top < w->map->height && !status; top += BLOCK)
        for (size_t left = 0; left < w->map->width && !status; left += BLOCK)
            status = code_block(w, block_at(w->map, top, left));
    return status;
}

/* ---- the three uses --------------------------------------------------------------------------- */

static size_t symbol_count(const cdv_delta_map *m) {
    return product(product(m->height, m->width), m->channels);
}

static void nothing_changed(cdv_delta_map *m) { memset(m->counts, 0, m->height * m->width); }

size_t cdv_delta_capacity(const cdv_delta_map *m) {
    /* A block has a cell at least, a cell a symbol: three times as many as symbols are enough. */
    size_t bytes = product(symbol_count(m), 15);
    return bytes > SIZE_MAX - 4 ? SIZE_MAX : bytes + 4;
}

cdv_status cdv_delta_encode(cdv_delta_map *map, const int32_t *target, const cdv_tables *tables,
                            uint8_t *out, size_t capacity, size_t *written) {
    *written = 0;
    if (!map->channels || capacity < cdv_delta_capacity(map)) return CDV_ARGUMENT;
    if (tables->count != CDV_DELTA_TABLES) return CDV_BAD_TABLES;
    if (!memcmp(target, map->symbols, symbol_count(map) * sizeof *target)) {
        nothing_changed(map);
        return CDV_OK;
    }
    range_writer writer = cdv_range_begin(out);
    walker w = {.map = map, .target = target, .tables = tables, .writer = &writer};
    cdv_status status = walk(&w);
    if (!status) *written = cdv_range_close(&writer);
    return status;
}

cdv_status cdv_delta_decode(cdv_delta_map *map, const cdv_tables *tables, const uint8_t *bytes,
                            size_t size) {
    if (!map->channels) return CDV_ARGUMENT;
    if (tables->count != CDV_DELTA_TABLES) return CDV_BAD_TABLES;
    if (!size) {
        nothing_changed(map);
        return CDV_OK;
    }
    cdv_range_decoder decoder;
    cdv_range_open(&decoder, bytes, size);
    walker w = {.map = map, .tables = tables, .decoder = &decoder};
    cdv_status status = walk(&w);
    return status ? status : cdv_range_finish(&decoder);
}

cdv_status cdv_delta_count(cdv_delta_map *map, const int32_t *target, uint32_t *counted) {
    if (!map->channels) return CDV_ARGUMENT;
    walker w = {.map = map, .target = target, .counted = counted};
    return walk(&w);
}
