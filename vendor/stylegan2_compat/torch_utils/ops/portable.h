// Number formats and compiler differences: what the CPU and the CUDA sources share.
// An element is stored in T and computed in compute_t<T>.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define SHARED __host__ __device__ __forceinline__
#else
#define SHARED inline
#endif

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

enum Dtype { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

struct bfloat16 {
    uint16_t bits;
};

template <class T> struct Compute { using type = float; };
template <> struct Compute<double> { using type = double; };
template <class T> using compute_t = typename Compute<T>::type;

SHARED float load(float v) { return v; }
SHARED double load(double v) { return v; }

SHARED float load(bfloat16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

template <class T> SHARED T store(compute_t<T> v) { return v; }

// Round to nearest, ties to even; NaN stays NaN.
template <> SHARED bfloat16 store<bfloat16>(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return bfloat16{uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}

#ifdef __CUDACC__
SHARED float load(__half v) { return __half2float(v); }
template <> SHARED __half store<__half>(float v) { return __float2half_rn(v); }
#endif
