/* Masks without pixels: an object's logits along columns, where they change sign, runs as text. */
#include <math.h>

#include "internal.h"

#define MAX_MAPS 65536

/* ---- logits on a window ------------------------------------------------------------------------ */

typedef struct object {
    const float *maps; /* (map_count, height, width) */
    size_t map_count, height, width, top, left, columns;
    const float *network;
    size_t hidden;
    const float *across;
} object;

/* Add one hidden unit's share to a row of logits. Loops run along the row, as memory does. */
static void add_unit(const object *o, size_t row, size_t unit, float down, float *values,
                     float *logits) {
    size_t inputs = o->map_count + 2;
    const float *weights = o->network + unit * inputs;
    /* Bias and the row's place are the same along a row: added once. */
    float start = o->network[o->hidden * inputs + unit] + weights[o->map_count + 1] * down;
    for (size_t x = 0; x < o->columns; x++) values[x] = start + weights[o->map_count] * o->across[x];
    for (size_t map = 0; map < o->map_count; map++) {
        const float *line = o->maps + (map * o->height + o->top + row) * o->width + o->left;
        for (size_t x = 0; x < o->columns; x++) values[x] += weights[map] * line[x];
    }
    /* The second layer, of the unit's ReLU. */
    float weight = o->network[o->hidden * (inputs + 1) + unit];
    for (size_t x = 0; x < o->columns; x++) logits[x] += weight * (values[x] > 0 ? values[x] : 0);
}

static cdv_status find_logits(const object *o, const float *down, size_t rows, float bias,
                              float *logits) {
    float *values = allocate(o->columns, sizeof *values);
    if (!values) return CDV_MEMORY;
    for (size_t row = 0; row < rows; row++) {
        float *line = logits + row * o->columns;
        for (size_t x = 0; x < o->columns; x++) line[x] = bias;
        for (size_t unit = 0; unit < o->hidden; unit++)
            add_unit(o, row, unit, down[row], values, line);
    }
    free(values);
    return CDV_OK;
}

cdv_status cdv_mask_lines(const float *maps, size_t map_count, size_t height, size_t width,
                          const float *network, size_t network_size, size_t top, size_t left,
                          const float *across, size_t window_width, const float *down,
                          size_t window_height, const int64_t *cells, const float *shares,
                          size_t columns, float *lines) {
    if (!network_size || map_count > MAX_MAPS) return CDV_ARGUMENT;
    size_t hidden = (network_size - 1) / (map_count + 4);
    if (!window_width || !window_height || top > height || height - top < window_height ||
        left > width || width - left < window_width ||
        network_size != hidden * (map_count + 4) + 1)
        return CDV_ARGUMENT;
    for (size_t k = 0; k < columns; k++)
        if (cells[k] < 0 || (uint64_t)cells[k] >= window_width) return CDV_ARGUMENT;
    float *logits = allocate(product(window_height, window_width), sizeof *logits);
    if (!logits) return CDV_MEMORY;
    object o = {maps, map_count, height, width, top, left, window_width, network, hidden, across};
    cdv_status status = find_logits(&o, down, window_height, network[network_size - 1], logits);
    for (size_t column = 0; !status && column < columns; column++) {
        size_t near = (size_t)cells[column], far = near + 1 < window_width ? near + 1 : near;
        for (size_t row = 0; row < window_height; row++) {
            const float *line = logits + row * window_width;
            float step = line[far] - line[near];
            lines[column * window_height + row] = line[near] + shares[column] * step;
        }
    }
    free(logits);
    return status;
}

/* ---- runs -------------------------------------------------------------------------------------- */

/* The first row whose centre lies behind the change of sign before a sample, within
 * [lowest, bottom]: never before the last change, whatever the numbers. */
static int64_t first_row_behind(const float *line, const double *centres, size_t sample,
                                int64_t lowest, int64_t bottom) {
    double before = line[sample - 1], after = line[sample];
    double share = before / (before - after);
    /* Where the straight line between two samples is 0; the centre of row r lies at r + 0.5. */
    double step = share * (centres[sample] - centres[sample - 1]);
    double row = ceil(centres[sample - 1] + step - 0.5);
    /* Compared before it is converted: what is not a number, or huge, has no integer. */
    if (!(row > (double)lowest)) return lowest;
    return row < (double)bottom ? (int64_t)row : bottom;
}

/* Whether rows and columns lie in some picture whose pixels can be numbered. */
static int is_place(int64_t first, size_t columns, int64_t top, int64_t bottom, int64_t height) {
    if (first < 0 || top < 0 || top > bottom || bottom > height || columns > INT64_MAX) return 0;
    if (first > INT64_MAX - (int64_t)columns) return 0;
    return !height || first + (int64_t)columns <= INT64_MAX / height;
}

cdv_status cdv_mask_positions(const float *lines, size_t columns, size_t samples,
                              const double *centres, int64_t first, int64_t top, int64_t bottom,
                              int64_t height, int64_t *positions, size_t *found) {
    size_t used = 0;
    if (!is_place(first, columns, top, bottom, height)) return CDV_ARGUMENT;
    for (size_t column = 0; column < columns; column++) {
        const float *line = lines + column * samples;
        int64_t lowest = top;
        int inside = 0;
        /* One place more than there are samples: there a line that is still inside ends. */
        for (size_t sample = 0; sample <= samples; sample++) {
            int positive = sample < samples && line[sample] > 0;
            if (positive == inside) continue;
            inside = positive;
            int64_t edge = sample == samples ? bottom : top;
            if (sample > 0 && sample < samples)
                edge = first_row_behind(line, centres, sample, lowest, bottom);
            lowest = edge;
            int64_t position = (first + (int64_t)column) * height + edge;
            /* A run of no pixel begins where it ends, and the end of a column may be the start of
             * the next: such pairs are left out. */
            if (used > 0 && positions[used - 1] == position)
                used--;
            else
                positions[used++] = position;
        }
    }
    *found = used;
    return CDV_OK;
}

/* Write a number as COCO does: five bits a character, and a sixth that says that more follow. */
static size_t write_number(int64_t value, uint8_t *text) {
    size_t used = 0;
    int more = 1;
    while (more) {
        int64_t group = value & 31;
        value >>= 5;
        /* Done once what is left is all sign, and the group's top bit says which sign. */
        more = group & 16 ? value != -1 : value != 0;
        text[used++] = (uint8_t)(group + (more ? 80 : 48));
    }
    return used;
}

cdv_status cdv_mask_text(const int64_t *positions, size_t count, int64_t pixels, uint8_t *text,
                         size_t *written) {
    size_t used = 0, runs = count + 1;
    int64_t start = 0, earlier[2] = {0, 0};
    /* Foreground to the last pixel: no run of background follows. */
    if (count && positions[count - 1] == pixels) runs--;
    for (size_t k = 0; k < runs; k++) {
        int64_t stop = k < count ? positions[k] : pixels;
        if (stop < start || stop > pixels) return CDV_ARGUMENT;
        int64_t run = stop - start;
        /* From the fourth run on COCO writes the difference to the last run of the same colour. */
        used += write_number(k > 2 ? run - earlier[k % 2] : run, text + used);
        earlier[k % 2] = run;
        start = stop;
    }
    *written = used;
    return CDV_OK;
}
