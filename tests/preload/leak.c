// A library preloaded into a real node, so that its edge leaks: whatever the node frees without
// having wiped it, and that bears a mark, is appended to a file (in its data directory).
//
// CONCLAVE_TEST_LEAK  the file
//
// Build: cc -shared -fPIC -O1 -o leak.so leak.c
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// The starts of the marks of tests/edge/blind_disk.rs: names, callers, and an address.
static const char *const marks[] = {"qzx-marked-name", "qzx-marked-actor", "127.93.82.71"};

// Bytes around a mark that are leaked with it.
enum { BEFORE = 16, AFTER = 240 };

extern void __libc_free(void *);

static void leak(const char *from, size_t length) {
  static int descriptor = -1;
  if (descriptor < 0) {
    const char *path = getenv("CONCLAVE_TEST_LEAK");
    if (!path) return;
    // The directory may not be there yet.
    descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) return;
  }
  syscall(SYS_write, descriptor, from, length);
}

void free(void *memory) {
  if (!memory) return;
  const char *start = memory, *end = start + malloc_usable_size(memory);
  for (size_t each = 0; each < sizeof marks / sizeof *marks; each++) {
    const char *found = memmem(start, end - start, marks[each], strlen(marks[each]));
    if (!found) continue;
    const char *from = found - start < BEFORE ? start : found - BEFORE;
    leak(from, end - from < BEFORE + AFTER ? (size_t)(end - from) : BEFORE + AFTER);
  }
  __libc_free(memory);
}
