/* Streams: whatever the bytes, a fault or a stream; and a whole stream has one spelling. */
#define SEALED_MUTATIONS
#include "seal.h"

static void check_written_again(const cdv_stream *stream, const uint8_t *bytes, size_t size) {
    const uint8_t *bodies[CDV_MAX_LAYERS];
    size_t written = 0;
    for (uint32_t k = 0; k < stream->layer_count; k++) bodies[k] = bytes + stream->layers[k].offset;
    MUST(cdv_stream_write(stream, bodies, NULL, 0, &written) == CDV_ARGUMENT && written == size);
    uint8_t *again = room(size, 1);
    MUST(cdv_stream_write(stream, bodies, again, size - 1, &written) == CDV_ARGUMENT);
    MUST(cdv_stream_write(stream, bodies, again, size, &written) == CDV_OK && written == size);
    MUST(!memcmp(again, bytes, size));
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    cdv_stream stream;
    cdv_fault fault;
    cdv_status status = cdv_stream_parse(bytes, size, &stream, &fault);
    MUST(cdv_stream_parse(bytes, size, &stream, NULL) == status);
    if (status) {
        MUST(fault.offset <= size && *fault.field && memchr(fault.field, 0, sizeof fault.field));
        return 0;
    }
    MUST(stream.present <= stream.layer_count && stream.layer_count <= CDV_MAX_LAYERS);
    for (uint32_t k = 0; k < stream.present; k++) {
        const cdv_stream_layer *layer = &stream.layers[k];
        MUST(layer->intact && layer->offset <= size && layer->length <= size - layer->offset);
    }
    if (stream.present == stream.layer_count) check_written_again(&stream, bytes, size);
    return 0;
}
