/* From a .cdv file to boxes: boxes [--confidence C] [--iou I] codec.cdvc GRAPH.onnx STREAM.cdv
 *
 *     stream ── cdv.h ─▶ latents ── ONNX Runtime ─▶ scores, distances ── cdv.h ─▶ boxes
 *
 * GRAPH is answer.nanodet_plus_m.onnx of `cdvision export small --to onnx DIR`. Prints class (its
 * place in classes.json, from 0), confidence, and left, top, right, bottom in the source's pixels. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoding.h"
#include "dense_graph.h"
#include "files.h"

/* `input` of model.json. */
#define MULTIPLE 32
#define MOST_SIDE 1536
#define LOGITS (CDV_SIDES * CDV_BINS)
#define CANDIDATES 1000
#define MOST_BOXES 100

typedef struct settings {
    double confidence, iou;
    const char *codec, *graph, *stream;
} settings;

/* ---- sizes ------------------------------------------------------------------------------------- */

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t padded(uint32_t side) { return (side + MULTIPLE - 1) / MULTIPLE * MULTIPLE; }

/* Rounds half up, in integers, as the sender did. */
static uint32_t scaled_side(uint64_t side, uint64_t size, uint64_t longest) {
    uint64_t scaled = (2 * side * size + longest) / (2 * longest);
    return scaled ? (uint32_t)scaled : 1;
}

/* The photo inside the network input, at its top left; and its pixels over the source's. */
static cdv_frame content_of(const cdv_stream *s) {
    uint32_t size = larger(s->input_width, s->input_height), longest = larger(s->width, s->height);
    int only_padded = padded(longest) == size;
    uint32_t width = only_padded ? s->width : scaled_side(s->width, size, longest);
    uint32_t height = only_padded ? s->height : scaled_side(s->height, size, longest);
    return (cdv_frame){(float)width, (float)height, (float)((double)s->width / width),
                       (float)((double)s->height / height)};
}

/* Where each cell of the detector's four levels starts, and its stride: (cells, 3). */
static float *cell_grid(const cdv_stream *s, size_t *count) {
    float *cells = memory((size_t)s->input_width * s->input_height / 32 + 1024, 3 * sizeof *cells);
    size_t used = 0;
    for (uint32_t stride = 8; stride <= 64; stride *= 2)
        for (uint32_t y = 0; y < s->input_height; y += stride)
            for (uint32_t x = 0; x < s->input_width; x += stride) {
                float *cell = cells + 3 * used++;
                cell[0] = (float)x, cell[1] = (float)y, cell[2] = (float)stride;
            }
    *count = used;
    return cells;
}

/* ---- boxes ------------------------------------------------------------------------------------- */

/* Of each side: the sum of its bins' weights, and of weight times bin. */
static void weight_sums(const float *logits, size_t sides, float *sums) {
    for (size_t side = 0; side < sides; side++) {
        float total = 0, weighted = 0;
        for (size_t bin = 0; bin < CDV_BINS; bin++) {
            float weight = expf(logits[side * CDV_BINS + bin]);
            total += weight, weighted += weight * (float)bin;
        }
        sums[2 * side] = total, sums[2 * side + 1] = weighted;
    }
}

/* The largest float that is not above a threshold: what exceeds it exceeds the threshold. */
static float largest_below(double threshold) {
    float rounded = (float)threshold;
    return (double)rounded <= threshold ? rounded : nextafterf(rounded, -INFINITY);
}

/* The best pairs of cell and class, and the sums of their sides. */
typedef struct candidates {
    size_t count;
    int64_t cell[CANDIDATES], class_id[CANDIDATES];
    float score[CANDIDATES], sums[CANDIDATES * CDV_SIDES * 2];
} candidates;

static void find_candidates(const dense_outputs *out, double confidence, candidates *best) {
    float *logits = memory(CANDIDATES * LOGITS, sizeof *logits);
    cdv_status status = cdv_best_candidates(out->scores, out->distances, out->cells, out->classes,
                                            (float)confidence, CANDIDATES, best->cell,
                                            best->class_id, best->score, logits, &best->count);
    if (status) fail("candidates: %s", cdv_status_text(status));
    weight_sums(logits, CDV_SIDES * best->count, best->sums);
    free(logits);
}

static void print_boxes(const candidates *best, const cdv_stream *stream, size_t expected,
                        double iou) {
    int64_t kept[MOST_BOXES];
    float boxes[MOST_BOXES * 4], scaled[MOST_BOXES * 4];
    size_t cell_count, count;
    float *cells = cell_grid(stream, &cell_count);
    if (cell_count != expected)
        fail("the graph: expected %zu cells, found %zu", cell_count, expected);
    cdv_frame frame = content_of(stream);
    cdv_status status =
        cdv_distinct_boxes(best->sums, cells, cell_count, best->cell, best->class_id, best->count,
                           &frame, largest_below(iou), MOST_BOXES, kept, boxes, scaled, &count);
    if (status) fail("boxes: %s", cdv_status_text(status));
    for (size_t k = 0; k < count; k++)
        printf("%lld %.4f %.2f %.2f %.2f %.2f\n", (long long)best->class_id[kept[k]],
               best->score[kept[k]], scaled[4 * k], scaled[4 * k + 1], scaled[4 * k + 2],
               scaled[4 * k + 3]);
    free(cells);
}

/* ---- the program ------------------------------------------------------------------------------- */

static double share(const char *name, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= 0 && value <= 1))
        fail("%s: expected a number from 0 to 1, found '%s'", name, text);
    return value;
}

static settings read_arguments(int count, char **arguments) {
    settings set = {0.3, 0.6, NULL, NULL, NULL};
    int at = 1;
    for (; at + 1 < count && !strncmp(arguments[at], "--", 2); at += 2) {
        if (!strcmp(arguments[at], "--confidence"))
            set.confidence = share(arguments[at], arguments[at + 1]);
        else if (!strcmp(arguments[at], "--iou"))
            set.iou = share(arguments[at], arguments[at + 1]);
        else
            fail("%s: expected --confidence or --iou", arguments[at]);
    }
    if (count - at != 3)
        fail("usage: %s [--confidence 0.3] [--iou 0.6] codec.cdvc GRAPH.onnx STREAM.cdv",
             *arguments);
    set.codec = arguments[at], set.graph = arguments[at + 1], set.stream = arguments[at + 2];
    return set;
}

/* The layer that is a map: the one with a hyper-latent. */
static uint32_t map_layer(const cdv_codec *codec, const cdv_stream *stream, const char *path) {
    cdv_shape symbols, hyper;
    for (uint32_t k = 0; k < stream->present; k++) {
        uint32_t layer = stream->layers[k].id;
        if (!cdv_codec_shapes(codec, layer, stream->input_width, stream->input_height, &symbols,
                              &hyper) && hyper.channels)
            return layer;
    }
    fail("%s: expected a layer that is a map: the stream was cut, or encoded for other tasks",
         path);
}

int main(int count, char **arguments) {
    settings set = read_arguments(count, arguments);
    cdv_stream stream;
    cdv_codec *codec = open_codec(set.codec);
    uint8_t *bytes = open_stream(set.stream, codec, &stream);
    uint32_t side = larger(stream.input_width, stream.input_height);
    if (side > MOST_SIDE || stream.input_width % MULTIPLE || stream.input_height % MULTIPLE)
        fail("%s: network-input size: expected sides up to %d, multiples of %d, found %u x %u",
             set.stream, MOST_SIDE, MULTIPLE, stream.input_width, stream.input_height);
    latents map = decode(set.stream, codec, &stream, bytes, map_layer(codec, &stream, set.stream));
    dense_graph *graph = open_graph(set.graph);
    dense_outputs out = run_graph(graph, &map, stream.quality);
    candidates *best = memory(1, sizeof *best);
    find_candidates(&out, set.confidence, best);
    print_boxes(best, &stream, out.cells, set.iou);
    free(best);
    close_graph(graph);
    free_latents(&map);
    free(bytes);
    cdv_codec_free(codec);
    return 0;
}
