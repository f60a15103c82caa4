/* Between a dense head's outputs and boxes: the best pairs of cell and class, boxes, suppression.
 *
 * The exponentials between the two functions are the caller's. */
#include "loops.h"

typedef struct candidates {
    int64_t *cell, *class_id;
    float *score;
    size_t count;
} candidates;

static void free_candidates(candidates *c) {
    free(c->cell);
    free(c->class_id);
    free(c->score);
}

static int make_candidates(candidates *c, size_t count) {
    *c = (candidates){allocate(count, sizeof *c->cell), allocate(count, sizeof *c->class_id),
                      allocate(count, sizeof *c->score), 0};
    return c->cell && c->class_id && c->score;
}

/* All pairs above a confidence, in the order of memory; few cells have any. */
static cdv_status find_above(const float *scores, size_t cells, size_t classes, float confidence,
                             candidates *found) {
    size_t total, *busy = allocate(cells, sizeof *busy);
    *found = (candidates){0};
    if (!busy) return CDV_MEMORY;
    size_t used = chosen_loops()->find_busy(scores, cells, classes, confidence, busy, &total);
    int made = make_candidates(found, total);
    for (size_t place = 0; made && place < used; place++) {
        const float *row = scores + busy[place] * classes;
        for (size_t k = 0; k < classes; k++) {
            if (!(row[k] > confidence)) continue;
            size_t at = found->count++;
            found->cell[at] = (int64_t)busy[place], found->class_id[at] = (int64_t)k;
            found->score[at] = row[k];
        }
    }
    free(busy);
    return made ? CDV_OK : CDV_MEMORY;
}

/* Merge two neighbouring parts of `order`, each by descending score; of equals the left one first. */
static void merge(const float *score, const size_t *order, size_t *merged, size_t start,
                  size_t middle, size_t stop) {
    size_t left = start, right = middle;
    for (size_t at = start; at < stop; at++) {
        int take_left = left < middle && (right >= stop || score[order[left]] >= score[order[right]]);
        merged[at] = take_left ? order[left++] : order[right++];
    }
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Stable merge sort from parts of one upwards, between two arrays that swap roles. */
static size_t *best_first(const float *score, size_t count, size_t *order, size_t *merged) {
    for (size_t k = 0; k < count; k++) order[k] = k;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width)
            merge(score, order, merged, start, least(start + width, count),
                  least(start + 2 * width, count));
        size_t *swapped = order;
        order = merged, merged = swapped;
    }
    return order;
}

/* Logits of four sides, from each of which the side's largest is subtracted. */
static void write_centred(float *centred, const float *logits) {
    for (size_t first = 0; first < CDV_SIDES * CDV_BINS; first += CDV_BINS) {
        float largest = logits[first];
        for (size_t k = first + 1; k < first + CDV_BINS; k++)
            largest = logits[k] > largest ? logits[k] : largest;
        for (size_t k = first; k < first + CDV_BINS; k++) centred[k] = logits[k] - largest;
    }
}

cdv_status cdv_best_candidates(const float *scores, const float *distances, size_t cells,
                               size_t classes, float confidence, size_t limit, int64_t *cell,
                               int64_t *class_id, float *score, float *logits, size_t *found) {
    candidates all;
    *found = 0;
    if (product(cells, classes) == SIZE_MAX) return CDV_ARGUMENT;
    cdv_status status = find_above(scores, cells, classes, confidence, &all);
    size_t *places = allocate(2 * all.count, sizeof *places);
    if (!status && !places) status = CDV_MEMORY;
    if (!status) {
        const size_t *order = best_first(all.score, all.count, places, places + all.count);
        *found = least(all.count, limit);
        for (size_t rank = 0; rank < *found; rank++) {
            cell[rank] = all.cell[order[rank]], class_id[rank] = all.class_id[order[rank]];
            score[rank] = all.score[order[rank]];
            write_centred(logits + rank * CDV_SIDES * CDV_BINS,
                          distances + (size_t)cell[rank] * CDV_SIDES * CDV_BINS);
        }
    }
    free(places);
    free_candidates(&all);
    return status;
}

/* Clip to [0, limit]; what is not a number stays so, and no box with it is visible. */
static float clipped(float value, float limit) {
    if (value < 0) return 0;
    return value > limit ? limit : value;
}

/* The clipped box of a cell (x, y, stride): a side lies at the mean bin, in strides. */
static void write_box(float *box, const float *sums, const float *cell, const cdv_frame *frame) {
    float x = cell[0], y = cell[1], stride = cell[2];
    box[0] = clipped(x - sums[1] / sums[0] * stride, frame->width);
    box[1] = clipped(y - sums[3] / sums[2] * stride, frame->height);
    box[2] = clipped(x + sums[5] / sums[4] * stride, frame->width);
    box[3] = clipped(y + sums[7] / sums[6] * stride, frame->height);
}

static float smaller(float a, float b) { return b < a ? b : a; }
static float larger(float a, float b) { return b > a ? b : a; }

/* Whether intersection over union is larger than `iou`; 0 / 0 is not. */
static int overlap(const float *box, const float *other, float iou) {
    float width = smaller(box[2], other[2]) - larger(box[0], other[0]);
    float height = smaller(box[3], other[3]) - larger(box[1], other[1]);
    float shared = larger(width, 0) * larger(height, 0);
    float area = (box[2] - box[0]) * (box[3] - box[1]);
    float other_area = (other[2] - other[0]) * (other[3] - other[1]);
    return shared / (area + other_area - shared) > iou;
}

static int is_distinct(const float *boxes, const int64_t *kept, size_t count, const float *box,
                       const int64_t *class_id, int64_t class_of_box, float iou) {
    if (!(box[2] > box[0] && box[3] > box[1])) return 0;
    for (size_t better = 0; better < count; better++)
        if (class_id[kept[better]] == class_of_box && overlap(boxes + 4 * better, box, iou)) return 0;
    return 1;
}

cdv_status cdv_distinct_boxes(const float *sums, const float *cells, size_t cell_count,
                              const int64_t *cell, const int64_t *class_id, size_t candidate_count,
                              const cdv_frame *frame, float iou, size_t most, int64_t *kept,
                              float *boxes, float *scaled, size_t *found) {
    size_t count = 0;
    *found = 0;
    for (size_t rank = 0; rank < candidate_count && count < most; rank++) {
        if (cell[rank] < 0 || (uint64_t)cell[rank] >= cell_count) return CDV_ARGUMENT;
        /* Written to the next free place, and kept there only if nothing speaks against it. */
        float *box = boxes + 4 * count;
        write_box(box, sums + 2 * CDV_SIDES * rank, cells + 3 * cell[rank], frame);
        kept[count] = (int64_t)rank;
        count += is_distinct(boxes, kept, count, box, class_id, class_id[rank], iou);
    }
    for (size_t k = 0; k < CDV_SIDES * count; k++)
        scaled[k] = boxes[k] * (k % 2 ? frame->down : frame->across);
    *found = count;
    return CDV_OK;
}
