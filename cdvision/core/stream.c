/* .cdv streams: a header, then layers' bodies, each closed by its checksum (docs/format.md).
 *
 *     bytes ─ structure ───────▶ checksum ─▶ meaning ─▶ cdv_stream
 *             magic, version,    16 bits     ranges, unique ids, one spelling, limits
 *             varints, count
 *
 * Meaning comes last, so that a flipped bit is reported as damage and not as an odd picture size. */
#include <inttypes.h>
#include <stdio.h>

#include "internal.h"

#define PLAIN 1
#define COMPACT 2
#define INPUT_UNIT 8
#define MAX_PIXELS (UINT64_C(1) << 26)
#define MAX_LAYER_BYTES (UINT64_C(1) << 26)
#define HEADER_CHECKSUM 2
/* Codec, sizes, quality, number of layers, and two a layer. */
#define FIELDS (7 + 2 * CDV_MAX_LAYERS)

/* ---- checksums --------------------------------------------------------------------------------- */

/* CRC-32 (zlib's), four bits at a time. */
static uint32_t crc32(const uint8_t *bytes, size_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
        0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
        0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C};
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* CRC-16/IBM-3740: polynomial 0x1021, initial value 0xFFFF, not reflected. */
static uint32_t crc16(const uint8_t *bytes, size_t size) {
    uint32_t crc = 0xFFFF;
    for (size_t i = 0; i < size; i++) {
        crc ^= (uint32_t)bytes[i] << 8;
        for (int bit = 0; bit < 8; bit++) crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xFFFF;
    }
    return crc;
}

static uint32_t header_sum(uint32_t version, const uint8_t *bytes, size_t size) {
    return (version == PLAIN ? crc32(bytes, size) : crc16(bytes, size)) & 0xFFFF;
}

static size_t layer_sum_bytes(uint32_t version) { return version == PLAIN ? 4 : 2; }

static int is_intact(uint32_t version, const uint8_t *body, size_t length) {
    if (version == PLAIN) return crc32(body, length) == load32(body + length);
    return crc16(body, length) == load16(body + length);
}

/* ---- structure --------------------------------------------------------------------------------- */

/* A number of the header: where it stands, and the least and the greatest that it may be. */
typedef struct number {
    const char *name;
    int layer; /* -1, or the line of the layer table */
    size_t offset;
    uint32_t stored, low, high;
} number;

typedef struct cursor {
    const uint8_t *bytes;
    size_t size, offset, count;
    number numbers[FIELDS];
    cdv_fault *fault;
} cursor;

static cdv_status refuse(const cursor *c, cdv_status status, size_t offset, const char *name,
                         int layer) {
    if (!c->fault) return status;
    c->fault->offset = offset;
    if (layer < 0)
        snprintf(c->fault->field, sizeof c->fault->field, "%s", name);
    else
        snprintf(c->fault->field, sizeof c->fault->field, "layer %d %s", layer, name);
    return status;
}

/* Read one varint, in the shortest spelling only, and note it for the checks made later. */
static cdv_status take(cursor *c, const char *name, int layer, uint32_t low, uint32_t high,
                       uint32_t *value) {
    uint64_t stored = 0;
    for (size_t k = 0; k < 5 && c->offset + k < c->size; k++) {
        uint8_t byte = c->bytes[c->offset + k];
        stored |= (uint64_t)(byte & 127) << (7 * k);
        if (byte & 128) continue;
        if (stored > UINT32_MAX || (k && !byte)) break;
        c->numbers[c->count++] = (number){name, layer, c->offset, (uint32_t)stored, low, high};
        c->offset += k + 1;
        *value = (uint32_t)stored;
        return CDV_OK;
    }
    return refuse(c, CDV_BAD_HEADER, c->offset, name, layer);
}

static cdv_status take_bytes(cursor *c, const char *name, size_t size, const uint8_t **bytes) {
    if (c->size - c->offset < size) return refuse(c, CDV_BAD_HEADER, c->offset, name, -1);
    *bytes = c->bytes + c->offset;
    c->offset += size;
    return CDV_OK;
}

/* The first that is not CDV_OK ends a function. */
#define TRY(call)                       \
    do {                                \
        cdv_status tried = (call);      \
        if (tried) return tried;        \
    } while (0)

static cdv_status read_plain(cursor *c, cdv_stream *s, uint32_t *lengths) {
    TRY(take(c, "width", -1, 1, UINT32_MAX, &s->width));
    TRY(take(c, "height", -1, 1, UINT32_MAX, &s->height));
    TRY(take(c, "input_width", -1, 1, UINT32_MAX, &s->input_width));
    TRY(take(c, "input_height", -1, 1, UINT32_MAX, &s->input_height));
    TRY(take(c, "quality", -1, 1, 255, &s->quality));
    size_t start = c->offset;
    TRY(take(c, "number of layers", -1, 1, UINT32_MAX, &s->layer_count));
    /* Checked before its time: the loop below runs over a number that nothing vouches for. */
    if (s->layer_count > CDV_MAX_LAYERS)
        return refuse(c, CDV_LIMIT, start, "number of layers", -1);
    for (uint32_t k = 0; k < s->layer_count; k++) {
        TRY(take(c, "id", (int)k, 0, UINT32_MAX, &s->layers[k].id));
        TRY(take(c, "length", (int)k, 4, UINT32_MAX, &lengths[k]));
    }
    return CDV_OK;
}

static cdv_status read_compact(cursor *c, cdv_stream *s, uint32_t *lengths) {
    const uint8_t *form;
    TRY(take_bytes(c, "form", 1, &form));
    s->quality = (*form & 7) + 1u, s->layer_count = (*form >> 3 & 7) + 1u;
    TRY(take(c, "input_width", -1, 1, UINT32_MAX, &s->input_width));
    s->input_height = s->input_width;
    if (*form & 128) TRY(take(c, "input_height", -1, 1, UINT32_MAX, &s->input_height));
    if (*form & 64) {
        TRY(take(c, "width", -1, 1, UINT32_MAX, &s->width));
        TRY(take(c, "height", -1, 1, UINT32_MAX, &s->height));
    }
    for (uint32_t k = 0; k < s->layer_count; k++) {
        s->layers[k].id = k;
        TRY(take(c, "length", (int)k, 2, UINT32_MAX, &lengths[k]));
    }
    return CDV_OK;
}

static cdv_status read_head(cursor *c, cdv_stream *s) {
    const uint8_t *bytes;
    TRY(take_bytes(c, "magic", 3, &bytes));
    if (memcmp(bytes, "CDV", 3)) return refuse(c, CDV_BAD_HEADER, 0, "magic", -1);
    TRY(take_bytes(c, "format version", 1, &bytes));
    s->version = *bytes;
    if (s->version != PLAIN && s->version != COMPACT)
        return refuse(c, CDV_BAD_HEADER, 3, "format version", -1);
    TRY(take(c, "codec", -1, 0, UINT32_MAX, &s->codec));
    TRY(take_bytes(c, "fingerprint", CDV_FINGERPRINT_BYTES, &bytes));
    memcpy(s->fingerprint, bytes, CDV_FINGERPRINT_BYTES);
    return CDV_OK;
}

static cdv_status check_sum(cursor *c, uint32_t version) {
    const uint8_t *stored;
    size_t start = c->offset;
    TRY(take_bytes(c, "header checksum", HEADER_CHECKSUM, &stored));
    if (load16(stored) != header_sum(version, c->bytes, start))
        return refuse(c, CDV_DAMAGED, start, "header checksum", -1);
    return CDV_OK;
}

/* ---- meaning ----------------------------------------------------------------------------------- */

static cdv_status check_ranges(const cursor *c) {
    for (size_t k = 0; k < c->count; k++) {
        const number *n = &c->numbers[k];
        if (n->stored < n->low || n->stored > n->high)
            return refuse(c, CDV_BAD_HEADER, n->offset, n->name, n->layer);
    }
    return CDV_OK;
}

static const number *number_of(const cursor *c, const char *name, int layer) {
    for (size_t k = 0; k < c->count; k++)
        if (c->numbers[k].layer == layer && !strcmp(c->numbers[k].name, name)) return &c->numbers[k];
    return NULL;
}

static cdv_status refuse_number(const cursor *c, cdv_status status, const char *field,
                                const char *name, int layer) {
    const number *n = number_of(c, name, layer);
    return refuse(c, status, n ? n->offset : 0, field, layer);
}

/* Sizes in pixels, from the units in which they are stored; a compact header leaves out what
 * repeats, and must. */
static cdv_status check_sizes(const cursor *c, cdv_stream *s) {
    uint64_t input_width = (uint64_t)s->input_width * INPUT_UNIT;
    uint64_t input_height = (uint64_t)s->input_height * INPUT_UNIT;
    const number *height = number_of(c, "input_height", -1), *width = number_of(c, "width", -1);
    if (s->version == COMPACT && height && input_height == input_width)
        return refuse_number(c, CDV_BAD_HEADER, "input_height", "input_height", -1);
    if (s->version == COMPACT && width && s->width == input_width && s->height == input_height)
        return refuse_number(c, CDV_BAD_HEADER, "width", "width", -1);
    uint64_t source_width = width ? s->width : input_width;
    uint64_t source_height = width ? s->height : input_height;
    if (source_width > MAX_PIXELS || source_height > MAX_PIXELS ||
        source_width * source_height > MAX_PIXELS)
        return refuse_number(c, CDV_LIMIT, "source size", width ? "width" : "input_width", -1);
    if (input_width > MAX_PIXELS || input_height > MAX_PIXELS ||
        input_width * input_height > MAX_PIXELS)
        return refuse_number(c, CDV_LIMIT, "network-input size", "input_width", -1);
    s->width = (uint32_t)source_width, s->height = (uint32_t)source_height;
    s->input_width = (uint32_t)input_width, s->input_height = (uint32_t)input_height;
    return CDV_OK;
}

static cdv_status check_layers(const cursor *c, const cdv_stream *s, const uint32_t *lengths) {
    for (uint32_t k = 0; k < s->layer_count; k++) {
        for (uint32_t other = 0; other < k; other++)
            if (s->layers[other].id == s->layers[k].id)
                return refuse_number(c, CDV_BAD_HEADER, "id", "id", (int)k);
        if (lengths[k] > MAX_LAYER_BYTES)
            return refuse_number(c, CDV_LIMIT, "length", "length", (int)k);
    }
    return CDV_OK;
}

/* ---- layers ------------------------------------------------------------------------------------ */

static cdv_status refuse_layer(const cursor *c, const cdv_stream_layer *layer, uint32_t line) {
    if (!c->fault) return CDV_DAMAGED;
    c->fault->offset = layer->offset + layer->length;
    snprintf(c->fault->field, sizeof c->fault->field,
             "layer %" PRIu32 " checksum (layer id %" PRIu32 ")", line, layer->id);
    return CDV_DAMAGED;
}

/* Say where each layer lies, also those that are cut off, and which are there. */
static cdv_status find_layers(const cursor *c, cdv_stream *s, const uint32_t *lengths) {
    size_t end = c->offset;
    for (uint32_t k = 0; k < s->layer_count; k++) {
        s->layers[k].offset = end, s->layers[k].length = lengths[k] - layer_sum_bytes(s->version);
        end += lengths[k];
    }
    if (c->size > end) return refuse(c, CDV_BAD_LENGTH, end, "end of stream", -1);
    for (uint32_t k = 0; k < s->layer_count; k++) {
        cdv_stream_layer *layer = &s->layers[k];
        if (layer->offset + lengths[k] > c->size) return CDV_OK; /* cut: so is what follows */
        if (!is_intact(s->version, c->bytes + layer->offset, layer->length))
            return refuse_layer(c, layer, k);
        layer->intact = 1;
        s->present = k + 1;
    }
    return CDV_OK;
}

cdv_status cdv_stream_parse(const uint8_t *bytes, size_t size, cdv_stream *stream,
                            cdv_fault *fault) {
    cursor c = {.bytes = bytes, .size = size, .fault = fault};
    uint32_t lengths[CDV_MAX_LAYERS];
    *stream = (cdv_stream){0};
    if (fault) *fault = (cdv_fault){0};
    TRY(read_head(&c, stream));
    TRY(stream->version == PLAIN ? read_plain(&c, stream, lengths)
                                 : read_compact(&c, stream, lengths));
    TRY(check_sum(&c, stream->version));
    TRY(check_ranges(&c));
    TRY(check_sizes(&c, stream));
    TRY(check_layers(&c, stream, lengths));
    stream->header_bytes = c.offset;
    return find_layers(&c, stream, lengths);
}

/* ---- writing ----------------------------------------------------------------------------------- */

/* Bytes are counted beyond the capacity too, and written within it. */
typedef struct sink {
    uint8_t *out;
    size_t capacity, used;
} sink;

static void put(sink *to, const uint8_t *bytes, size_t size) {
    if (size && to->used <= to->capacity && size <= to->capacity - to->used)
        memcpy(to->out + to->used, bytes, size);
    to->used += size;
}

static void put_byte(sink *to, uint32_t byte) {
    uint8_t one = (uint8_t)byte;
    put(to, &one, 1);
}

static void put_varint(sink *to, uint32_t value) {
    for (; value > 127; value >>= 7) put_byte(to, (value & 127) | 128);
    put_byte(to, value);
}

static int has_other_source(const cdv_stream *s) {
    return s->width != s->input_width || s->height != s->input_height;
}

static void put_compact(sink *to, const cdv_stream *s) {
    uint32_t other_source = (uint32_t)has_other_source(s);
    uint32_t other_height = s->input_height != s->input_width;
    put_byte(to, other_height << 7 | other_source << 6 | (s->layer_count - 1) << 3 | (s->quality - 1));
    put_varint(to, s->input_width / INPUT_UNIT);
    if (other_height) put_varint(to, s->input_height / INPUT_UNIT);
    if (other_source) put_varint(to, s->width), put_varint(to, s->height);
    for (uint32_t k = 0; k < s->layer_count; k++)
        put_varint(to, (uint32_t)(s->layers[k].length + layer_sum_bytes(COMPACT)));
}

static void put_plain(sink *to, const cdv_stream *s) {
    put_varint(to, s->width), put_varint(to, s->height);
    put_varint(to, s->input_width / INPUT_UNIT), put_varint(to, s->input_height / INPUT_UNIT);
    put_varint(to, s->quality), put_varint(to, s->layer_count);
    for (uint32_t k = 0; k < s->layer_count; k++) {
        put_varint(to, s->layers[k].id);
        put_varint(to, (uint32_t)(s->layers[k].length + layer_sum_bytes(PLAIN)));
    }
}

static int is_writable(const cdv_stream *s) {
    uint32_t most_layers = s->version == COMPACT ? 8 : CDV_MAX_LAYERS;
    uint32_t most_quality = s->version == COMPACT ? 8 : 255;
    if ((s->version != PLAIN && s->version != COMPACT) || s->layer_count < 1 ||
        s->layer_count > most_layers || s->quality < 1 || s->quality > most_quality ||
        !s->width || !s->height || !s->input_width || !s->input_height ||
        s->input_width % INPUT_UNIT || s->input_height % INPUT_UNIT)
        return 0;
    for (uint32_t k = 0; k < s->layer_count; k++) {
        if (s->layers[k].length > UINT32_MAX - 4) return 0;
        if (s->version == COMPACT && s->layers[k].id != k) return 0;
        for (uint32_t other = 0; other < k; other++)
            if (s->layers[other].id == s->layers[k].id) return 0;
    }
    return 1;
}

cdv_status cdv_stream_write(const cdv_stream *stream, const uint8_t *const *bodies, uint8_t *out,
                            size_t capacity, size_t *written) {
    /* The longest header: head, seven varints, and two a layer. */
    uint8_t head[8 + 5 * (7 + 2 * CDV_MAX_LAYERS)], sum[4];
    *written = 0;
    if (!is_writable(stream)) return CDV_ARGUMENT;
    sink header = {head, sizeof head, 0}, to = {out, out ? capacity : 0, 0};
    put(&header, (const uint8_t *)"CDV", 3);
    put_byte(&header, stream->version);
    put_varint(&header, stream->codec);
    put(&header, stream->fingerprint, CDV_FINGERPRINT_BYTES);
    stream->version == COMPACT ? put_compact(&header, stream) : put_plain(&header, stream);
    put(&to, head, header.used);
    store16(sum, header_sum(stream->version, head, header.used));
    put(&to, sum, HEADER_CHECKSUM);
    for (uint32_t k = 0; k < stream->layer_count; k++) {
        size_t length = stream->layers[k].length;
        int plain = stream->version == PLAIN;
        put(&to, bodies[k], length);
        store32(sum, plain ? crc32(bodies[k], length) : crc16(bodies[k], length));
        put(&to, sum, layer_sum_bytes(stream->version));
    }
    *written = to.used;
    return to.used <= to.capacity ? CDV_OK : CDV_ARGUMENT;
}
