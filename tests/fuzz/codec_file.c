/* codec.cdvc: any file is refused, or a codec that decodes any body without harm. */
#include "decoding.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    cdv_codec *codec;
    cdv_status status = cdv_codec_new(bytes, size, &codec);
    MUST((status == CDV_OK) == (codec != NULL));
    if (!codec) return 0;
    /* The file itself stands in for a stream's bodies: any bytes do. */
    input number = {bytes + 8, 4};
    cdv_stream stream = {.codec = (uint32_t)take_number(&number, 4), .input_width = 32,
                         .input_height = 40, .layer_count = 1, .present = 1};
    cdv_codec_fingerprint(codec, stream.fingerprint);
    for (uint32_t layer = 0; layer < 4; layer++)
        for (stream.quality = 1; stream.quality < 4; stream.quality++) {
            size_t start = size / 4 * layer;
            stream.layers[0] = (cdv_stream_layer){layer, 1, start, (size - start) / 2 * 2};
            decode_layer(codec, &stream, bytes, layer);
        }
    cdv_codec_free(codec);
    return 0;
}
