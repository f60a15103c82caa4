/* Candidates, boxes and regions of any numbers: NaN, infinities, and cells that do not exist. */
#include "fuzz.h"

#define LOGITS (CDV_SIDES * CDV_BINS)

static void check_candidates(input *in) {
    size_t cells = take_size(in, 24), classes = take_size(in, 6), limit = take_size(in, 300), found;
    float confidence = take_float(in);
    float *scores = take_array(in, cells * classes, 4);
    float *distances = take_array(in, cells * LOGITS, 4);
    size_t most = limit < cells * classes ? limit : cells * classes;
    int64_t *cell = room(most, 8), *class_id = room(most, 8);
    float *score = room(most, 4), *logits = room(most * LOGITS, 4);
    MUST(!cdv_best_candidates(scores, distances, cells, classes, confidence, limit, cell, class_id,
                              score, logits, &found));
    MUST(found <= most);
    for (size_t k = 0; k < found; k++) {
        MUST(score[k] > confidence && (!k || score[k] <= score[k - 1]));
        MUST((size_t)cell[k] < cells && (size_t)class_id[k] < classes);
    }
    free(scores), free(distances), free(cell), free(class_id), free(score), free(logits);
}

static void check_boxes(input *in) {
    size_t count = take_size(in, 20), cell_count = take_size(in, 12), most = take_size(in, 24);
    size_t found, wild = take_size(in, 3) == 3;
    int64_t *cell = room(count, 8), *class_id = room(count, 8);
    for (size_t k = 0; k < count; k++) {
        cell[k] = wild ? (int64_t)take_number(in, 8) : (int64_t)take_size(in, cell_count);
        class_id[k] = (int64_t)take_size(in, 2);
    }
    cdv_frame frame = {take_float(in), take_float(in), take_float(in), take_float(in)};
    float iou = take_float(in);
    float *cells = take_array(in, 3 * cell_count, 4);
    float *sums = take_array(in, 2 * CDV_SIDES * count, 4);
    size_t capacity = count < most ? count : most;
    int64_t *kept = room(capacity, 8);
    float *boxes = room(4 * capacity, 4), *scaled = room(4 * capacity, 4);
    cdv_status status = cdv_distinct_boxes(sums, cells, cell_count, cell, class_id, count, &frame,
                                           iou, most, kept, boxes, scaled, &found);
    MUST(found <= capacity && (status == CDV_OK || status == CDV_ARGUMENT));
    for (size_t k = 0; k < found; k++)
        MUST(boxes[4 * k + 2] > boxes[4 * k] && boxes[4 * k + 3] > boxes[4 * k + 1]);
    free(cell), free(class_id), free(cells), free(sums), free(kept), free(boxes), free(scaled);
}

/* The rows that regions are written to: none, some, or some that do not exist. */
static int64_t *take_rows(input *in, size_t count, size_t pooled_rows) {
    size_t kind = take_size(in, 2);
    int64_t *rows = kind ? room(count, 8) : NULL;
    for (size_t k = 0; rows && k < count; k++)
        rows[k] = kind == 1 ? (int64_t)take_size(in, pooled_rows) : (int64_t)take_number(in, 8);
    return rows;
}

static void check_regions(input *in) {
    size_t height = take_size(in, 6), width = take_size(in, 6), channels = take_size(in, 19);
    size_t count = take_size(in, 5), cells = take_size(in, 4), samples = take_size(in, 3);
    size_t pooled_rows = take_size(in, 6);
    int64_t *rows = take_rows(in, count, pooled_rows);
    float *map = take_array(in, height * width * channels, 4);
    float *boxes = take_array(in, 4 * count, 4);
    size_t numbers = pooled_rows * channels * cells * cells;
    float *pooled = calloc(numbers, 4), *baseline = calloc(numbers, 4);
    cdv_status status = cdv_pool_regions(map, height, width, channels, boxes, rows, count, cells,
                                         samples, pooled, pooled_rows);
    cdv_use_baseline(1);
    MUST(status == cdv_pool_regions(map, height, width, channels, boxes, rows, count, cells, samples,
                                    baseline, pooled_rows));
    cdv_use_baseline(0);
    /* Of a NaN only that it is one is the same everywhere. */
    for (size_t k = 0; k < numbers; k++)
        MUST(pooled[k] == baseline[k] || (pooled[k] != pooled[k] && baseline[k] != baseline[k]));
    free(rows), free(map), free(boxes), free(pooled), free(baseline);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input in = {bytes, size};
    size_t part = take_size(&in, 2);
    part == 0 ? check_candidates(&in) : part == 1 ? check_boxes(&in) : check_regions(&in);
    return 0;
}
