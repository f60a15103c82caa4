/* Decode all layers of a parsed stream that a codec has, into room of exactly their sizes. */
#ifndef DECODING_H
#define DECODING_H

#include "fuzz.h"

#define MOST_CELLS (1u << 20)

/* CDV_LIMIT where there would be more latents than a fuzzer has time for. */
static inline cdv_status decode_layer(const cdv_codec *codec, const cdv_stream *stream,
                                      const uint8_t *bytes, uint32_t layer) {
    cdv_shape symbols, hyper;
    cdv_status status = cdv_codec_shapes(codec, layer, stream->input_width, stream->input_height,
                                         &symbols, &hyper);
    if (status) return status;
    size_t count = symbols.channels * symbols.height * symbols.width;
    size_t inner = hyper.channels * hyper.height * hyper.width;
    if (count > MOST_CELLS || inner > MOST_CELLS) return CDV_LIMIT;
    int32_t *decoded = room(count, 4), *side = hyper.channels ? room(inner, 4) : NULL;
    status = cdv_codec_decode(codec, stream, bytes, layer, decoded, side);
    free(decoded), free(side);
    return status;
}

static inline uint8_t *whole_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    MUST(file && !fseek(file, 0, SEEK_END));
    long end = ftell(file);
    MUST(end > 0 && !fseek(file, 0, SEEK_SET));
    uint8_t *bytes = malloc((size_t)end);
    MUST(bytes && fread(bytes, 1, (size_t)end, file) == (size_t)end);
    fclose(file);
    *size = (size_t)end;
    return bytes;
}

static inline cdv_codec *codec_from(const char *path) {
    size_t size;
    uint8_t *bytes = whole_file(path, &size);
    cdv_codec *codec;
    MUST(cdv_codec_new(bytes, size, &codec) == CDV_OK);
    free(bytes);
    return codec;
}

#endif
