#include "decoding.h"

#include <stdlib.h>
#include <string.h>

#include "files.h"

size_t size_of(const cdv_shape *shape) { return shape->channels * shape->height * shape->width; }

cdv_codec *open_codec(const char *path) {
    size_t size;
    uint8_t *bytes = read_file(path, &size);
    cdv_codec *codec;
    cdv_status status = cdv_codec_new(bytes, size, &codec);
    if (status)
        fail("%s: expected a codec.cdvc (cdvision export MODEL --to core DIR): %s", path,
             cdv_status_text(status));
    free(bytes); /* the codec has its own copy */
    return codec;
}

uint8_t *open_stream(const char *path, const cdv_codec *codec, cdv_stream *stream) {
    size_t size;
    uint8_t *bytes = read_file(path, &size), expected[CDV_FINGERPRINT_BYTES];
    cdv_fault fault;
    cdv_status status = cdv_stream_parse(bytes, size, stream, &fault);
    if (status)
        fail("%s: at byte %zu: %s: %s", path, fault.offset, fault.field, cdv_status_text(status));
    const uint8_t *found = stream->fingerprint;
    cdv_codec_fingerprint(codec, expected);
    if (memcmp(expected, found, sizeof expected))
        fail("%s: a stream of another model: expected fingerprint %02x%02x%02x%02x, found "
             "%02x%02x%02x%02x", path, expected[0], expected[1], expected[2], expected[3], found[0],
             found[1], found[2], found[3]);
    return bytes;
}

latents decode(const char *path, const cdv_codec *codec, const cdv_stream *stream,
               const uint8_t *bytes, uint32_t layer) {
    latents decoded = {0};
    cdv_status status = cdv_codec_shapes(codec, layer, stream->input_width, stream->input_height,
                                         &decoded.shape, &decoded.hyper_shape);
    if (!status) {
        decoded.symbols = memory(size_of(&decoded.shape), sizeof(int32_t));
        if (decoded.hyper_shape.channels)
            decoded.hyper = memory(size_of(&decoded.hyper_shape), sizeof(int32_t));
        status = cdv_codec_decode(codec, stream, bytes, layer, decoded.symbols, decoded.hyper);
    }
    if (status) fail("%s: layer %u: %s", path, layer, cdv_status_text(status));
    return decoded;
}

void free_latents(latents *decoded) {
    free(decoded->symbols);
    free(decoded->hyper);
}
