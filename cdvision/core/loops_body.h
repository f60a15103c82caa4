/* Portable forms of the loops: included by each file that compiles them for an instruction set. */

static void to_bytes(const int32_t *sums, size_t count, int32_t shift, int32_t low, int32_t high,
                     uint8_t *out) {
    for (size_t k = 0; k < count; k++) {
        int32_t value = sums[k] >> shift;
        value = value < low ? low : value;
        out[k] = (uint8_t)(value > high ? high : value);
    }
}

static void to_shorts(const int32_t *sums, size_t count, int32_t shift, int32_t low, int32_t high,
                      int16_t *out) {
    for (size_t k = 0; k < count; k++) {
        int32_t value = sums[k] >> shift;
        value = value < low ? low : value;
        out[k] = (int16_t)(value > high ? high : value);
    }
}

static void add_corners(const float *restrict a, const float *restrict b, const float *restrict c,
                        const float *restrict d, const float *w, size_t count,
                        float *restrict total) {
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    for (size_t k = 0; k < count; k++) total[k] += w0 * a[k] + w1 * b[k] + w2 * c[k] + w3 * d[k];
}
