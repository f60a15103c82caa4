/* The range coder: any bytes give symbols or a fault; and symbols have one spelling. */
#include "known_tables.h"

static void check_coded_again(const cdv_segment *segment, const uint8_t *body, size_t size) {
    size_t written, capacity = 4 + 5 * segment->count;
    uint8_t *out = room(capacity, 1);
    MUST(cdv_range_encode(segment, 1, out, capacity - 1, &written, NULL) == CDV_ARGUMENT);
    MUST(cdv_range_encode(segment, 1, out, capacity, &written, NULL) == CDV_OK);
    MUST(written == size && !memcmp(out, body, size));
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static cdv_tables *tables;
    if (!tables) tables = known_tables();
    input in = {bytes, size};
    size_t count = take_size(&in, 200);
    uint16_t *index = take_index(&in, count);
    int32_t *symbols = room(count, sizeof *symbols);
    size_t body_size = in.left;
    uint8_t *body = take_array(&in, body_size, 1);
    cdv_range_decoder decoder;
    MUST(cdv_range_open(&decoder, body, body_size) == CDV_OK);
    cdv_status status = cdv_range_read(&decoder, index, count, tables, symbols);
    if (!status) status = cdv_range_finish(&decoder);
    cdv_segment segment = {symbols, index, count, tables};
    if (!status) check_coded_again(&segment, body, body_size);
    free(index), free(symbols), free(body);
    return 0;
}
