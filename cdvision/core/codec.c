/* A model's entropy coder from one file, and whole layers at once: for programs without Python.
 *
 *     codec.cdvc:  "CDVC" | version 1 | codec id | fingerprint (4 bytes) | number of layers | layers
 *     vector:      id | 0 | qualities | elements | tables
 *     map:         id | 1 | qualities | stride | symbols' tables | hyper's tables | network
 *     tables:      count | entries | low, high (int16 each) | frequencies (uint16)
 *     network:     layers | bound | for each: outs, channels, kernel, bias rows, shift, low, high,
 *                  upsample | bias (int32) | weights (int8)
 *
 * Numbers are uint32 or int32, little-endian. `cdvision export MODEL --to core` writes it. */
#include "internal.h"

#define MAX_CODEC_LAYERS 8
#define MAX_QUALITIES 255
#define MAX_ELEMENTS 4096
#define MAX_STRIDE 64
enum { VECTOR = 0, MAP = 1 };

typedef struct codec_layer {
    uint32_t id, kind, qualities, size; /* size: elements of a vector, stride of a map */
    cdv_tables *symbols, *hyper;
    cdv_network *network;
    size_t channels, hyper_channels, upsample; /* of a map */
} codec_layer;

struct cdv_codec {
    uint32_t id, count;
    uint8_t fingerprint[CDV_FINGERPRINT_BYTES];
    codec_layer layers[MAX_CODEC_LAYERS];
};

/* ---- reading ------------------------------------------------------------------------------------ */

typedef struct reader {
    const uint8_t *bytes;
    size_t left;
} reader;

/* The next `count` numbers of `size` bytes; NULL where there are fewer. */
static const uint8_t *take(reader *r, size_t count, size_t size) {
    size_t bytes = product(count, size);
    if (bytes > r->left) return NULL;
    const uint8_t *taken = r->bytes;
    r->bytes += bytes, r->left -= bytes;
    return taken;
}

static int take_numbers(reader *r, uint32_t *numbers, size_t count) {
    const uint8_t *bytes = take(r, count, 4);
    for (size_t k = 0; bytes && k < count; k++) numbers[k] = load32(bytes + 4 * k);
    return bytes != NULL;
}

/* Copies of `count` little-endian numbers, aligned for their type; NULL for too few bytes. */
static uint16_t *take_u16(reader *r, size_t count) {
    const uint8_t *bytes = take(r, count, 2);
    uint16_t *copy = bytes ? allocate(count, sizeof *copy) : NULL;
    for (size_t k = 0; copy && k < count; k++) copy[k] = (uint16_t)load16(bytes + 2 * k);
    return copy;
}

static int32_t *take_i32(reader *r, size_t count) {
    const uint8_t *bytes = take(r, count, 4);
    int32_t *copy = bytes ? allocate(count, sizeof *copy) : NULL;
    for (size_t k = 0; copy && k < count; k++) copy[k] = (int32_t)load32(bytes + 4 * k);
    return copy;
}

static cdv_status read_tables(reader *r, cdv_tables **tables) {
    uint32_t sizes[2];
    if (!take_numbers(r, sizes, 2)) return CDV_BAD_LENGTH;
    int16_t *low = (int16_t *)take_u16(r, sizes[0]), *high = (int16_t *)take_u16(r, sizes[0]);
    uint16_t *frequencies = take_u16(r, sizes[1]);
    cdv_status status = CDV_BAD_LENGTH;
    if (low && high && frequencies)
        status = cdv_tables_new(low, high, sizes[0], frequencies, sizes[1], tables);
    free(low);
    free(high);
    free(frequencies);
    return status;
}

#define MOST_NETWORK_LAYERS 16

static cdv_status read_network_layer(reader *r, cdv_layer *layer, int32_t **bias) {
    uint32_t n[8];
    if (!take_numbers(r, n, 8)) return CDV_BAD_LENGTH;
    size_t area = product(n[2], n[2]);
    *bias = take_i32(r, product(n[3], n[0]));
    const uint8_t *weight = take(r, product(product(n[0], n[1]), area), 1);
    if (!*bias || !weight) return CDV_BAD_LENGTH;
    *layer = (cdv_layer){(const int8_t *)weight, *bias, (int32_t)n[0], (int32_t)n[1], (int32_t)n[2],
                         (int32_t)n[3], (int32_t)n[4], (int32_t)n[5], (int32_t)n[6], (int32_t)n[7]};
    return CDV_OK;
}

/* Whether tables code numbers within [-bound, bound] only: a network's proof rests on that. */
static int are_bounded(const cdv_tables *tables, int32_t bound) {
    for (size_t k = 0; k < tables->count; k++)
        if (tables->low[k] < -bound || tables->high[k] > bound || tables->tables[k].entries[0]) return 0;
    return 1;
}

static cdv_status read_network(reader *r, codec_layer *to) {
    cdv_layer layers[MOST_NETWORK_LAYERS];
    int32_t *biases[MOST_NETWORK_LAYERS] = {NULL};
    uint32_t sizes[2];
    if (!take_numbers(r, sizes, 2) || sizes[0] < 1 || sizes[0] > MOST_NETWORK_LAYERS)
        return CDV_BAD_LENGTH;
    cdv_status status = CDV_OK;
    for (uint32_t k = 0; k < sizes[0] && !status; k++)
        status = read_network_layer(r, &layers[k], &biases[k]);
    if (!status) status = cdv_network_new(layers, sizes[0], (int32_t)sizes[1], &to->network);
    if (!status) {
        const cdv_layer *last = &layers[sizes[0] - 1];
        to->upsample = 1;
        for (uint32_t k = 0; k < sizes[0]; k++) to->upsample *= (size_t)layers[k].upsample;
        to->hyper_channels = (size_t)layers[0].channels;
        to->channels = (size_t)(last->outs / (last->upsample * last->upsample));
        if (last->low < 0 || last->high > 255 || (size_t)last->high >= to->symbols->count)
            status = CDV_BAD_NETWORK;
        if (!status && !are_bounded(to->hyper, (int32_t)sizes[1])) status = CDV_BAD_TABLES;
    }
    for (uint32_t k = 0; k < sizes[0]; k++) free(biases[k]);
    return status;
}

static cdv_status read_layer(reader *r, codec_layer *layer) {
    uint32_t n[4];
    if (!take_numbers(r, n, 4)) return CDV_BAD_LENGTH;
    layer->id = n[0], layer->kind = n[1], layer->qualities = n[2], layer->size = n[3];
    uint32_t most = layer->kind == VECTOR ? MAX_ELEMENTS : MAX_STRIDE;
    if (layer->kind > MAP || layer->qualities < 1 || layer->qualities > MAX_QUALITIES ||
        layer->size < 1 || layer->size > most)
        return CDV_ARGUMENT;
    cdv_status status = read_tables(r, &layer->symbols);
    size_t needed = (size_t)layer->qualities * layer->size;
    if (status) return status;
    if (layer->kind == VECTOR) return layer->symbols->count == needed ? CDV_OK : CDV_BAD_TABLES;
    status = read_tables(r, &layer->hyper);
    if (!status) status = read_network(r, layer);
    if (status) return status;
    needed = layer->qualities * layer->hyper_channels;
    return layer->hyper->count == needed ? CDV_OK : CDV_BAD_TABLES;
}

cdv_status cdv_codec_new(const uint8_t *bytes, size_t size, cdv_codec **codec) {
    reader r = {bytes, size};
    uint32_t n[2], count;
    *codec = NULL;
    const uint8_t *magic = take(&r, 4, 1);
    if (!magic || memcmp(magic, "CDVC", 4) || !take_numbers(&r, n, 2) || n[0] != 1)
        return CDV_BAD_HEADER;
    const uint8_t *fingerprint = take(&r, CDV_FINGERPRINT_BYTES, 1);
    if (!fingerprint || !take_numbers(&r, &count, 1) || count < 1 || count > MAX_CODEC_LAYERS)
        return CDV_BAD_HEADER;
    cdv_codec *made = allocate_zeros(1, sizeof *made);
    if (!made) return CDV_MEMORY;
    made->id = n[1], made->count = count;
    memcpy(made->fingerprint, fingerprint, CDV_FINGERPRINT_BYTES);
    cdv_status status = CDV_OK;
    for (uint32_t k = 0; k < count && !status; k++) status = read_layer(&r, &made->layers[k]);
    if (!status && r.left) status = CDV_BAD_LENGTH;
    if (status)
        cdv_codec_free(made);
    else
        *codec = made;
    return status;
}

void cdv_codec_free(cdv_codec *codec) {
    if (!codec) return;
    for (uint32_t k = 0; k < codec->count; k++) {
        cdv_tables_free(codec->layers[k].symbols);
        cdv_tables_free(codec->layers[k].hyper);
        cdv_network_free(codec->layers[k].network);
    }
    free(codec);
}

void cdv_codec_fingerprint(const cdv_codec *codec, uint8_t fingerprint[4]) {
    memcpy(fingerprint, codec->fingerprint, CDV_FINGERPRINT_BYTES);
}

/* ---- decoding ----------------------------------------------------------------------------------- */

static const codec_layer *layer_of(const cdv_codec *codec, uint32_t id) {
    for (uint32_t k = 0; k < codec->count; k++)
        if (codec->layers[k].id == id) return &codec->layers[k];
    return NULL;
}

static size_t rounded_up(size_t value, size_t step) { return (value + step - 1) / step; }

cdv_status cdv_codec_shapes(const cdv_codec *codec, uint32_t layer, uint32_t input_width,
                            uint32_t input_height, cdv_shape *symbols, cdv_shape *hyper) {
    const codec_layer *l = layer_of(codec, layer);
    if (!l || !input_width || !input_height || (uint64_t)input_width * input_height > 1 << 26)
        return CDV_ARGUMENT;
    *hyper = (cdv_shape){0, 0, 0};
    *symbols = (cdv_shape){l->size, 1, 1};
    if (l->kind == VECTOR) return CDV_OK;
    size_t height = rounded_up(input_height, l->size), width = rounded_up(input_width, l->size);
    *symbols = (cdv_shape){l->channels, height, width};
    *hyper = (cdv_shape){l->hyper_channels, rounded_up(height, l->upsample),
                         rounded_up(width, l->upsample)};
    return CDV_OK;
}

/* Tables `first` and following, one for each of `channels` channels of `area` cells. */
static uint16_t *channel_index(size_t first, size_t channels, size_t area) {
    uint16_t *index = allocate(product(channels, area), sizeof *index);
    for (size_t k = 0; index && k < channels * area; k++) index[k] = (uint16_t)(first + k / area);
    return index;
}

static cdv_status decode_vector(const codec_layer *l, size_t quality, const uint8_t *body,
                                size_t size, int32_t *symbols) {
    cdv_range_decoder decoder;
    uint16_t *index = channel_index(quality * l->size, l->size, 1);
    cdv_status status = index ? cdv_range_open(&decoder, body, size) : CDV_MEMORY;
    if (!status) status = cdv_range_read(&decoder, index, l->size, l->symbols, symbols);
    if (!status) status = cdv_range_finish(&decoder);
    free(index);
    return status;
}

static cdv_status decode_map(const codec_layer *l, size_t quality, const uint8_t *body, size_t size,
                             const cdv_shape *shape, const cdv_shape *inner, int32_t *symbols,
                             int32_t *hyper) {
    size_t area = inner->height * inner->width, channels = l->hyper_channels;
    size_t count = product(shape->channels, shape->height * shape->width);
    uint16_t *index = channel_index(quality * channels, channels, area);
    uint8_t *planes = allocate(count, 1);
    cdv_rans_decoder decoder;
    cdv_status status = index && planes ? cdv_rans_open(&decoder, body, size) : CDV_MEMORY;
    if (!status) status = cdv_rans_read(&decoder, index, 2, channels * area, l->hyper, hyper);
    if (!status)
        status = cdv_network_planes(l->network, hyper, inner->height, inner->width, quality,
                                    shape->height, shape->width, planes);
    if (!status) status = cdv_rans_read(&decoder, planes, 1, count, l->symbols, symbols);
    if (!status) status = cdv_rans_finish(&decoder);
    free(index);
    free(planes);
    return status;
}

cdv_status cdv_codec_decode(const cdv_codec *codec, const cdv_stream *stream, const uint8_t *bytes,
                            uint32_t layer, int32_t *symbols, int32_t *hyper) {
    const codec_layer *l = layer_of(codec, layer);
    if (!l || stream->codec != codec->id || stream->quality < 1 || stream->quality > l->qualities ||
        memcmp(stream->fingerprint, codec->fingerprint, CDV_FINGERPRINT_BYTES))
        return CDV_ARGUMENT;
    for (uint32_t k = 0; k < stream->present; k++) {
        const cdv_stream_layer *found = &stream->layers[k];
        if (found->id != layer) continue;
        cdv_shape shape, inner;
        cdv_status status = cdv_codec_shapes(codec, layer, stream->input_width,
                                             stream->input_height, &shape, &inner);
        if (status) return status;
        const uint8_t *body = bytes + found->offset;
        if (l->kind == MAP && !hyper) return CDV_ARGUMENT;
        if (l->kind == VECTOR)
            return decode_vector(l, stream->quality - 1, body, found->length, symbols);
        return decode_map(l, stream->quality - 1, body, found->length, &shape, &inner, symbols,
                          hyper);
    }
    return CDV_ARGUMENT;
}
