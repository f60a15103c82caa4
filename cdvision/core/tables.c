/* Tables of integer frequencies, laid out for look-ups.
 *
 * A look-up takes two steps, slot to code (a byte) and code to frequency and start: 5 KiB a table,
 * few of which are touched. With one step and 16 KiB a table the decoder is slower even where
 * everything is cached, and takes 1.7 times as long after a network has emptied the caches. */
#include "internal.h"

static int is_range(int16_t low, int16_t high) {
    return low >= -SYMBOL_LIMIT && high <= SYMBOL_LIMIT && low <= high;
}

/* Fill one table's look-ups from its frequencies, the escape's last; 0 where they are no table. */
static int fill(table *to, int32_t low, int32_t high, const uint16_t *frequencies) {
    uint32_t start = 0;
    for (int32_t symbol = low; symbol <= high + 1; symbol++) {
        uint32_t frequency = frequencies[symbol - low], is_escape = symbol > high;
        uint32_t code = is_escape ? 0 : (uint32_t)(symbol + ZERO_CODE);
        if (frequency > TOTAL - start || (!frequency && !is_escape)) return 0;
        if (frequency) to->entries[code] = frequency << 16 | start;
        memset(to->slots + start, (int)code, frequency);
        start += frequency;
    }
    return start == TOTAL;
}

static cdv_status check_ranges(const int16_t *low, const int16_t *high, size_t count,
                               size_t entries) {
    size_t needed = 0;
    for (size_t at = 0; at < count; at++) {
        if (!is_range(low[at], high[at])) return CDV_BAD_TABLES;
        needed += (size_t)(high[at] - low[at] + 2);
    }
    return needed == entries ? CDV_OK : CDV_BAD_TABLES;
}

cdv_status cdv_tables_new(const int16_t *low, const int16_t *high, size_t count,
                          const uint16_t *frequencies, size_t entries, cdv_tables **tables) {
    *tables = NULL;
    if (count < 1 || count > MAX_TABLES) return CDV_BAD_TABLES;
    cdv_status status = check_ranges(low, high, count, entries);
    if (status) return status;
    cdv_tables *made = allocate_zeros(1, sizeof *made);
    if (!made) return CDV_MEMORY;
    made->count = count;
    made->low = allocate(count, sizeof *low);
    made->high = allocate(count, sizeof *high);
    made->tables = allocate_zeros(count, sizeof *made->tables);
    if (!made->low || !made->high || !made->tables) {
        cdv_tables_free(made);
        return CDV_MEMORY;
    }
    memcpy(made->low, low, count * sizeof *low);
    memcpy(made->high, high, count * sizeof *high);
    for (size_t at = 0; at < count; at++) {
        if (!fill(&made->tables[at], low[at], high[at], frequencies)) {
            cdv_tables_free(made);
            return CDV_BAD_TABLES;
        }
        frequencies += high[at] - low[at] + 2;
    }
    *tables = made;
    return CDV_OK;
}

void cdv_tables_free(cdv_tables *tables) {
    if (!tables) return;
    free(tables->low);
    free(tables->high);
    free(tables->tables);
    free(tables);
}

size_t cdv_tables_count(const cdv_tables *tables) { return tables->count; }
