/* cdv.h: the integer core of cdvision, from bytes to latents and from a network's outputs to boxes.
 *
 *     .cdv ── cdv_stream_parse ──▶ layers ── cdv_codec_decode ──▶ latents ── (a dense network) ──▶
 *     outputs ── cdv_best_candidates ─▶ cdv_distinct_boxes ──▶ boxes
 *
 * Rules that hold for every function:
 *
 *   Status      Functions return a cdv_status; CDV_OK is 0. cdv_status_text says it in English.
 *   Memory      What a caller passes stays the caller's, and is not kept after the call, unless the
 *               function's comment says so. What cdv_*_new makes is freed by cdv_*_free; NULL may be
 *               freed. Every size of an array is passed; nothing beyond it is read or written.
 *   Hostile     Bytes may be anything. Table indices, shapes and settings are checked as well.
 *   bytes       Nothing is allocated by a number from the bytes before that number is checked.
 *   Threads     There is no global state that changes. A tables, network or codec handle may be used
 *               by many threads at once; a decoder by one at a time.
 *   Arithmetic  Everything between bytes and latents is in integers: the same bits on every machine.
 *   Layout      Maps are dense, row by row; (C, h, w) or (h, w, C) is said where it matters.
 */
#ifndef CDV_H
#define CDV_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(CDV_BUILDING)
#define CDV_API __declspec(dllexport)
#elif defined(__GNUC__) && defined(CDV_BUILDING)
#define CDV_API __attribute__((visibility("default")))
#else
#define CDV_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function's arguments do. */
#define CDV_ABI 1

typedef enum cdv_status {
    CDV_OK = 0,
    CDV_TRUNCATED = 1,   /* the bytes end before the last symbol */
    CDV_BAD_ESCAPE = 2,  /* an escaped value of 2^20 or more, or spelled with a leading zero */
    CDV_BAD_POINT = 3,   /* the bytes point to no symbol's interval */
    CDV_BAD_LENGTH = 4,  /* too few bytes, or bytes left over */
    CDV_BAD_STATE = 5,   /* a coder's state that no encoder leaves */
    CDV_NOT_CODABLE = 6, /* a symbol that its table cannot code */
    CDV_BAD_INDEX = 7,   /* an index that names no table */
    CDV_BAD_TABLES = 8,  /* frequencies that are no tables */
    CDV_BAD_NETWORK = 9, /* layers that do not fit each other, or whose sums are not proved exact */
    CDV_BAD_HEADER = 10, /* a stream's header; cdv_fault says what */
    CDV_DAMAGED = 11,    /* a checksum disagrees */
    CDV_LIMIT = 12,      /* larger than the limits allow */
    CDV_ARGUMENT = 13,   /* an argument out of its range, or a buffer that is too small */
    CDV_MEMORY = 14      /* out of memory */
} cdv_status;

CDV_API const char *cdv_status_text(cdv_status status);

/* CDV_ABI of the library that was loaded, and the instruction set that its loops use: "avx2",
 * "neon" or "baseline". cdv_use_baseline(1) turns the choice off, for tests. */
CDV_API int cdv_abi(void);
CDV_API const char *cdv_instructions(void);
CDV_API void cdv_use_baseline(int baseline);

/* ---- streams ------------------------------------------------------------------------------- */

#define CDV_MAX_LAYERS 16
#define CDV_FINGERPRINT_BYTES 4

/* Where one layer lies in a stream, or would lie in one that was cut, and whether it is there. */
typedef struct cdv_stream_layer {
    uint32_t id;
    uint32_t intact; /* 1: all bytes are there and the checksum agrees */
    size_t offset;   /* of the body */
    size_t length;   /* of the body, without its checksum */
} cdv_stream_layer;

typedef struct cdv_stream {
    uint32_t version; /* 1, or 2 for the compact form */
    uint32_t codec;
    uint8_t fingerprint[CDV_FINGERPRINT_BYTES];
    uint32_t width, height;             /* of the source, pixels */
    uint32_t input_width, input_height; /* of the network input, multiples of 8 */
    uint32_t quality;                   /* from 1 */
    uint32_t layer_count;               /* as written; a stream that was cut holds fewer */
    uint32_t present;                   /* layers that are whole and intact, from the first */
    size_t header_bytes;
    cdv_stream_layer layers[CDV_MAX_LAYERS];
} cdv_stream;

/* What is wrong with a stream: the name of the field and where it stands. */
typedef struct cdv_fault {
    size_t offset;
    char field[40];
} cdv_fault;

/* Take a stream, whole or cut, apart. A layer that is cut is not present, nor is what follows it.
 * CDV_DAMAGED: a checksum disagrees; CDV_BAD_HEADER, CDV_LIMIT (2^26 pixels, 16 layers, 2^26 bytes
 * a layer): as named; CDV_BAD_LENGTH: bytes behind the last layer. `fault` may be NULL. */
CDV_API cdv_status cdv_stream_parse(const uint8_t *bytes, size_t size, cdv_stream *stream,
                                    cdv_fault *fault);

/* Write a stream. Of `stream`, version, codec, fingerprint, sizes, quality, layer_count and the
 * layers' ids and lengths count; bodies[k] has layers[k].length bytes. `written` is what the stream
 * takes, also where `capacity` is too small for it (CDV_ARGUMENT) or `out` is NULL. */
CDV_API cdv_status cdv_stream_write(const cdv_stream *stream, const uint8_t *const *bodies,
                                    uint8_t *out, size_t capacity, size_t *written);

/* ---- probability tables -------------------------------------------------------------------- */

/* Tables of integer frequencies that sum to 2^12 each. */
typedef struct cdv_tables cdv_tables;

/* `low` and `high` are the first and the last symbol of each of `count` tables, within [-127, 127].
 * `frequencies` holds, table by table, high - low + 1 frequencies of at least 1 and that of the
 * escape, 0 for none: `entries` in all. CDV_BAD_TABLES where they are no such tables. */
CDV_API cdv_status cdv_tables_new(const int16_t *low, const int16_t *high, size_t count,
                                  const uint16_t *frequencies, size_t entries, cdv_tables **tables);
CDV_API void cdv_tables_free(cdv_tables *tables);
CDV_API size_t cdv_tables_count(const cdv_tables *tables);

/* ---- entropy coding ------------------------------------------------------------------------ */

/* Symbols that are coded together, and the table of each. */
typedef struct cdv_segment {
    const int32_t *symbols;
    const uint16_t *index;
    size_t count;
    const cdv_tables *tables;
} cdv_segment;

/* rANS with four interleaved states, for a hundred symbols and more. `out` needs
 * 16 + 6 * (number of symbols) bytes; the coded bytes are moved to its start. Where the status is
 * CDV_NOT_CODABLE or CDV_BAD_INDEX, `written` is the position of the symbol at fault within its
 * segment and `segment` (may be NULL) that segment. */
CDV_API cdv_status cdv_rans_encode(const cdv_segment *segments, size_t segment_count, uint8_t *out,
                                   size_t capacity, size_t *written, size_t *segment);

/* The bytes are the caller's and must stay as they are while the decoder is used. */
typedef struct cdv_rans_decoder {
    const uint8_t *bytes;
    size_t size, position; /* position: of the next byte */
    uint32_t states[4];
} cdv_rans_decoder;

CDV_API cdv_status cdv_rans_open(cdv_rans_decoder *decoder, const uint8_t *bytes, size_t size);
/* Decode one symbol per entry of `index`, whose entries take `index_bytes` (1 or 2) each. */
CDV_API cdv_status cdv_rans_read(cdv_rans_decoder *decoder, const void *index, size_t index_bytes,
                                 size_t count, const cdv_tables *tables, int32_t *symbols);
/* CDV_BAD_LENGTH or CDV_BAD_STATE unless every byte was used and the states are the encoder's. */
CDV_API cdv_status cdv_rans_finish(const cdv_rans_decoder *decoder);

/* A range coder, half a byte over the information: for bodies of a hundred bytes. `out` needs
 * 5 * (number of symbols) + 4 bytes. Faults as for cdv_rans_encode. */
CDV_API cdv_status cdv_range_encode(const cdv_segment *segments, size_t segment_count, uint8_t *out,
                                    size_t capacity, size_t *written, size_t *segment);

typedef struct cdv_range_decoder {
    const uint8_t *bytes;
    size_t size, position; /* position: bytes that the encoder had written here */
    uint64_t point, width; /* within a window of 32 bits, relative to the interval's low end */
} cdv_range_decoder;

CDV_API cdv_status cdv_range_open(cdv_range_decoder *decoder, const uint8_t *bytes, size_t size);
CDV_API cdv_status cdv_range_read(cdv_range_decoder *decoder, const uint16_t *index, size_t count,
                                  const cdv_tables *tables, int32_t *symbols);
/* CDV_BAD_LENGTH: another number of bytes than these symbols take; CDV_BAD_STATE: other closing
 * bytes than an encoder writes. */
CDV_API cdv_status cdv_range_finish(const cdv_range_decoder *decoder);

/* ---- integer networks ---------------------------------------------------------------------- */

/* out = clip((sum(weight * x) + bias[quality] + 2^(shift - 1)) >> shift, low, high), then a pixel
 * shuffle by `upsample`. "Same" zero padding, stride 1. */
typedef struct cdv_layer {
    const int8_t *weight; /* (outs, channels, kernel, kernel) */
    const int32_t *bias;  /* (bias_rows, outs); row min(quality, bias_rows - 1) is used */
    int32_t outs, channels, kernel, bias_rows, shift, low, high, upsample;
} cdv_layer;

/* A chain of layers. Its inputs lie in [-bound, bound]; CDV_BAD_NETWORK where, for such inputs,
 * some partial sum could reach 2^24. */
typedef struct cdv_network cdv_network;

CDV_API cdv_status cdv_network_new(const cdv_layer *layers, size_t count, int32_t bound,
                                   cdv_network **network);
CDV_API void cdv_network_free(cdv_network *network);

/* Run a network whose outputs lie in [0, 255] on x (channels, rows, columns); of the output
 * (out channels, u * rows, u * columns) the top left height x width is written to `planes`. */
CDV_API cdv_status cdv_network_planes(const cdv_network *network, const int32_t *x, size_t rows,
                                      size_t columns, size_t quality, size_t height, size_t width,
                                      uint8_t *planes);

/* Run a network on x (rows, columns, channels), to cells (u * rows, u * columns, out channels). */
CDV_API cdv_status cdv_network_cells(const cdv_network *network, const int32_t *x, size_t rows,
                                     size_t columns, size_t quality, int32_t *cells);

/* Integer attention among `tokens` tokens of `width` channels, of which the first `known` are keys.
 * `projected` (tokens, 3 * width) are queries, keys and values within [-127, 127]; a key's weight is
 * exponents[min(best score - its score, exponent_count - 1)], scores being products of `heads` heads
 * shifted by `shift` with rounding. Writes (tokens, width) to `attended`. At most 64 tokens. */
CDV_API cdv_status cdv_attend(const int32_t *projected, size_t tokens, size_t width, size_t known,
                              size_t heads, int32_t shift, const uint16_t *exponents,
                              size_t exponent_count, int32_t *attended);

/* ---- codecs: a whole layer at once --------------------------------------------------------- */

/* What a model's `codec.cdvc` holds (cdvision export MODEL --to core): tables and networks. */
typedef struct cdv_codec cdv_codec;

CDV_API cdv_status cdv_codec_new(const uint8_t *bytes, size_t size, cdv_codec **codec);
CDV_API void cdv_codec_free(cdv_codec *codec);
CDV_API void cdv_codec_fingerprint(const cdv_codec *codec, uint8_t fingerprint[4]);

/* Shapes of the latents of layer `id` for a network input of `input_width` x `input_height`: symbols
 * (channels, height, width) and, for a map, hyper (channels, height, width); 0 channels for none. */
typedef struct cdv_shape {
    size_t channels, height, width;
} cdv_shape;

CDV_API cdv_status cdv_codec_shapes(const cdv_codec *codec, uint32_t layer, uint32_t input_width,
                                    uint32_t input_height, cdv_shape *symbols, cdv_shape *hyper);

/* Decode one layer of a stream that cdv_stream_parse took apart (its body is bytes + offset).
 * `symbols` and `hyper` have the sizes that cdv_codec_shapes tells; `hyper` may be NULL where that
 * has no channels. CDV_ARGUMENT: the stream is another model's, or holds no such layer. */
CDV_API cdv_status cdv_codec_decode(const cdv_codec *codec, const cdv_stream *stream,
                                    const uint8_t *bytes, uint32_t layer, int32_t *symbols,
                                    int32_t *hyper);

/* ---- detection ----------------------------------------------------------------------------- */

#define CDV_SIDES 4
#define CDV_BINS 8

/* The best pairs of cell and class above `confidence`, best first; equal scores keep their order.
 *
 * scores (cells, classes); distances (cells, 32) logits, 8 for each side of a box. Writes at most
 * `limit` pairs: their cells, classes and scores, and to `logits` (4 * pairs, 8) their sides, from
 * each of which its largest is subtracted. `found` is how many there are. */
CDV_API cdv_status cdv_best_candidates(const float *scores, const float *distances, size_t cells,
                                       size_t classes, float confidence, size_t limit, int64_t *cell,
                                       int64_t *class_id, float *score, float *logits,
                                       size_t *found);

/* Where the content of a network input lies, and what it is scaled by. */
typedef struct cdv_frame {
    float width, height; /* boxes are clipped to them, pixels of the input */
    float across, down;  /* pixels of the source over one of the content */
} cdv_frame;

/* Decode candidates, best first, and drop what overlaps a better box of its class.
 *
 * sums (4 * candidates, 2): of each side the sum of its bins' weights (exponentials of logits), and
 * of weight times bin. cells (cell_count, 3): x, y, stride. Boxes overlap whose intersection over
 * union is larger than `iou`; at most `most` are kept. Writes their ranks to `kept`, and their boxes
 * (left, top, right, bottom) in the input to `boxes` and in the source to `scaled`. */
CDV_API cdv_status cdv_distinct_boxes(const float *sums, const float *cells, size_t cell_count,
                                      const int64_t *cell, const int64_t *class_id,
                                      size_t candidates, const cdv_frame *frame, float iou,
                                      size_t most, int64_t *kept, float *boxes, float *scaled,
                                      size_t *found);

/* ---- masks --------------------------------------------------------------------------------- */

/* An object's own network, run on a window of prototypes: logits (columns, rows) between cells.
 *
 * maps (maps, height, width). network: hidden * (maps + 2) weights of maps, x and y; hidden biases;
 * hidden weights and a bias, network_size numbers in all. The window begins at (top, left); `across`
 * (window_width) and `down` (window_height) are the places of its columns and rows in the box.
 * `cells` (columns) are the window's columns on the far side of which each column lies, `shares` its
 * share of the next one. Writes (columns, window_height) to `lines`. CDV_ARGUMENT: the window lies
 * beyond the maps, a cell beyond the window, the network has another size, or maps are over 65,536. */
CDV_API cdv_status cdv_mask_lines(const float *maps, size_t map_count, size_t height, size_t width,
                                  const float *network, size_t network_size, size_t top, size_t left,
                                  const float *across, size_t window_width, const float *down,
                                  size_t window_height, const int64_t *cells, const float *shares,
                                  size_t columns, float *lines);

/* Where a mask begins and ends, column by column, ascending; `positions` has room for
 * columns * (samples + 1). lines (columns, samples) are positive inside; centres (samples) their
 * ascending places in pixels. Rows [top, bottom) of `height` may be set, columns from `first` on:
 * 0 <= top <= bottom <= height and 0 <= first, or CDV_ARGUMENT. */
CDV_API cdv_status cdv_mask_positions(const float *lines, size_t columns, size_t samples,
                                      const double *centres, int64_t first, int64_t top,
                                      int64_t bottom, int64_t height, int64_t *positions,
                                      size_t *found);

/* The runs between ascending positions, up to the last of `pixels`, as COCO's string; `text` has
 * room for 13 * (count + 1) bytes. CDV_ARGUMENT unless they ascend from 0 to `pixels`. */
CDV_API cdv_status cdv_mask_text(const int64_t *positions, size_t count, int64_t pixels,
                                 uint8_t *text, size_t *written);

/* RoIAlign of one map (height, width, channels): boxes (count, 4) in its cells, samples * samples
 * points a cell. Region k is written to row rows[k] of pooled (pooled_rows, channels, cells, cells),
 * or to row k where `rows` is NULL. */
CDV_API cdv_status cdv_pool_regions(const float *map, size_t height, size_t width, size_t channels,
                                    const float *boxes, const int64_t *rows, size_t count,
                                    size_t cells, size_t samples, float *pooled,
                                    size_t pooled_rows);

/* ---- delta packets --------------------------------------------------------------------------- */

/* Tables that a delta packet is coded with, one behind the other: modes of blocks, cells, values. */
#define CDV_DELTA_TABLES 253

/* What sender and receiver have of a map; a call changes `symbols` and `counts` in place. */
typedef struct cdv_delta_map {
    size_t channels, height, width;
    const uint8_t *scales; /* (C, h, w): the table that the last key coded each symbol with */
    int32_t *symbols;      /* (C, h, w) */
    uint8_t *counts;       /* (h, w): how many of a cell's symbols the last packet changed, to 255 */
} cdv_delta_map;

/* Code the change from map->symbols to `target`, which the map then holds; no bytes where nothing
 * changes. `out` has room for cdv_delta_capacity(map) bytes. */
CDV_API size_t cdv_delta_capacity(const cdv_delta_map *map);
CDV_API cdv_status cdv_delta_encode(cdv_delta_map *map, const int32_t *target,
                                    const cdv_tables *tables, uint8_t *out, size_t capacity,
                                    size_t *written);

/* Follow an encoder. After an error the map holds what was read before it. */
CDV_API cdv_status cdv_delta_decode(cdv_delta_map *map, const cdv_tables *tables,
                                    const uint8_t *bytes, size_t size);

/* Count what an encoder would write: adds to counted (CDV_DELTA_TABLES, 256), whose columns are
 * symbol + 128, clipped to [-127, 127]. */
CDV_API cdv_status cdv_delta_count(cdv_delta_map *map, const int32_t *target, uint32_t *counted);

#ifdef __cplusplus
}
#endif
#endif
