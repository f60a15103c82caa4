/* Checksums that fit again after a mutation: the parser itself says where the next one is wrong. */
#ifndef SEAL_H
#define SEAL_H

#include "fuzz.h"

static inline uint32_t plain_sum(const uint8_t *bytes, size_t size) {
    uint32_t crc = UINT32_MAX;
    for (size_t k = 0; k < size; k++) {
        crc ^= bytes[k];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static inline uint32_t compact_sum(const uint8_t *bytes, size_t size) {
    uint32_t crc = 0xFFFF;
    for (size_t k = 0; k < size; k++) {
        crc ^= (uint32_t)bytes[k] << 8;
        for (int bit = 0; bit < 8; bit++) crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xFFFF;
    }
    return crc;
}

static inline void put_sum(uint8_t *at, size_t bytes, uint32_t sum) {
    for (size_t k = 0; k < bytes; k++) at[k] = (uint8_t)(sum >> (8 * k));
}

/* Close header and layers anew, as far as the bytes are a stream. */
static inline void seal(uint8_t *bytes, size_t size) {
    cdv_stream stream;
    cdv_fault fault;
    for (int sums = 0; sums <= CDV_MAX_LAYERS; sums++) {
        if (cdv_stream_parse(bytes, size, &stream, &fault) != CDV_DAMAGED) return;
        int plain = bytes[3] == 1, header = !strcmp(fault.field, "header checksum");
        size_t start = header ? 0 : stream.layers[stream.present].offset;
        size_t length = fault.offset - start;
        uint32_t sum = (plain ? plain_sum : compact_sum)(bytes + start, length);
        put_sum(bytes + fault.offset, header || !plain ? 2 : 4, sum);
    }
}

#ifdef SEALED_MUTATIONS
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

/* Every other mutant is sealed: the rest shows what a checksum stops. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, most);
    if (seed % 4) seal(data, size);
    return size;
}
#endif

#endif
