/* Masks of any numbers, in windows and pictures of any place and size. */
#include "fuzz.h"

static void check_lines(input *in) {
    size_t maps = take_size(in, 3), height = take_size(in, 8), width = take_size(in, 8);
    size_t hidden = take_size(in, 4), wild = take_size(in, 1), columns = take_size(in, 9);
    size_t top = wild ? (size_t)take_number(in, 8) : take_size(in, height);
    size_t left = wild ? (size_t)take_number(in, 8) : take_size(in, width);
    size_t window_width = take_size(in, 8), window_height = take_size(in, 8);
    size_t network_size = hidden * (maps + 4) + 1;
    float *values = take_array(in, maps * height * width, 4);
    float *network = take_array(in, network_size, 4);
    float *across = take_array(in, window_width, 4), *down = take_array(in, window_height, 4);
    float *shares = take_array(in, columns, 4), *lines = room(columns * window_height, 4);
    int64_t *cells = room(columns, 8);
    for (size_t k = 0; k < columns; k++)
        cells[k] = wild ? (int64_t)take_number(in, 8) : (int64_t)take_size(in, 8);
    cdv_status status =
        cdv_mask_lines(values, maps, height, width, network, network_size, top, left, across,
                       window_width, down, window_height, cells, shares, columns, lines);
    MUST(status == CDV_OK || status == CDV_ARGUMENT);
    /* Sizes that no array has: refused before anything is read. */
    size_t most = wild ? (size_t)take_number(in, 8) | (size_t)1 << 60 : SIZE_MAX - 3;
    status = cdv_mask_lines(values, most, height, width, network, network_size, top, left, across,
                            window_width, down, window_height, cells, shares, columns, lines);
    MUST(status == CDV_ARGUMENT);
    free(values), free(network), free(across), free(down), free(shares), free(lines), free(cells);
}

static void check_text(const int64_t *positions, size_t count, int64_t pixels, int must) {
    uint8_t *text = room(13 * (count + 1), 1);
    size_t written = 0;
    cdv_status status = cdv_mask_text(positions, count, pixels, text, &written);
    MUST(status == CDV_OK || (status == CDV_ARGUMENT && !must));
    for (size_t k = 0; !status && k < written; k++) MUST(text[k] >= 48 && text[k] < 112);
    free(text);
}

static void check_positions(input *in) {
    size_t columns = take_size(in, 6), samples = take_size(in, 7), wild = take_size(in, 1);
    size_t found = 0;
    int64_t place[4];
    for (size_t k = 0; k < 4; k++)
        place[k] = wild ? (int64_t)take_number(in, 8) : (int64_t)take_size(in, 50);
    float *lines = take_array(in, columns * samples, 4);
    double *centres = take_array(in, samples, 8);
    int64_t *positions = room(columns * (samples + 1), 8);
    cdv_status status = cdv_mask_positions(lines, columns, samples, centres, place[0], place[1],
                                           place[2], place[3], positions, &found);
    MUST(found <= columns * (samples + 1) && (status == CDV_OK || status == CDV_ARGUMENT));
    int64_t pixels = status ? 0 : (place[0] + (int64_t)columns) * place[3];
    if (!status) check_text(positions, found, pixels, 1);
    free(lines), free(centres), free(positions);
}

static void check_any_text(input *in) {
    size_t count = take_size(in, 20);
    int64_t pixels = (int64_t)take_number(in, 8), *positions = take_array(in, count, 8);
    check_text(positions, count, pixels, 0);
    free(positions);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input in = {bytes, size};
    size_t part = take_size(&in, 2);
    part == 0 ? check_lines(&in) : part == 1 ? check_positions(&in) : check_any_text(&in);
    return 0;
}
