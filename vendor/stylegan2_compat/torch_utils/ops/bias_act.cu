// bias_act on CUDA: one thread for each element. Sums for scale, noise and bias are left to PyTorch.
#include "bias_act.h"

namespace {

constexpr int THREADS = 256;
constexpr int64_t MAX_BLOCKS = 1 << 20;

// The activation is the same for all threads, so choosing it when running costs nothing beside the memory access.
template <class S> SHARED S forward_any(int act, S t, const Numbers<S>& k) {
    switch (act) {
        case RELU: return forward_value<RELU>(t, k);
        case LRELU: return forward_value<LRELU>(t, k);
        case TANH: return forward_value<TANH>(t, k);
        case SIGMOID: return forward_value<SIGMOID>(t, k);
        case ELU: return forward_value<ELU>(t, k);
        case SELU: return forward_value<SELU>(t, k);
        case SOFTPLUS: return forward_value<SOFTPLUS>(t, k);
        case SWISH: return forward_value<SWISH>(t, k);
        default: return forward_value<LINEAR>(t, k);
    }
}

template <class S> SHARED S factor_any(int act, S t_or_y, const Numbers<S>& k) {
    switch (act) {
        case RELU: return backward_factor<RELU>(t_or_y, k);
        case LRELU: return backward_factor<LRELU>(t_or_y, k);
        case TANH: return backward_factor<TANH>(t_or_y, k);
        case SIGMOID: return backward_factor<SIGMOID>(t_or_y, k);
        case ELU: return backward_factor<ELU>(t_or_y, k);
        case SELU: return backward_factor<SELU>(t_or_y, k);
        case SOFTPLUS: return backward_factor<SOFTPLUS>(t_or_y, k);
        case SWISH: return backward_factor<SWISH>(t_or_y, k);
        default: return backward_factor<LINEAR>(t_or_y, k);
    }
}

// Scale, and noise plus bias, of element i.
template <class S> struct Factors {
    S scale, shift;

    SHARED Factors(const BiasAct& q, int64_t i) {
        const int64_t channel = q.channels_last ? i % q.channels : i / q.pixels % q.channels;
        const int64_t pixel = q.channels_last ? i / q.channels % q.pixels : i % q.pixels;
        const int64_t n = i / (q.channels * q.pixels);
        scale = q.scale ? static_cast<const S*>(q.scale)[n * q.channels + channel] : S(1);
        shift = q.bias ? static_cast<const S*>(q.bias)[channel] : S(0);
        if (q.noise) shift += static_cast<const S*>(q.noise)[q.noise_per_sample ? n * q.pixels + pixel : pixel];
    }
};

template <class T> SHARED Numbers<compute_t<T>> numbers(const BiasAct& q) {
    using S = compute_t<T>;
    // The limit as it looks after rounding to T, since the backward pass compares with it.
    return {S(q.alpha), S(q.gain), load(store<T>(S(q.clamp)))};
}

template <class T> __global__ void forward(BiasAct q, int act, int64_t total) {
    using S = compute_t<T>;
    const Numbers<S> k = numbers<T>(q);
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
        const Factors<S> f(q, i);
        const S t = load(static_cast<const T*>(q.x)[i]) * f.scale + f.shift;
        static_cast<T*>(q.out)[i] = store<T>(forward_any<S>(act, t, k));
    }
}

template <class T> __global__ void backward(BiasAct q, int act, int64_t total) {
    using S = compute_t<T>;
    const Numbers<S> k = numbers<T>(q);
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
        const Factors<S> f(q, i);
        const S grad = load(static_cast<const T*>(q.grad)[i]);
        S t_or_y = 0;
        if (!from_output(act)) t_or_y = load(static_cast<const T*>(q.x)[i]) * f.scale + f.shift;
        else if (q.y) t_or_y = load(static_cast<const T*>(q.y)[i]);
        static_cast<T*>(q.out)[i] = store<T>(grad * factor_any<S>(act, t_or_y, k) * f.scale);
    }
}

template <class T> int run(bool is_forward, const BiasAct& q, int act, cudaStream_t stream) {
    const int64_t total = q.n * q.channels * q.pixels, blocks = (total + THREADS - 1) / THREADS;
    const int grid = int(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
    if (is_forward) forward<T><<<grid, THREADS, 0, stream>>>(q, act, total);
    else backward<T><<<grid, THREADS, 0, stream>>>(q, act, total);
    return cudaGetLastError();
}

int run(bool is_forward, const BiasAct& q, int dtype, int act, cudaStream_t stream) {
    switch (dtype) {
        case FLOAT64: return run<double>(is_forward, q, act, stream);
        case BFLOAT16: return run<bfloat16>(is_forward, q, act, stream);
#ifdef __CUDACC__
        case FLOAT16: return run<__half>(is_forward, q, act, stream);
#endif
        default: return run<float>(is_forward, q, act, stream);
    }
}

}  // namespace

EXPORT int bias_act_forward(const BiasAct* q, int dtype, int act, cudaStream_t stream) {
    return run(true, *q, dtype, act, stream);
}

EXPORT int bias_act_backward(const BiasAct* q, int dtype, int act, int sums, cudaStream_t stream) {
    return sums == NO_SUMS ? run(false, *q, dtype, act, stream) : int(cudaErrorNotSupported);
}
