/* Integer attention: scores, a softmax by table, exact division, the weighted sum of values. */
#include "internal.h"

#define MAX_TOKENS 64
/* Weights of a query's keys sum to about 2^8. */
#define WEIGHT_BITS 8
#define PROJECTED_BOUND 127

typedef struct keys {
    const int32_t *projected;
    size_t known, width, size; /* size: channels of a head */
} keys;

/* Scores of a query with each key; half a step first makes the shift round. Returns the best. */
static int32_t score(const keys *k, const int32_t *query, size_t first, int32_t shift,
                     int32_t *scores) {
    int32_t best = INT32_MIN;
    for (size_t key = 0; key < k->known; key++) {
        const int32_t *other = k->projected + key * 3 * k->width + k->width + first;
        int32_t total = 1 << (shift - 1);
        for (size_t c = 0; c < k->size; c++) total += query[first + c] * other[c];
        scores[key] = total >> shift;
        best = scores[key] > best ? scores[key] : best;
    }
    return best;
}

/* A key's weight, by how far its score lies below the best, over the weights' sum. */
static void weigh(int32_t *scores, size_t known, int32_t best, const uint16_t *exponents,
                  int32_t farthest) {
    int32_t mass = 0;
    for (size_t key = 0; key < known; key++) {
        int32_t distance = best - scores[key];
        scores[key] = exponents[distance < farthest ? distance : farthest];
        mass += scores[key];
    }
    /* (2 a + b) / 2 b is a / b, rounded to the nearest. */
    for (size_t key = 0; key < known; key++)
        scores[key] = ((scores[key] << (WEIGHT_BITS + 1)) + mass) / (2 * mass);
}

/* Values by weight; the sum of weights, about 2^8, is shifted away, with rounding. */
static void sum_values(const keys *k, const int32_t *weights, size_t first, int32_t *attended) {
    for (size_t c = first; c < first + k->size; c++) {
        int32_t total = 1 << (WEIGHT_BITS - 1);
        for (size_t key = 0; key < k->known; key++)
            total += weights[key] * k->projected[key * 3 * k->width + 2 * k->width + c];
        attended[c] = total >> WEIGHT_BITS;
    }
}

static int is_bounded(const int32_t *projected, size_t count) {
    int beyond = 0;
    for (size_t k = 0; k < count; k++)
        beyond |= (projected[k] < -PROJECTED_BOUND) | (projected[k] > PROJECTED_BOUND);
    return !beyond;
}

cdv_status cdv_attend(const int32_t *projected, size_t tokens, size_t width, size_t known,
                      size_t heads, int32_t shift, const uint16_t *exponents, size_t exponent_count,
                      int32_t *attended) {
    if (tokens > MAX_TOKENS || known > tokens || width < 1 || width > 1024 ||
        heads < 1 || width % heads || shift < 1 || shift > 16 || exponent_count < 1 ||
        exponent_count > 1 << 16 || exponents[0] < 1 || exponents[0] > 4096 ||
        !is_bounded(projected, tokens * 3 * width))
        return CDV_ARGUMENT;
    for (size_t k = 1; k < exponent_count; k++)
        if (exponents[k] > exponents[k - 1]) return CDV_ARGUMENT;
    keys k = {projected, known, width, width / heads};
    int32_t scores[MAX_TOKENS];
    for (size_t token = 0; token < tokens; token++)
        for (size_t first = 0; first < width; first += k.size) {
            int32_t best = score(&k, projected + token * 3 * width, first, shift, scores);
            weigh(scores, known, best, exponents, (int32_t)exponent_count - 1);
            sum_values(&k, scores, first, attended + token * width);
        }
    return CDV_OK;
}
