// What the CUDA sources share: packs of neighbouring elements, and quick division of indices.
#pragma once
#include <initializer_list>

#include "portable.h"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

constexpr int THREADS = 256;
constexpr int64_t MAX_INDEX = int64_t(1) << 31;  // Divider<uint32_t> is right below it.

// N elements that are read or written at once; at most 16 bytes go at a time, so no more is asked of their address.
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T v[N];
};

template <class T> constexpr int PACK = 16 / sizeof(T);  // Elements of 16 bytes

template <class T, int N> SHARED Pack<T, N> load_pack(const void* base, int64_t element) {
    return *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(base) + element);
}

template <class T, int N> SHARED void store_pack(void* base, int64_t element, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(base) + element) = pack;
}

inline bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

// Division by a number that is the same for all threads.
template <class I> struct Divider {
    I by;

    explicit Divider(int64_t number) : by(I(number)) {}
    SHARED I quotient(I i) const { return i / by; }
};

// With a multiplication, for i < 2^31 (Granlund and Montgomery 1994).
template <> struct Divider<uint32_t> {
    uint32_t by, factor, shift;

    explicit Divider(int64_t number) : by(uint32_t(number)), shift(0) {
        while ((uint64_t(1) << shift) < by) ++shift;
        factor = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - by)) / by + 1);
    }
    SHARED uint32_t quotient(uint32_t i) const {
        return (uint32_t((uint64_t(i) * factor) >> 32) + i) >> shift;
    }
};

// Splits off the last axis of an index: returns the place along it, and leaves the rest.
template <class I> SHARED I pop(I& index, const Divider<I>& size) {
    const I rest = size.quotient(index), place = index - rest * size.by;
    index = rest;
    return place;
}

inline int blocks_of(int64_t threads) { return int((threads + THREADS - 1) / THREADS); }
