/* rANS: decodes any bytes to symbols or to a fault; what it decoded, it codes again. */
#include "known_tables.h"

static void check_coded_again(const cdv_tables *tables, const uint16_t *index, int32_t *symbols,
                              size_t count) {
    cdv_segment segment = {symbols, index, count, tables};
    size_t written, capacity = 16 + 6 * count;
    uint8_t *out = room(capacity, 1);
    int32_t *again = room(count, sizeof *again);
    cdv_rans_decoder decoder;
    MUST(cdv_rans_encode(&segment, 1, out, capacity - 1, &written, NULL) == CDV_ARGUMENT);
    MUST(cdv_rans_encode(&segment, 1, out, capacity, &written, NULL) == CDV_OK);
    MUST(cdv_rans_open(&decoder, out, written) == CDV_OK);
    MUST(cdv_rans_read(&decoder, index, 2, count, tables, again) == CDV_OK);
    MUST(cdv_rans_finish(&decoder) == CDV_OK);
    MUST(!memcmp(again, symbols, count * sizeof *again));
    free(out), free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static cdv_tables *tables;
    if (!tables) tables = known_tables();
    input in = {bytes, size};
    size_t count = take_size(&in, 700), parts = 1 + take_size(&in, 2), narrow = take_size(&in, 1);
    uint16_t *index = take_index(&in, count);
    uint8_t *bytes_index = room(count, 1);
    for (size_t k = 0; k < count; k++) bytes_index[k] = (uint8_t)index[k];
    int32_t *symbols = room(count, sizeof *symbols);
    size_t body_size = in.left;
    uint8_t *body = take_array(&in, body_size, 1);
    cdv_rans_decoder decoder;
    cdv_status status = cdv_rans_open(&decoder, body, body_size);
    /* In parts, as a hyper-latent and its map are read. */
    for (size_t part = 0, at = 0; part < parts && !status; part++) {
        size_t stop = count * (part + 1) / parts;
        const void *from = narrow ? (const void *)(bytes_index + at) : (const void *)(index + at);
        status = cdv_rans_read(&decoder, from, narrow ? 1 : 2, stop - at, tables, symbols + at);
        MUST(decoder.position <= body_size);
        at = stop;
    }
    if (!status && !cdv_rans_finish(&decoder) && !narrow)
        check_coded_again(tables, index, symbols, count);
    free(index), free(bytes_index), free(symbols), free(body);
    return 0;
}
