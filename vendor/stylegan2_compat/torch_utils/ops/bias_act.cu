// bias_act on CUDA: one thread for each pack of elements. Sums for scale, noise and bias are left to PyTorch.
#include "bias_act.h"
#include "packs.h"

namespace {

constexpr int ANY = 0;  // In place of an activation: it is chosen when running.

template <int ACT, class S> SHARED S forward_of(int act, S t, const Numbers<S>& k) {
    if constexpr (ACT != ANY) return forward_value<ACT>(t, k);
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

template <int ACT, class S> SHARED S factor_of(int act, S t_or_y, const Numbers<S>& k) {
    if constexpr (ACT != ANY) return backward_factor<ACT>(t_or_y, k);
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

// The tensor as [n, outer, inner]: outer, inner = channels, pixels, or the other way round if channels-last. N elements
// along `inner` make a pack.
template <class I> struct Shape {
    Divider<I> packs, outer;
    I total;  // Packs of the tensor
    int64_t inner;

    Shape(const BiasAct& q, int size)
        : packs((q.channels_last ? q.channels : q.pixels) / size),
          outer(q.channels_last ? q.pixels : q.channels),
          total(I(q.n * q.channels * q.pixels / size)),
          inner(q.channels_last ? q.channels : q.pixels) {}
};

// Scale, and noise plus bias, of a pack.
template <class S, int N> struct Factors {
    S scale[N], shift[N];

    template <class I> SHARED Factors(const BiasAct& q, const Shape<I>& shape, I index) {
        const int64_t place = int64_t(pop(index, shape.packs)) * N, row = index;
        const int64_t outer = pop(index, shape.outer), n = index;
        // What depends on `inner` is read as a pack, the rest is the same for all of it.
        const void *row_shift, *pack_shift;
        int64_t row_at, pack_at;
        if (q.channels_last) {
            row_shift = q.noise, row_at = q.noise_per_sample ? row : outer;
            pack_shift = q.bias, pack_at = place;
        } else {
            row_shift = q.bias, row_at = outer;
            pack_shift = q.noise, pack_at = (q.noise_per_sample ? n * shape.inner : 0) + place;
        }
        const S same = row_shift ? static_cast<const S*>(row_shift)[row_at] : S(0);
        fill(shift, S(0));
        if (pack_shift) copy(shift, load_pack<S, N>(pack_shift, pack_at));
        UNROLL for (int k = 0; k < N; ++k) shift[k] += same;
        fill(scale, S(1));
        if (q.scale && q.channels_last) copy(scale, load_pack<S, N>(q.scale, n * shape.inner + place));
        else if (q.scale) fill(scale, static_cast<const S*>(q.scale)[row]);
    }

    SHARED static void fill(S (&to)[N], S value) {
        UNROLL for (int k = 0; k < N; ++k) to[k] = value;
    }
    SHARED static void copy(S (&to)[N], const Pack<S, N>& from) {
        UNROLL for (int k = 0; k < N; ++k) to[k] = from.v[k];
    }
};

template <class T> SHARED Numbers<compute_t<T>> numbers(const BiasAct& q) {
    using S = compute_t<T>;
    // The limit as it looks after rounding to T, since the backward pass compares with it.
    return {S(q.alpha), S(q.gain), load(store<T>(S(q.clamp)))};
}

template <class T, int N, int ACT, class I>
__global__ void __launch_bounds__(THREADS) forward(BiasAct q, int act, Shape<I> shape) {
    using S = compute_t<T>;
    const I index = I(blockIdx.x) * THREADS + threadIdx.x;
    if (index >= shape.total) return;
    Pack<T, N> pack = load_pack<T, N>(q.x, int64_t(index) * N);
    const Factors<S, N> f(q, shape, index);
    const Numbers<S> k = numbers<T>(q);
    UNROLL for (int i = 0; i < N; ++i)
        pack.v[i] = store<T>(forward_of<ACT>(act, load(pack.v[i]) * f.scale[i] + f.shift[i], k));
    store_pack(q.out, int64_t(index) * N, pack);
}

template <class T, int N, int ACT, class I>
__global__ void __launch_bounds__(THREADS) backward(BiasAct q, int act, Shape<I> shape) {
    using S = compute_t<T>;
    const I index = I(blockIdx.x) * THREADS + threadIdx.x;
    if (index >= shape.total) return;
    const int64_t first = int64_t(index) * N;
    Pack<T, N> grad = load_pack<T, N>(q.grad, first);
    const bool by_output = from_output(act);
    const void* known = by_output ? q.y : q.x;
    Pack<T, N> pack = {};
    if (known) pack = load_pack<T, N>(known, first);
    const Factors<S, N> f(q, shape, index);
    const Numbers<S> k = numbers<T>(q);
    UNROLL for (int i = 0; i < N; ++i) {
        const S value = load(pack.v[i]);
        const S factor = factor_of<ACT>(act, by_output ? value : value * f.scale[i] + f.shift[i], k);
        grad.v[i] = store<T>(load(grad.v[i]) * factor * f.scale[i]);
    }
    store_pack(q.out, first, grad);
}

template <class T, int N, int ACT, class I> int launch(bool is_forward, const BiasAct& q, int act, cudaStream_t stream) {
    const Shape<I> shape(q, N);
    const int grid = blocks_of(shape.total);
    if (is_forward) forward<T, N, ACT, I><<<grid, THREADS, 0, stream>>>(q, act, shape);
    else backward<T, N, ACT, I><<<grid, THREADS, 0, stream>>>(q, act, shape);
    return cudaGetLastError();
}

template <class T> int run(bool is_forward, const BiasAct& q, int act, cudaStream_t stream) {
    if (q.n * q.channels * q.pixels >= MAX_INDEX) return launch<T, 1, ANY, int64_t>(is_forward, q, act, stream);
    bool packs = (q.channels_last ? q.channels : q.pixels) % PACK<T> == 0;
    for (const void* address : {q.x, q.y, q.grad, q.scale, q.noise, q.bias, static_cast<const void*>(q.out)})
        packs = packs && aligned(address);
    if (!packs) return launch<T, 1, ANY, uint32_t>(is_forward, q, act, stream);
    if (act == LRELU) return launch<T, PACK<T>, LRELU, uint32_t>(is_forward, q, act, stream);
    if (act == LINEAR) return launch<T, PACK<T>, LINEAR, uint32_t>(is_forward, q, act, stream);
    return launch<T, PACK<T>, ANY, uint32_t>(is_forward, q, act, stream);
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
