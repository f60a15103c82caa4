/* Files read whole, and errors that end a program with one line. */
#ifndef FILES_H
#define FILES_H

#include <stddef.h>
#include <stdint.h>

/* Says what is wrong, as printf does, and exits with status 2. */
_Noreturn void fail(const char *format, ...);

/* Memory that is there, or an error. */
void *memory(size_t count, size_t size);

/* The bytes of a file, to be freed. */
uint8_t *read_file(const char *path, size_t *size);

#endif
