/* From a .cdv file to latents, with cdv.h alone: latents codec.cdvc STREAM.cdv
 *
 * Prints the shape of each array and its CRC-32, over little-endian int32 as in zlib. */
#include <stdio.h>
#include <stdlib.h>

#include "decoding.h"
#include "files.h"

static uint32_t add_byte(uint32_t crc, uint8_t byte) {
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    return crc;
}

static uint32_t checksum(const int32_t *values, size_t count) {
    uint32_t crc = UINT32_MAX;
    for (size_t k = 0; k < count; k++)
        for (int bits = 0; bits < 32; bits += 8)
            crc = add_byte(crc, (uint8_t)((uint32_t)values[k] >> bits));
    return ~crc;
}

static void print_array(uint32_t layer, const char *name, const cdv_shape *shape,
                        const int32_t *values) {
    printf("layer %u %s %zu x %zu x %zu %08x\n", layer, name, shape->channels, shape->height,
           shape->width, checksum(values, size_of(shape)));
}

int main(int count, char **arguments) {
    if (count != 3) fail("usage: %s codec.cdvc STREAM.cdv", arguments[0]);
    cdv_stream stream;
    cdv_codec *codec = open_codec(arguments[1]);
    uint8_t *bytes = open_stream(arguments[2], codec, &stream);
    printf("quality %u, source %u x %u, input %u x %u, %u of %u layers\n", stream.quality,
           stream.width, stream.height, stream.input_width, stream.input_height, stream.present,
           stream.layer_count);
    for (uint32_t k = 0; k < stream.present; k++) {
        uint32_t layer = stream.layers[k].id;
        latents decoded = decode(arguments[2], codec, &stream, bytes, layer);
        print_array(layer, "symbols", &decoded.shape, decoded.symbols);
        if (decoded.hyper) print_array(layer, "hyper", &decoded.hyper_shape, decoded.hyper);
        free_latents(&decoded);
    }
    free(bytes);
    cdv_codec_free(codec);
    return 0;
}
