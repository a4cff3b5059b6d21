/* Preloaded into the simulation: what the kernel calls random follows from the seed, so that hash maps, runtimes and
 * generators that were seeded from it do the same in every run. Each thread draws from a sequence of its own. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

static __thread uint64_t state;
static __thread int begun;

static uint64_t draw(void) {
    if (!begun) {
        const char *seed = getenv("SIM_SEED");
        state = seed ? strtoull(seed, NULL, 10) : 0;
        begun = 1;
    }
    uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    for (size_t at = 0; at < length; at++)
        ((unsigned char *)buffer)[at] = (unsigned char)draw();
    return (ssize_t)length;
}

int getentropy(void *buffer, size_t length) {
    getrandom(buffer, length, 0);
    return 0;
}
