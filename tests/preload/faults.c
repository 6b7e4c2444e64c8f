// A library preloaded into a real node by the fault tests. It needs no hook in the product:
//
//  * it notes how much of each file was synced, so that a test can cut the power: kill the node,
//    then truncate every file to what a disk would surely still hold (RocksDB's files only grow);
//  * it moves the wall clock, and only that one, by an offset that a test may change at any time.
//
// CONCLAVE_TEST_SYNC_LOG      file to which each successful sync appends {device, inode, birth, bytes}
// CONCLAVE_TEST_CLOCK_OFFSET  file holding the wall clock's offset in milliseconds, as text
//
// Build: cc -shared -fPIC -O1 -o faults.so faults.c -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// Inodes are used again, births are not: together they name one file.
struct synced {
  uint64_t device;
  uint64_t inode;
  uint64_t birth_ns;
  uint64_t bytes;
};

static int sync_log(void) {
  static int descriptor = -2;
  if (descriptor == -2) {
    const char *path = getenv("CONCLAVE_TEST_SYNC_LOG");
    descriptor = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
  }
  return descriptor;
}

// The size is taken before the sync: only what was written by then is surely covered by it.
static int noted_sync(int descriptor, long call) {
  struct statx before;
  unsigned wanted = STATX_TYPE | STATX_INO | STATX_SIZE | STATX_BTIME;
  int known = statx(descriptor, "", AT_EMPTY_PATH, wanted, &before) == 0 && S_ISREG(before.stx_mode);
  int result = (int)syscall(call, descriptor);
  if (result == 0 && known && sync_log() >= 0) {
    struct synced record = {
        makedev(before.stx_dev_major, before.stx_dev_minor),
        before.stx_ino,
        (uint64_t)before.stx_btime.tv_sec * 1000000000u + before.stx_btime.tv_nsec,
        before.stx_size,
    };
    if (write(sync_log(), &record, sizeof record) != (ssize_t)sizeof record) abort();
  }
  return result;
}

int fsync(int descriptor) { return noted_sync(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return noted_sync(descriptor, SYS_fdatasync); }

static int64_t clock_offset_ms(void) {
  static int descriptor = -2;
  if (descriptor == -2) {
    const char *path = getenv("CONCLAVE_TEST_CLOCK_OFFSET");
    descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  }
  if (descriptor < 0) return 0;
  char text[32];
  ssize_t length = pread(descriptor, text, sizeof text - 1, 0);
  if (length <= 0) return 0;
  text[length] = 0;
  return strtoll(text, NULL, 10);
}

static void move(struct timespec *time) {
  int64_t offset_ms = clock_offset_ms();
  int64_t ns = (int64_t)time->tv_nsec + (offset_ms % 1000) * 1000000;
  time->tv_sec += offset_ms / 1000;
  if (ns < 0) ns += 1000000000, time->tv_sec -= 1;
  if (ns >= 1000000000) ns -= 1000000000, time->tv_sec += 1;
  time->tv_nsec = ns;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int result = (int)syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) move(time);
  return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}
