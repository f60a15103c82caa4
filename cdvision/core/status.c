/* What a status means, in English. */
#include "internal.h"

const char *cdv_status_text(cdv_status status) {
    static const char *const texts[] = {
        [CDV_OK] = "no error",
        [CDV_TRUNCATED] = "the bytes end before the last symbol",
        [CDV_BAD_ESCAPE] = "an escaped value that no encoder writes",
        [CDV_BAD_POINT] = "the bytes point to no symbol's interval",
        [CDV_BAD_LENGTH] = "too few bytes, or bytes left over",
        [CDV_BAD_STATE] = "a coder's state that no encoder leaves",
        [CDV_NOT_CODABLE] = "a symbol that its table cannot code",
        [CDV_BAD_INDEX] = "an index that names no table",
        [CDV_BAD_TABLES] = "frequencies that are no tables",
        [CDV_BAD_NETWORK] = "layers that are no network whose sums are proved exact",
        [CDV_BAD_HEADER] = "a damaged header, or one of another format",
        [CDV_DAMAGED] = "a checksum disagrees",
        [CDV_LIMIT] = "larger than the limits allow",
        [CDV_ARGUMENT] = "an argument out of its range, or a buffer that is too small",
        [CDV_MEMORY] = "out of memory",
    };
    size_t count = sizeof texts / sizeof *texts;
    return (size_t)status < count ? texts[status] : "unknown status";
}

int cdv_abi(void) { return CDV_ABI; }
