// Loops over independent pieces of work on the CPU, and their memory.
#pragma once
#include <cstdint>

// Pieces are numbered in memory order; each thread takes one run of them.
template <class Body> void parallel(int64_t pieces, int threads, const Body& body) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && pieces > 1)
    for (int64_t piece = 0; piece < pieces; ++piece) body(piece);
}

// Ask for memory before it is needed; any address may be asked for.
inline void fetch(const void* address) {
#ifdef __GNUC__
    __builtin_prefetch(address);
#endif
}
