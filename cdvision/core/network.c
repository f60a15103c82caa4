/* Integer networks: chains of convolutions whose sums are proved exact.
 *
 * Half of a hyper-latent and of most activations behind it is zero: what is zero at both of two
 * neighbouring positions is left out, and each weight that is read serves both. */
#include "loops.h"

#define MAX_LAYERS 16
#define MAX_UPSAMPLE 8
/* Inputs of every layer are held in int16. */
#define MAX_INPUT 32767

typedef struct layer {
    int32_t outs, channels, kernel, bias_rows, shift, low, high, upsample;
    size_t rows;     /* of the matrix: kernel * kernel * channels; one of zeros follows */
    size_t stride;   /* numbers a row: outs rounded up to 16 */
    int16_t *matrix; /* kernel rows outermost, then columns, channels; outs in the shuffle's order */
    int32_t *bias;   /* (bias_rows, stride), with the half step that makes a shift round */
} layer;

struct cdv_network {
    size_t count;
    int32_t bound;
    layer layers[MAX_LAYERS];
};

/* ---- making a network -------------------------------------------------------------------------- */

static int is_layer(const cdv_layer *l) {
    return l->outs > 0 && l->outs <= 1 << 16 && l->channels > 0 && l->channels <= 1 << 16 &&
           (l->kernel == 1 || l->kernel == 3 || l->kernel == 5 || l->kernel == 7) &&
           l->bias_rows > 0 && l->bias_rows <= 1 << 16 && l->shift >= 1 && l->shift <= 16 &&
           l->upsample >= 1 && l->upsample <= MAX_UPSAMPLE &&
           l->outs % (l->upsample * l->upsample) == 0 &&
           l->low > -EXACT_LIMIT && l->low <= l->high && l->high < EXACT_LIMIT;
}

static int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }

/* Bound of any partial sum's magnitude, rounding offset included. */
static int64_t largest_sum(const cdv_layer *l, int64_t largest_input) {
    size_t inputs = (size_t)l->channels * (size_t)(l->kernel * l->kernel);
    int64_t largest = 0;
    for (int32_t out = 0; out < l->outs; out++) {
        int64_t weights = 0, bias = 0;
        for (size_t k = 0; k < inputs; k++) weights += magnitude(l->weight[out * inputs + k]);
        for (int32_t row = 0; row < l->bias_rows; row++) {
            int64_t found = magnitude(l->bias[(size_t)row * l->outs + out]);
            bias = found > bias ? found : bias;
        }
        int64_t sum = weights * largest_input + bias + (1 << (l->shift - 1));
        largest = sum > largest ? sum : largest;
    }
    return largest;
}

static int is_proved(const cdv_layer *layers, size_t count, int32_t bound) {
    int64_t largest_input = bound;
    for (size_t k = 0; k < count; k++) {
        const cdv_layer *l = &layers[k];
        if (!is_layer(l) || largest_sum(l, largest_input) >= EXACT_LIMIT) return 0;
        int32_t outputs = l->outs / (l->upsample * l->upsample);
        if (k + 1 < count && layers[k + 1].channels != outputs) return 0;
        /* Clipping bounds what the next layer is given, whatever this one was given. */
        int64_t low = magnitude(l->low), high = magnitude(l->high);
        largest_input = low > high ? low : high;
        if (k + 1 < count && largest_input > MAX_INPUT) return 0;
    }
    return 1;
}

/* The place of an output among a position's sums: by row and column of the pixel shuffle, then by
 * channel, so that the channels of one output cell lie side by side. */
static size_t place_of(const layer *l, int32_t out) {
    int32_t shuffled = l->upsample * l->upsample;
    return (size_t)(out % shuffled * (l->outs / shuffled) + out / shuffled);
}

static void fill_matrix(layer *l, const int8_t *weight) {
    size_t area = (size_t)(l->kernel * l->kernel), channels = (size_t)l->channels;
    for (int32_t out = 0; out < l->outs; out++) {
        int16_t *column = l->matrix + place_of(l, out);
        for (size_t c = 0; c < channels; c++)
            for (size_t k = 0; k < area; k++)
                column[(k * channels + c) * l->stride] = weight[((size_t)out * channels + c) * area + k];
    }
}

static void fill_bias(layer *l, const int32_t *bias) {
    for (int32_t row = 0; row < l->bias_rows; row++)
        for (int32_t out = 0; out < l->outs; out++)
            l->bias[(size_t)row * l->stride + place_of(l, out)] =
                bias[(size_t)row * l->outs + out] + (1 << (l->shift - 1));
}

static cdv_status fill_layer(layer *made, const cdv_layer *from) {
    *made = (layer){from->outs, from->channels, from->kernel, from->bias_rows,
                    from->shift, from->low, from->high, from->upsample, 0, 0, NULL, NULL};
    made->rows = (size_t)(from->kernel * from->kernel) * (size_t)from->channels;
    made->stride = ((size_t)from->outs + 15) / 16 * 16;
    made->matrix = allocate_zeros(product(made->rows + 1, made->stride), sizeof *made->matrix);
    made->bias = allocate_zeros(product((size_t)from->bias_rows, made->stride), sizeof *made->bias);
    if (!made->matrix || !made->bias) return CDV_MEMORY;
    fill_matrix(made, from->weight);
    fill_bias(made, from->bias);
    return CDV_OK;
}

cdv_status cdv_network_new(const cdv_layer *layers, size_t count, int32_t bound,
                           cdv_network **network) {
    *network = NULL;
    if (count < 1 || count > MAX_LAYERS || bound < 1 || bound > MAX_INPUT ||
        !is_proved(layers, count, bound))
        return CDV_BAD_NETWORK;
    cdv_network *made = allocate_zeros(1, sizeof *made);
    if (!made) return CDV_MEMORY;
    made->count = count;
    made->bound = bound;
    for (size_t k = 0; k < count; k++)
        if (fill_layer(&made->layers[k], &layers[k])) {
            cdv_network_free(made);
            return CDV_MEMORY;
        }
    *network = made;
    return CDV_OK;
}

void cdv_network_free(cdv_network *network) {
    if (!network) return;
    for (size_t k = 0; k < network->count; k++) {
        free(network->layers[k].matrix);
        free(network->layers[k].bias);
    }
    free(network);
}

/* ---- running it -------------------------------------------------------------------------------- */

/* Integers (rows, columns, channels), with a margin of zeros for a "same" convolution around them. */
typedef struct map {
    size_t rows, columns, channels, margin;
    int16_t *values;
} map;

/* Where the cell (row, column) of a map lies; its margin counts. */
static size_t place_in(const map *m, size_t row, size_t column) {
    return (row * (m->columns + 2 * m->margin) + column) * m->channels;
}

static int16_t *cell_of(const map *m, size_t row, size_t column) {
    return m->values + place_in(m, row + m->margin, column + m->margin);
}

static int make_map(map *m, size_t rows, size_t columns, const layer *reader) {
    size_t margin = (size_t)reader->kernel / 2, channels = (size_t)reader->channels;
    *m = (map){rows, columns, channels, margin, NULL};
    if (rows > UINT32_MAX || columns > UINT32_MAX) return 0;
    size_t cells = product(rows + 2 * margin, columns + 2 * margin);
    m->values = allocate_zeros(product(cells, channels), sizeof *m->values);
    return m->values != NULL;
}

/* What a row of sums is worked out in. */
typedef struct scratch {
    int16_t *here, *beside; /* inputs at two positions */
    uint32_t *lines;        /* their rows of the matrix */
    int32_t *sums, *spare;  /* (columns, stride) and (stride) */
    uint8_t *bytes;         /* (columns, stride): sums as the last layer gives them */
} scratch;

static void free_scratch(scratch *s) {
    free(s->here);
    free(s->beside);
    free(s->lines);
    free(s->sums);
    free(s->bytes);
}

static int make_scratch(scratch *s, const layer *l, size_t columns) {
    s->here = allocate(l->rows + 2, sizeof *s->here);
    s->beside = allocate(l->rows + 2, sizeof *s->beside);
    s->lines = allocate(l->rows + 2, sizeof *s->lines);
    s->sums = allocate(product(columns + 1, l->stride), sizeof *s->sums);
    s->bytes = allocate(product(columns, l->stride), 1);
    s->spare = s->sums ? s->sums + columns * l->stride : NULL;
    return s->here && s->beside && s->lines && s->sums && s->bytes;
}

/* Gather what the kernel sees at two positions, without what is zero at both; returns the pairs. */
static size_t gather(const map *m, size_t row, size_t left, size_t right, const layer *l,
                     scratch *s) {
    size_t seen = (size_t)l->kernel * m->channels, used = 0;
    uint32_t line = 0;
    for (size_t y = 0; y < (size_t)l->kernel; y++) {
        const int16_t *a = m->values + place_in(m, row + y, left);
        const int16_t *b = m->values + place_in(m, row + y, right);
        for (size_t k = 0; k < seen; k++, line++) {
            /* Written always, kept only if not both are zero: the next one overwrites it. */
            s->here[used] = a[k], s->beside[used] = b[k], s->lines[used] = line;
            used += (a[k] | b[k]) != 0;
        }
    }
    /* An odd one is paired with zeros, and with the row of zeros behind the matrix. */
    s->here[used] = s->beside[used] = 0;
    s->lines[used] = (uint32_t)l->rows;
    return (used + 1) / 2;
}

/* Convolve one row into s->sums. */
static void row_of_sums(const map *m, size_t row, size_t columns, const layer *l, size_t quality,
                        const loops *run, scratch *s) {
    size_t bias_row = quality < (size_t)l->bias_rows ? quality : (size_t)l->bias_rows - 1;
    const int32_t *bias = l->bias + bias_row * l->stride;
    for (size_t left = 0; left < columns; left += 2) {
        /* Behind the last column of an odd width the right one's sums go to `spare`, unused. */
        size_t right = left + 1 < columns ? left + 1 : left;
        int32_t *here = s->sums + left * l->stride;
        int32_t *beside = right > left ? here + l->stride : s->spare;
        size_t pairs = gather(m, row, left, right, l, s);
        run->pair_sums(s->here, s->beside, s->lines, pairs, l->matrix, l->stride, bias, here,
                       beside);
    }
}

/* Where a row of sums goes: the next layer's input, cells, or planes, whichever is not NULL. */
typedef struct target {
    map *next;
    int32_t *cells;
    uint8_t *planes;
    size_t height, width; /* of cells or planes */
} target;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Shuffle a row of sums into cells: those of one position are upsample x upsample of them. */
static void write_cells(const target *to, size_t row, size_t columns, const layer *l,
                        const loops *run, const scratch *s) {
    size_t up = (size_t)l->upsample, outs = (size_t)l->outs / (up * up);
    for (size_t place = 0; place < up * up; place++)
        for (size_t column = 0; column < columns; column++) {
            size_t y = row * up + place / up, x = column * up + place % up;
            const int32_t *sums = s->sums + column * l->stride + place * outs;
            if (to->next) {
                run->to_shorts(sums, outs, l->shift, l->low, l->high, cell_of(to->next, y, x));
                continue;
            }
            int32_t *cell = to->cells + (y * to->width + x) * outs;
            for (size_t c = 0; c < outs; c++) {
                int32_t value = sums[c] >> l->shift;
                value = value < l->low ? l->low : value;
                cell[c] = value > l->high ? l->high : value;
            }
        }
}

/* Shuffle a row of sums into planes, channel by channel, while the row is in the cache. */
static void write_planes(const target *to, size_t row, size_t columns, const layer *l,
                         const loops *run, scratch *s) {
    size_t up = (size_t)l->upsample, outs = (size_t)l->outs / (up * up);
    run->to_bytes(s->sums, columns * l->stride, l->shift, l->low, l->high, s->bytes);
    for (size_t y = row * up; y < least(row * up + up, to->height); y++)
        for (size_t channel = 0; channel < outs; channel++) {
            uint8_t *line = to->planes + (channel * to->height + y) * to->width;
            const uint8_t *from = s->bytes + y % up * up * outs + channel;
            for (size_t across = 0; across < up; across++, from += outs)
                for (size_t x = across, at = 0; x < to->width; x += up, at += l->stride)
                    line[x] = from[at];
        }
}

static cdv_status run_layer(const map *in, const layer *l, size_t rows, size_t columns,
                            size_t quality, const target *to) {
    scratch s = {0};
    int made = make_scratch(&s, l, columns);
    const loops *run = chosen_loops();
    for (size_t row = 0; made && row < rows; row++) {
        row_of_sums(in, row, columns, l, quality, run, &s);
        if (to->planes)
            write_planes(to, row, columns, l, run, &s);
        else
            write_cells(to, row, columns, l, run, &s);
    }
    free_scratch(&s);
    return made ? CDV_OK : CDV_MEMORY;
}

static size_t rounded_up(size_t value, size_t step) { return (value + step - 1) / step; }

typedef struct positions {
    size_t rows, columns;
} positions;

/* Sums that each layer has to compute for height x width of the output: backwards from there, less
 * for each shuffle, more by half a kernel for each convolution. */
static void find_positions(const cdv_network *network, size_t height, size_t width,
                           positions *needed) {
    for (size_t k = network->count; k-- > 0;) {
        const layer *l = &network->layers[k];
        height = rounded_up(height, (size_t)l->upsample);
        width = rounded_up(width, (size_t)l->upsample);
        needed[k] = (positions){height, width};
        height += (size_t)l->kernel / 2, width += (size_t)l->kernel / 2;
    }
}

/* Run all layers; `in` is freed. */
static cdv_status run_chain(const cdv_network *network, map *in, size_t quality, const target *to) {
    positions needed[MAX_LAYERS];
    find_positions(network, to->height, to->width, needed);
    cdv_status status = CDV_OK;
    for (size_t k = 0; k < network->count && !status; k++) {
        const layer *l = &network->layers[k];
        size_t rows = least(needed[k].rows, in->rows), columns = least(needed[k].columns, in->columns);
        map next = {0};
        target here = *to;
        if (k + 1 < network->count) {
            size_t up = (size_t)l->upsample;
            here = (target){&next, NULL, NULL, 0, 0};
            if (!make_map(&next, rows * up, columns * up, &network->layers[k + 1]))
                status = CDV_MEMORY;
        }
        if (!status) status = run_layer(in, l, rows, columns, quality, &here);
        free(in->values);
        *in = next;
    }
    free(in->values);
    return status;
}

static size_t upsampling(const cdv_network *network) {
    size_t factor = 1;
    for (size_t k = 0; k < network->count; k++) factor *= (size_t)network->layers[k].upsample;
    return factor;
}

/* Copy an input into a map, checking its bound; numbers lie `step` apart along channels. */
static cdv_status read_input(map *m, const int32_t *x, size_t channel_step, size_t cell_step,
                             int32_t bound) {
    int32_t beyond = 0;
    for (size_t row = 0; row < m->rows; row++)
        for (size_t column = 0; column < m->columns; column++) {
            const int32_t *from = x + (row * m->columns + column) * cell_step;
            int16_t *cell = cell_of(m, row, column);
            for (size_t c = 0; c < m->channels; c++) {
                int32_t value = from[c * channel_step];
                beyond |= (value < -bound) | (value > bound);
                cell[c] = (int16_t)value;
            }
        }
    return beyond ? CDV_ARGUMENT : CDV_OK;
}

static cdv_status run(const cdv_network *network, const int32_t *x, size_t rows, size_t columns,
                      int planar, size_t quality, const target *to) {
    map in;
    size_t factor = upsampling(network);
    if (!rows || !columns || to->height > product(factor, rows) ||
        to->width > product(factor, columns))
        return CDV_ARGUMENT;
    if (!make_map(&in, rows, columns, &network->layers[0])) return CDV_MEMORY;
    size_t channel_step = planar ? rows * columns : 1, cell_step = planar ? 1 : in.channels;
    cdv_status status = read_input(&in, x, channel_step, cell_step, network->bound);
    if (!status) return run_chain(network, &in, quality, to);
    free(in.values);
    return status;
}

cdv_status cdv_network_planes(const cdv_network *network, const int32_t *x, size_t rows,
                              size_t columns, size_t quality, size_t height, size_t width,
                              uint8_t *planes) {
    const layer *last = &network->layers[network->count - 1];
    if (last->low < 0 || last->high > 255) return CDV_ARGUMENT;
    target to = {NULL, NULL, planes, height, width};
    return run(network, x, rows, columns, 1, quality, &to);
}

cdv_status cdv_network_cells(const cdv_network *network, const int32_t *x, size_t rows,
                             size_t columns, size_t quality, int32_t *cells) {
    size_t factor = upsampling(network);
    target to = {NULL, cells, NULL, product(factor, rows), product(factor, columns)};
    return run(network, x, rows, columns, 0, quality, &to);
}
