/* Whole streams of a model ($CDV_FUZZ_CODEC: its codec.cdvc), most with fitting checksums. */
#define SEALED_MUTATIONS
#include "decoding.h"
#include "seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static cdv_codec *codec;
    if (!codec) codec = codec_from(getenv("CDV_FUZZ_CODEC"));
    cdv_stream stream;
    if (cdv_stream_parse(bytes, size, &stream, NULL)) return 0;
    for (uint32_t k = 0; k < stream.layer_count; k++)
        decode_layer(codec, &stream, bytes, stream.layers[k].id);
    return 0;
}
