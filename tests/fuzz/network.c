/* Networks and attention: any settings are refused, or give the same bits on every path. */
#include "fuzz.h"

#define MOST_LAYERS 4

/* A layer whose numbers are mostly sound; its arrays have the sizes that its numbers say. */
static cdv_layer take_layer(input *in, int32_t channels) {
    size_t wild = take_size(in, 15);
    cdv_layer l = {NULL, NULL, 0, channels, 1 + 2 * (int32_t)take_size(in, 3), 0, 0, 0, 0, 1};
    l.upsample = 1 + (int32_t)take_size(in, 2);
    l.outs = l.upsample * l.upsample * (1 + (int32_t)take_size(in, 18));
    l.bias_rows = 1 + (int32_t)take_size(in, 2);
    l.shift = 1 + (int32_t)take_size(in, 15);
    l.low = -(int32_t)take_size(in, 300), l.high = (int32_t)take_size(in, 300);
    l.weight = take_array(in, (size_t)(l.outs * channels * l.kernel * l.kernel), 1);
    l.bias = take_array(in, (size_t)(l.bias_rows * l.outs), 4);
    int32_t any = (int32_t)take_number(in, 4);
    if (wild == 15) l.upsample = any;
    if (wild == 14) l.shift = any;
    if (wild == 13) l.low = any;
    if (wild == 12) l.high = any;
    if (wild == 11) l.low = 0;
    return l;
}

static size_t outputs_of(const cdv_layer *l) {
    return (size_t)(l->outs / (l->upsample * l->upsample));
}

static void check_cells(const cdv_network *network, const int32_t *x, size_t rows, size_t columns,
                        size_t quality, size_t outs, size_t up) {
    size_t count = rows * up * columns * up * outs;
    int32_t *cells = room(count, 4), *baseline = room(count, 4);
    cdv_status status = cdv_network_cells(network, x, rows, columns, quality, cells);
    cdv_use_baseline(1);
    MUST(cdv_network_cells(network, x, rows, columns, quality, baseline) == status);
    cdv_use_baseline(0);
    MUST(status || !memcmp(cells, baseline, count * 4));
    free(cells), free(baseline);
}

static void check_planes(const cdv_network *network, const int32_t *x, size_t rows, size_t columns,
                         size_t quality, size_t outs, size_t height, size_t width) {
    size_t count = outs * height * width;
    uint8_t *planes = room(count, 1), *baseline = room(count, 1);
    cdv_status status =
        cdv_network_planes(network, x, rows, columns, quality, height, width, planes);
    cdv_use_baseline(1);
    MUST(cdv_network_planes(network, x, rows, columns, quality, height, width, baseline) == status);
    cdv_use_baseline(0);
    MUST(status || !memcmp(planes, baseline, count));
    free(planes), free(baseline);
}

static void check_network(input *in) {
    size_t count = 1 + take_size(in, MOST_LAYERS - 1), up = 1;
    int32_t bound = 1 + (int32_t)take_size(in, 40000), first = 1 + (int32_t)take_size(in, 12);
    cdv_layer layers[MOST_LAYERS];
    int32_t channels = first;
    for (size_t k = 0; k < count; k++) {
        layers[k] = take_layer(in, channels);
        channels = layers[k].outs;
        if (layers[k].upsample >= 1 && layers[k].upsample <= 8)
            channels /= layers[k].upsample * layers[k].upsample, up *= (size_t)layers[k].upsample;
    }
    size_t rows = take_size(in, 4), columns = take_size(in, 4), quality = take_size(in, 3);
    size_t wild = take_size(in, 7) == 7, height = take_size(in, 20), width = take_size(in, 20);
    int32_t *x = take_array(in, rows * columns * (size_t)first, 4);
    for (size_t k = 0; !wild && k < rows * columns * (size_t)first; k++) x[k] %= bound;
    cdv_network *network;
    cdv_status status = cdv_network_new(layers, count, bound, &network);
    MUST((status == CDV_OK) == (network != NULL));
    if (network) {
        size_t outs = outputs_of(&layers[count - 1]);
        check_cells(network, x, rows, columns, quality, outs, up);
        check_planes(network, x, rows, columns, quality, outs, height, width);
        check_planes(network, x, rows, columns, quality, outs, rows * up, columns * up);
    }
    cdv_network_free(network);
    for (size_t k = 0; k < count; k++) free((void *)layers[k].weight), free((void *)layers[k].bias);
    free(x);
}

static void check_attention(input *in) {
    size_t tokens = take_size(in, 66), width = take_size(in, 24), known = take_size(in, 66);
    size_t heads = take_size(in, 8), entries = take_size(in, 12), wild = take_size(in, 3) == 3;
    int32_t shift = wild ? (int32_t)take_number(in, 4) : (int32_t)take_size(in, 16);
    uint16_t *exponents = take_array(in, entries, 2);
    for (size_t k = 0; !wild && k < entries; k++)
        exponents[k] =
            (uint16_t)(k ? exponents[k] % (exponents[k - 1] + 1) : 1 + exponents[k] % 4096);
    int32_t *projected = room(tokens * 3 * width, 4), *attended = room(tokens * width, 4);
    for (size_t k = 0; k < tokens * 3 * width; k++)
        projected[k] = wild ? (int32_t)take_number(in, 4) : (int32_t)take_size(in, 254) - 127;
    cdv_attend(projected, tokens, width, known, heads, shift, exponents, entries, attended);
    free(exponents), free(projected), free(attended);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input in = {bytes, size};
    take_size(&in, 1) ? check_attention(&in) : check_network(&in);
    return 0;
}
