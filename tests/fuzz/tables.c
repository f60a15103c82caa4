/* Tables: any ranges and frequencies are refused, or code symbols that come back. */
#include "fuzz.h"

#define MOST_TABLES 5
#define SYMBOLS 9

/* Whether both coders give back what they were given, or refuse it alike. */
static void check_coders(const cdv_tables *tables, const uint16_t *index, const int32_t *symbols) {
    cdv_segment segment = {symbols, index, SYMBOLS, tables};
    uint8_t out[16 + 6 * SYMBOLS], shorter[4 + 5 * SYMBOLS];
    size_t written, at = 0, size, place = 0;
    cdv_status status = cdv_rans_encode(&segment, 1, out, sizeof out, &written, &at);
    cdv_status other = cdv_range_encode(&segment, 1, shorter, sizeof shorter, &size, &place);
    /* One codes backwards, so of two faults they may name different ones. */
    MUST(!status == !other && at == 0 && place == 0);
    if (status) return;
    int32_t decoded[SYMBOLS];
    cdv_rans_decoder rans;
    MUST(!cdv_rans_open(&rans, out, written));
    MUST(!cdv_rans_read(&rans, index, 2, SYMBOLS, tables, decoded) && !cdv_rans_finish(&rans));
    MUST(!memcmp(decoded, symbols, sizeof decoded));
    cdv_range_decoder range;
    MUST(!cdv_range_open(&range, shorter, size));
    MUST(!cdv_range_read(&range, index, SYMBOLS, tables, decoded) && !cdv_range_finish(&range));
    MUST(!memcmp(decoded, symbols, sizeof decoded));
}

/* Let each table's escape take what its frequencies lack, so that some inputs are tables. */
static void complete(const int16_t *low, const int16_t *high, size_t count, uint16_t *frequencies,
                     size_t entries) {
    size_t at = 0;
    for (size_t table = 0; table < count; table++) {
        size_t symbols = (size_t)(high[table] - low[table] + 1), sum = 0;
        if (high[table] < low[table] || symbols > 300 || at + symbols >= entries) return;
        for (size_t k = 0; k < symbols; k++) sum += frequencies[at + k];
        frequencies[at + symbols] = (uint16_t)(sum < 4096 ? 4096 - sum : 0);
        at += symbols + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input in = {bytes, size};
    size_t count = take_size(&in, MOST_TABLES), completed = take_size(&in, 1);
    int16_t *low = room(count, 2), *high = room(count, 2);
    for (size_t k = 0; k < count; k++) {
        low[k] = completed ? (int16_t)(take_number(&in, 1) - 128) : (int16_t)take_number(&in, 2);
        high[k] = completed ? (int16_t)(low[k] + (int)take_number(&in, 1))
                            : (int16_t)take_number(&in, 2);
    }
    uint16_t index[SYMBOLS];
    int32_t symbols[SYMBOLS];
    for (size_t k = 0; k < SYMBOLS; k++) {
        index[k] = (uint16_t)take_size(&in, MOST_TABLES);
        symbols[k] = (int32_t)(take_number(&in, 3) << 8) >> (8 + take_size(&in, 16));
    }
    size_t entries = in.left / 2;
    uint16_t *frequencies = take_array(&in, entries, 2);
    if (completed) complete(low, high, count, frequencies, entries);
    cdv_tables *tables;
    cdv_status status = cdv_tables_new(low, high, count, frequencies, entries, &tables);
    MUST((status == CDV_OK) == (tables != NULL));
    if (tables) {
        MUST(cdv_tables_count(tables) == count);
        check_coders(tables, index, symbols);
    }
    cdv_tables_free(tables);
    free(low), free(high), free(frequencies);
    return 0;
}
