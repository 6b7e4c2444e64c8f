// A library preloaded into the process that simulates one seed. Below the seams two things are left that
// are not the same twice: tokio wakes the receivers of a `watch` in an order drawn from the seed of
// Rust's hash maps, and that comes from getrandom(2). Here every call gives bytes that follow from
// SIMULATE_SEED alone, whoever calls and however often, so that RocksDB's own threads disturb nothing.
//
// It also makes syncing free: what a simulated power cut leaves is decided by the simulation, and its
// files end with the process.
//
// Build: cc -shared -fPIC -O1 -o getrandom.so getrandom.c
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

// SplitMix64 (Steele, Lea, Flood 2014).
static uint64_t next(uint64_t *state) {
  uint64_t mixed = (*state += 0x9e3779b97f4a7c15u);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return mixed ^ (mixed >> 31);
}

ssize_t getrandom(void *buffer, size_t length, unsigned flags) {
  (void)flags;
  const char *seed = getenv("SIMULATE_SEED");
  uint64_t state = seed ? strtoull(seed, NULL, 10) : 0;
  unsigned char *bytes = buffer;
  for (size_t i = 0; i < length; i++) bytes[i] = (unsigned char)(next(&state) >> 56);
  return (ssize_t)length;
}

int fsync(int descriptor) {
  (void)descriptor;
  return 0;
}

int fdatasync(int descriptor) {
  (void)descriptor;
  return 0;
}
