/* From files to latents with cdv.h; each function ends the program where a file is not what it
 * should be. */
#ifndef DECODING_H
#define DECODING_H

#include <cdv.h>

/* One layer's integers; a vector has no hyper-latent (0 channels, NULL). */
typedef struct latents {
    cdv_shape shape, hyper_shape;
    int32_t *symbols, *hyper;
} latents;

size_t size_of(const cdv_shape *shape);

/* codec.cdvc, which `cdvision export MODEL --to core DIR` writes; to be freed by cdv_codec_free. */
cdv_codec *open_codec(const char *path);

/* A .cdv file taken apart; returns its bytes, to be freed. */
uint8_t *open_stream(const char *path, const cdv_codec *codec, cdv_stream *stream);

latents decode(const char *path, const cdv_codec *codec, const cdv_stream *stream,
               const uint8_t *bytes, uint32_t layer);
void free_latents(latents *decoded);

#endif
