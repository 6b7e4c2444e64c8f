// A library preloaded into a real node by the fault tests. It needs no hook in the product:
//
//  * it notes how much of each file was synced, and which names a directory held when it was synced,
//    and keeps files whose names are removed; so that a test can cut the power: kill the node, then
//    make every directory and file what a disk would surely still hold (RocksDB's files only grow);
//  * it moves the wall clock, and only that one, by an offset that a test may change at any time.
//
// CONCLAVE_TEST_SYNC_LOG      file to which each successful sync appends a line:
//                               F device inode birth bytes
//                               D device inode birth /name/device/inode/birth/name/...
// CONCLAVE_TEST_REMOVED       folder, on the same file system, that keeps each regular file whose
//                             name was removed or replaced, as device-inode-birth
// CONCLAVE_TEST_NO_DIRECTORY_SYNC  set: syncs of directories are not noted, as if never made
// CONCLAVE_TEST_CLOCK_OFFSET  file holding the wall clock's offset in milliseconds, as text
//
// Build: cc -shared -fPIC -O1 -o faults.so faults.c
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// Inodes are used again, births are not: together they name one file.
struct identity {
  uint64_t device;
  uint64_t inode;
  uint64_t birth_ns;
};

static int look(int directory, const char *path, struct statx *found, struct identity *identity) {
  unsigned wanted = STATX_TYPE | STATX_INO | STATX_SIZE | STATX_BTIME;
  if (statx(directory, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, wanted, found) != 0) return -1;
  identity->device = makedev(found->stx_dev_major, found->stx_dev_minor);
  identity->inode = found->stx_ino;
  identity->birth_ns = (uint64_t)found->stx_btime.tv_sec * 1000000000u + found->stx_btime.tv_nsec;
  return 0;
}

static int opened_once(int *descriptor, const char *variable, int flags) {
  if (*descriptor == -2) {
    const char *path = getenv(variable);
    *descriptor = path ? open(path, flags | O_CLOEXEC, 0600) : -1;
  }
  return *descriptor;
}

static int sync_log(void) {
  static int descriptor = -2;
  return opened_once(&descriptor, "CONCLAVE_TEST_SYNC_LOG", O_WRONLY | O_APPEND | O_CREAT);
}

static int removed(void) {
  static int descriptor = -2;
  return opened_once(&descriptor, "CONCLAVE_TEST_REMOVED", O_RDONLY | O_DIRECTORY);
}

// What is not noted would be taken for lost.
static _Noreturn void give_up(const char *why) {
  dprintf(STDERR_FILENO, "faults.so: %s: %s\n", why, strerror(errno));
  abort();
}

// The names in a directory, each with what it stands for. The caller frees the text.
static char *names_in(int descriptor) {
  char *text = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&text, &length);
  int again = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *directory = again >= 0 ? fdopendir(again) : NULL;
  if (!out || !directory) give_up("a directory's names cannot be read");
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    struct statx found;
    struct identity identity;
    // A name that goes away meanwhile is not surely covered.
    if (look(descriptor, entry->d_name, &found, &identity) != 0) continue;
    fprintf(out, "/%s/%" PRIu64 "/%" PRIu64 "/%" PRIu64, entry->d_name, identity.device, identity.inode,
            identity.birth_ns);
  }
  closedir(directory);
  fclose(out);
  return text;
}

// Size and names are taken before the sync: only what was there by then is surely covered by it. A
// record stands between a line's begin and ";": a kill may tear it, and the next record follows.
static int noted_sync(int descriptor, long call) {
  struct statx before;
  struct identity identity;
  char *line = NULL;
  if (sync_log() >= 0 && look(descriptor, "", &before, &identity) == 0) {
    int length = 0;
    if (S_ISREG(before.stx_mode)) {
      length = asprintf(&line, "\nF %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 ";", identity.device,
                        identity.inode, identity.birth_ns, (uint64_t)before.stx_size);
    } else if (S_ISDIR(before.stx_mode) && !getenv("CONCLAVE_TEST_NO_DIRECTORY_SYNC")) {
      char *names = names_in(descriptor);
      length = asprintf(&line, "\nD %" PRIu64 " %" PRIu64 " %" PRIu64 " %s;", identity.device,
                        identity.inode, identity.birth_ns, names);
      free(names);
    }
    if (length < 0) give_up("no memory");
  }
  int result = (int)syscall(call, descriptor);
  if (result == 0 && line) {
    size_t length = strlen(line);
    if (write(sync_log(), line, length) != (ssize_t)length) give_up("a sync cannot be noted");
  }
  free(line);
  return result;
}

int fsync(int descriptor) { return noted_sync(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return noted_sync(descriptor, SYS_fdatasync); }

// Until the directory is synced, a power cut may bring a removed name back.
static void keep(int directory, const char *path) {
  struct statx found;
  struct identity identity;
  if (removed() < 0 || look(directory, path, &found, &identity) != 0 || !S_ISREG(found.stx_mode)) return;
  char name[72];
  snprintf(name, sizeof name, "%" PRIu64 "-%" PRIu64 "-%" PRIu64, identity.device, identity.inode,
           identity.birth_ns);
  // It may be kept already: a file can have several names.
  syscall(SYS_linkat, directory, path, removed(), name, 0);
}

int unlinkat(int directory, const char *path, int flags) {
  if (!(flags & AT_REMOVEDIR)) keep(directory, path);
  return (int)syscall(SYS_unlinkat, directory, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
  keep(to_directory, to);
  return (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
  return renameat2(from_directory, from, to_directory, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

static int64_t clock_offset_ms(void) {
  static int descriptor = -2;
  if (opened_once(&descriptor, "CONCLAVE_TEST_CLOCK_OFFSET", O_RDONLY) < 0) return 0;
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
