/* Spoiled streams through parser and codec: `mutations COUNT SEED codec.cdvc STREAM...`
 *
 * For compilers without coverage-guided fuzzing: run under the address and undefined-behaviour
 * sanitizers, every stream ends in latents or in a status. Prints one line of what came of them. */
#include "decoding.h"
#include "seal.h"

#define ROOM 65536

typedef struct stream_bytes {
    uint8_t *bytes;
    size_t size;
} stream_bytes;

typedef struct tally {
    unsigned long refused, incomplete, decoded;
} tally;

static uint64_t random_state;

/* xorshift64* (Vigna, 2016): the same mutants for the same seed, on every machine. */
static size_t random_below(size_t limit) {
    random_state ^= random_state >> 12, random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (size_t)((random_state * UINT64_C(2685821657736338717)) >> 33) % (limit ? limit : 1);
}

static void flip(uint8_t *bytes, size_t size) {
    for (size_t k = 1 + random_below(8); size && k; k--)
        bytes[random_below(size)] ^= (uint8_t)(1 << random_below(8));
}

static void overwrite(uint8_t *bytes, size_t size) {
    size_t at = random_below(size), kind = random_below(3);
    for (size_t k = random_below(32); k && at < size; k--, at++)
        bytes[at] = (uint8_t)(kind ? 0 - (kind - 1) : random_below(256));
}

static size_t insert(uint8_t *bytes, size_t size) {
    size_t at = random_below(size + 1), more = 1 + random_below(32);
    if (size + more > ROOM) return size;
    memmove(bytes + at + more, bytes + at, size - at);
    for (size_t k = 0; k < more; k++) bytes[at + k] = (uint8_t)random_below(256);
    return size + more;
}

static size_t delete(uint8_t *bytes, size_t size) {
    size_t at = random_below(size), less = 1 + random_below(32);
    if (less > size - at) less = size - at;
    memmove(bytes + at, bytes + at + less, size - at - less);
    return size - less;
}

/* The start of one stream, the end of another. */
static size_t splice(uint8_t *bytes, size_t size, const stream_bytes *other) {
    size_t kept = random_below(size + 1), from = random_below(other->size + 1);
    size_t more = other->size - from;
    if (more > ROOM - kept) more = ROOM - kept;
    memcpy(bytes + kept, other->bytes + from, more);
    return kept + more;
}

static size_t mutate(uint8_t *bytes, size_t size, const stream_bytes *seeds, size_t count) {
    switch (random_below(8)) {
    case 0: return random_below(size + 1);
    case 1: size = insert(bytes, size); break;
    case 2: size = delete(bytes, size); break;
    case 3: size = splice(bytes, size, &seeds[random_below(count)]); break;
    case 4: overwrite(bytes, size); break;
    /* The header, where a change means the most. */
    case 5: flip(bytes, size < 30 ? size : 30); break;
    default: flip(bytes, size);
    }
    if (random_below(2)) seal(bytes, size);
    return size;
}

static void try_stream(const cdv_codec *codec, const uint8_t *bytes, size_t size, tally *found) {
    cdv_stream stream;
    cdv_fault fault;
    /* A copy of exactly its size, so that the address sanitizer sees the byte behind it. */
    uint8_t *exact = room(size, 1);
    memcpy(exact, bytes, size);
    if (cdv_stream_parse(exact, size, &stream, &fault)) {
        found->refused++;
    } else {
        int whole = stream.present > 0;
        for (uint32_t k = 0; k < stream.present; k++)
            whole &= !decode_layer(codec, &stream, exact, stream.layers[k].id);
        whole ? found->decoded++ : found->incomplete++;
    }
    free(exact);
}

int main(int count, char **arguments) {
    MUST(count > 4);
    unsigned long trials = strtoul(arguments[1], NULL, 10);
    random_state = strtoull(arguments[2], NULL, 10) * 2654435761u + 88172645463325252u;
    cdv_codec *codec = codec_from(arguments[3]);
    size_t seed_count = (size_t)(count - 4);
    stream_bytes *seeds = room(seed_count, sizeof *seeds);
    uint8_t *bytes = room(ROOM, 1);
    tally found = {0, 0, 0};
    for (size_t k = 0; k < seed_count; k++)
        seeds[k].bytes = whole_file(arguments[4 + k], &seeds[k].size);
    for (unsigned long trial = 0; trial < trials; trial++) {
        const stream_bytes *seed = &seeds[random_below(seed_count)];
        memcpy(bytes, seed->bytes, seed->size);
        try_stream(codec, bytes, mutate(bytes, seed->size, seeds, seed_count), &found);
    }
    printf("%lu streams: %lu refused, %lu with a layer refused or none, %lu decoded\n",
           trials, found.refused, found.incomplete, found.decoded);
    for (size_t k = 0; k < seed_count; k++) free(seeds[k].bytes);
    free(seeds), free(bytes);
    cdv_codec_free(codec);
    return 0;
}
