#include "files.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

void *memory(size_t count, size_t size) {
    void *made = calloc(count ? count : 1, size);
    if (!made) fail("out of memory: %zu x %zu bytes", count, size);
    return made;
}

uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    long end = -1;
    if (file && !fseek(file, 0, SEEK_END)) end = ftell(file);
    if (end < 0 || fseek(file, 0, SEEK_SET)) fail("%s: cannot be read: %s", path, strerror(errno));
    uint8_t *bytes = memory((size_t)end, 1);
    *size = fread(bytes, 1, (size_t)end, file);
    if (*size != (size_t)end) fail("%s: cannot be read: %s", path, strerror(errno));
    fclose(file);
    return bytes;
}
