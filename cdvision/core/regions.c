/* RoIAlign (He et al., "Mask R-CNN", ICCV 2017): every region of a map as a small map of equal size.
 *
 * The inner loop runs over channels, so that it vectorises. */
#include "loops.h"

typedef struct pooled_map {
    const float *values; /* (height, width, channels) */
    size_t height, width, channels;
} pooled_map;

static float clipped(float value, float limit) {
    value = value > 0 ? value : 0;
    return value < limit ? value : limit;
}

/* Add what bilinear interpolation gives at one point. */
static void add_sample(const pooled_map *m, float y, float x, const loops *run, float *total) {
    /* Up to a cell outside counts as the edge. Asked for what is inside: a NaN is not. */
    if (!(y >= -1 && y <= (float)m->height && x >= -1 && x <= (float)m->width)) return;
    y = clipped(y, (float)(m->height - 1)), x = clipped(x, (float)(m->width - 1));
    /* The four cells around the point, each weighted by the area of the opposite part. */
    size_t y0 = (size_t)y, x0 = (size_t)x;
    size_t y1 = y0 + 1 < m->height ? y0 + 1 : y0, x1 = x0 + 1 < m->width ? x0 + 1 : x0;
    float below = y - (float)y0, right = x - (float)x0, above = 1 - below, left = 1 - right;
    const float w[4] = {above * left, above * right, below * left, below * right};
    const float *a = m->values + (y0 * m->width + x0) * m->channels;
    const float *b = m->values + (y0 * m->width + x1) * m->channels;
    const float *c = m->values + (y1 * m->width + x0) * m->channels;
    const float *d = m->values + (y1 * m->width + x1) * m->channels;
    run->add_corners(a, b, c, d, w, m->channels, total);
}

/* One cell (i, j) of a region: the sum of its samples' values. */
static void sum_cell(const pooled_map *m, const float *box, size_t cells, size_t samples, size_t i,
                     size_t j, const loops *run, float *total) {
    /* A region never measures less than a cell, so that its samples stay apart. */
    float across = box[2] - box[0], down = box[3] - box[1], points = (float)samples;
    across = (across > 1 ? across : 1) / (float)cells, down = (down > 1 ? down : 1) / (float)cells;
    memset(total, 0, m->channels * sizeof *total);
    for (size_t point = 0; point < samples * samples; point++) {
        float a = (float)(point / samples), b = (float)(point % samples);
        /* Points stand in the middle of equal parts of the cell. */
        float y = box[1] + (float)i * down + (a + 0.5f) * down / points;
        float x = box[0] + (float)j * across + (b + 0.5f) * across / points;
        add_sample(m, y, x, run, total);
    }
}

/* Means of a region's cells, channels last, to channels first. */
static void write_region(const float *region, size_t channels, size_t area, float points,
                         float *pooled) {
    for (size_t c = 0; c < channels; c++)
        for (size_t cell = 0; cell < area; cell++)
            pooled[c * area + cell] = region[cell * channels + c] / points;
}

cdv_status cdv_pool_regions(const float *map, size_t height, size_t width, size_t channels,
                            const float *boxes, const int64_t *rows, size_t count, size_t cells,
                            size_t samples, float *pooled, size_t pooled_rows) {
    /* Sides up to 2^24 are exact in float. */
    if (!height || !width || !channels || !cells || !samples || height > 1 << 24 ||
        width > 1 << 24 || samples > 1024 || cells > 1024)
        return CDV_ARGUMENT;
    for (size_t k = 0; k < count; k++)
        if (rows ? rows[k] < 0 || (uint64_t)rows[k] >= pooled_rows : k >= pooled_rows)
            return CDV_ARGUMENT;
    pooled_map m = {map, height, width, channels};
    const loops *run = chosen_loops();
    size_t area = cells * cells;
    float *region = allocate(product(area, channels), sizeof *region);
    if (!region) return CDV_MEMORY;
    for (size_t k = 0; k < count; k++) {
        for (size_t cell = 0; cell < area; cell++)
            sum_cell(&m, boxes + 4 * k, cells, samples, cell / cells, cell % cells, run,
                     region + cell * channels);
        size_t place = rows ? (size_t)rows[k] : k;
        write_region(region, channels, area, (float)(samples * samples),
                     pooled + place * channels * area);
    }
    free(region);
    return CDV_OK;
}
