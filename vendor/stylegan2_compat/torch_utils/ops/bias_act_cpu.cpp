// bias_act on the CPU: one pass forward, one pass backward that also takes the sums.
#include <algorithm>
#include <vector>

#include "bias_act.h"
#include "parallel.h"

namespace {

constexpr int64_t PIECE = 16384;   // Elements of a piece of work: fits the second-level cache with all its tensors
constexpr int64_t LANES = 128;     // Rows shorter than this are repeated until they are not
constexpr int64_t STRIP = 4096;    // Pixels of one plane that a piece covers

template <class S> Numbers<S> numbers(const BiasAct& q, S clamp) { return {S(q.alpha), S(q.gain), clamp}; }

// The limit as it looks after rounding to T, since the backward pass compares with it.
template <class T> compute_t<T> rounded_clamp(double clamp) { return load(store<T>(compute_t<T>(clamp))); }

template <class T, int ACT, class S = compute_t<T>>
void forward_row(int64_t size, const T* __restrict__ x, const S* __restrict__ scale, const S* __restrict__ bias,
                 S noise, T* __restrict__ y, const Numbers<S> k) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i)
        y[i] = store<T>(forward_value<ACT>(S(load(x[i]) * scale[i] + (bias[i] + noise)), k));
}

template <class T, int ACT, class S = compute_t<T>>
void forward_strip(int64_t size, const T* __restrict__ x, S scale, S bias, const S* __restrict__ noise,
                   T* __restrict__ y, const Numbers<S> k) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i)
        y[i] = store<T>(forward_value<ACT>(S(load(x[i]) * scale + (bias + noise[i])), k));
}

// One element of the backward pass: the gradient by the activation's input.
template <class T, int ACT, class S = compute_t<T>>
inline S grad_value(T x, T y, T grad, S scale, S shift, const Numbers<S>& k) {
    if constexpr (from_output(ACT)) return load(grad) * backward_factor<ACT>(load(y), k);
    return load(grad) * backward_factor<ACT>(S(load(x) * scale + shift), k);
}

template <class T, int ACT, int SUMS, class S = compute_t<T>>
S backward_row(int64_t size, const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ grad,
               const S* __restrict__ scale, const S* __restrict__ bias, S noise, T* __restrict__ out,
               S* __restrict__ sum_scale, S* __restrict__ sum_bias, const Numbers<S> k) {
    S sum_noise = 0;
#pragma omp simd reduction(+ : sum_noise)
    for (int64_t i = 0; i < size; ++i) {
        const S g = grad_value<T, ACT>(x[i], y[i], grad[i], scale[i], bias[i] + noise, k);
        if constexpr (SUMS & SUM_SCALE) sum_scale[i] += g * load(x[i]);
        if constexpr (SUMS & SUM_BIAS) sum_bias[i] += g;
        if constexpr (SUMS & SUM_NOISE) sum_noise += g;
        out[i] = store<T>(g * scale[i]);
    }
    return sum_noise;
}

template <class T, int ACT, int SUMS, class S = compute_t<T>>
void backward_strip(int64_t size, const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ grad,
                    S scale, S bias, const S* __restrict__ noise, T* __restrict__ out, S& sum_scale, S& sum_bias,
                    S* __restrict__ sum_noise, const Numbers<S> k) {
    S by_scale = 0, by_bias = 0;
#pragma omp simd reduction(+ : by_scale, by_bias)
    for (int64_t i = 0; i < size; ++i) {
        const S g = grad_value<T, ACT>(x[i], y[i], grad[i], scale, bias + noise[i], k);
        if constexpr (SUMS & SUM_SCALE) by_scale += g * load(x[i]);
        if constexpr (SUMS & SUM_BIAS) by_bias += g;
        if constexpr (SUMS & SUM_NOISE) sum_noise[i] += g;
        out[i] = store<T>(g * scale);
    }
    sum_scale = by_scale;
    sum_bias = by_bias;
}

// How a tensor is cut into pieces, each a part of one sample: rows of all channels (channels-last), or strips of
// pixels of all channels. It depends on the shape alone, so sums do not depend on the number of threads.
struct Pieces {
    int64_t width;       // Channels-last: elements of a row, a multiple of the channels
    int64_t size;        // Elements (channels-last) or pixels of a piece
    int64_t per_sample;  // Pieces of a sample
    int64_t total;

    explicit Pieces(const BiasAct& q) {
        const int64_t repeats = q.noise || q.grad_noise ? 1 : std::max<int64_t>(1, LANES / q.channels);
        width = q.channels * repeats;
        size = q.channels_last ? std::max<int64_t>(1, PIECE / width) * width : STRIP;
        per_sample = ((q.channels_last ? q.pixels * q.channels : q.pixels) + size - 1) / size;
        total = q.n * per_sample;
    }
};

// A factor of sample n for each element of a row; null stands for a constant.
template <class S> std::vector<S> row_of(const void* values, int64_t offset, const BiasAct& q, int64_t width, S none) {
    std::vector<S> row(width, none);
    if (values)
        for (int64_t i = 0; i < width; i += q.channels)
            std::copy_n(static_cast<const S*>(values) + offset, q.channels, row.data() + i);
    return row;
}

template <class S> const S* noise_of(const BiasAct& q, int64_t n) {
    return q.noise ? static_cast<const S*>(q.noise) + (q.noise_per_sample ? n * q.pixels : 0) : nullptr;
}

template <class T, int ACT> void forward(const BiasAct& q, int threads) {
    using S = compute_t<T>;
    const Pieces pieces(q);
    const Numbers<S> k = numbers(q, rounded_clamp<T>(q.clamp));
    const std::vector<S> zeros(q.channels_last ? 0 : STRIP);
    parallel(pieces.total, threads, [&](int64_t piece) {
        const int64_t n = piece / pieces.per_sample, first = piece % pieces.per_sample * pieces.size;
        const int64_t sample = n * q.channels * q.pixels;
        const T* x = static_cast<const T*>(q.x) + sample;
        T* y = static_cast<T*>(q.out) + sample;
        const S* noise = noise_of<S>(q, n);
        if (q.channels_last) {
            const auto scale = row_of<S>(q.scale, n * q.channels, q, pieces.width, 1);
            const auto bias = row_of<S>(q.bias, 0, q, pieces.width, 0);
            const int64_t end = std::min(first + pieces.size, q.channels * q.pixels);
            for (int64_t i = first; i < end; i += pieces.width)
                forward_row<T, ACT>(std::min(pieces.width, end - i), x + i, scale.data(), bias.data(),
                                    noise ? noise[i / q.channels] : S(0), y + i, k);
            return;
        }
        const int64_t size = std::min(pieces.size, q.pixels - first);
        for (int64_t c = 0; c < q.channels; ++c) {
            const S scale = q.scale ? static_cast<const S*>(q.scale)[n * q.channels + c] : S(1);
            const S bias = q.bias ? static_cast<const S*>(q.bias)[c] : S(0);
            const int64_t i = c * q.pixels + first;
            forward_strip<T, ACT>(size, x + i, scale, bias, noise ? noise + first : zeros.data(), y + i, k);
        }
    });
}

// Add up what the pieces found: by_piece is [pieces, channels], out [groups, channels].
template <class S> void add_up(const std::vector<S>& by_piece, int64_t groups, int64_t channels, void* out) {
    if (!out || groups == 0) return;
    const int64_t per_group = int64_t(by_piece.size()) / channels / groups;
    std::vector<double> sums(channels);
    for (int64_t group = 0; group < groups; ++group) {
        std::fill(sums.begin(), sums.end(), 0.0);
        const S* part = by_piece.data() + group * per_group * channels;
        for (int64_t i = 0; i < per_group; ++i)
            for (int64_t c = 0; c < channels; ++c) sums[c] += part[i * channels + c];
        for (int64_t c = 0; c < channels; ++c) static_cast<S*>(out)[group * channels + c] = S(sums[c]);
    }
}

template <class T, int ACT, int SUMS> void backward(const BiasAct& q, int threads) {
    using S = compute_t<T>;
    const Pieces pieces(q);
    const Numbers<S> k = numbers(q, rounded_clamp<T>(q.clamp));
    const std::vector<S> zeros(q.channels_last ? 0 : STRIP);
    std::vector<S> by_scale(SUMS & SUM_SCALE ? pieces.total * q.channels : 0);
    std::vector<S> by_bias(SUMS & SUM_BIAS ? pieces.total * q.channels : 0);
    parallel(pieces.total, threads, [&](int64_t piece) {
        const int64_t n = piece / pieces.per_sample, first = piece % pieces.per_sample * pieces.size;
        const int64_t sample = n * q.channels * q.pixels;
        const T* grad = static_cast<const T*>(q.grad) + sample;
        // What is not needed is not read: any pointer does.
        const T* x = q.x ? static_cast<const T*>(q.x) + sample : grad;
        const T* y = q.y ? static_cast<const T*>(q.y) + sample : grad;
        T* out = static_cast<T*>(q.out) + sample;
        const S* noise = noise_of<S>(q, n);
        S* scale_sums = SUMS & SUM_SCALE ? by_scale.data() + piece * q.channels : nullptr;
        S* bias_sums = SUMS & SUM_BIAS ? by_bias.data() + piece * q.channels : nullptr;
        if (q.channels_last) {
            const auto scale = row_of<S>(q.scale, n * q.channels, q, pieces.width, 1);
            const auto bias = row_of<S>(q.bias, 0, q, pieces.width, 0);
            std::vector<S> row_scale(SUMS & SUM_SCALE ? pieces.width : 0);
            std::vector<S> row_bias(SUMS & SUM_BIAS ? pieces.width : 0);
            const int64_t end = std::min(first + pieces.size, q.channels * q.pixels);
            for (int64_t i = first; i < end; i += pieces.width) {
                const S sum = backward_row<T, ACT, SUMS>(
                    std::min(pieces.width, end - i), x + i, y + i, grad + i, scale.data(), bias.data(),
                    noise ? noise[i / q.channels] : S(0), out + i, row_scale.data(), row_bias.data(), k);
                if (SUMS & SUM_NOISE && q.grad_noise)
                    static_cast<S*>(q.grad_noise)[n * q.pixels + i / q.channels] = sum;
            }
            for (int64_t i = 0; i < pieces.width; ++i) {
                if (SUMS & SUM_SCALE) scale_sums[i % q.channels] += row_scale[i];
                if (SUMS & SUM_BIAS) bias_sums[i % q.channels] += row_bias[i];
            }
            return;
        }
        const int64_t size = std::min(pieces.size, q.pixels - first);
        std::vector<S> unwanted(SUMS & SUM_NOISE && !q.grad_noise ? size : 0);
        S* noise_sums = q.grad_noise ? static_cast<S*>(q.grad_noise) + n * q.pixels + first : unwanted.data();
        if (SUMS & SUM_NOISE) std::fill_n(noise_sums, size, S(0));
        for (int64_t c = 0; c < q.channels; ++c) {
            const S scale = q.scale ? static_cast<const S*>(q.scale)[n * q.channels + c] : S(1);
            const S bias = q.bias ? static_cast<const S*>(q.bias)[c] : S(0);
            const int64_t i = c * q.pixels + first;
            S sum_scale, sum_bias;
            backward_strip<T, ACT, SUMS>(size, x + i, y + i, grad + i, scale, bias,
                                         noise ? noise + first : zeros.data(), out + i, sum_scale, sum_bias,
                                         noise_sums, k);
            if (SUMS & SUM_SCALE) scale_sums[c] = sum_scale;
            if (SUMS & SUM_BIAS) bias_sums[c] = sum_bias;
        }
    });
    if (SUMS & SUM_SCALE) add_up(by_scale, q.n, q.channels, q.grad_scale);
    if (SUMS & SUM_BIAS) add_up(by_bias, 1, q.channels, q.grad_bias);
}

using Kernel = void (*)(const BiasAct&, int);

template <class T> Kernel forward_kernel(int act) {
    static const Kernel kernels[] = {forward<T, LINEAR>, forward<T, RELU>, forward<T, LRELU>,
                                     forward<T, TANH>, forward<T, SIGMOID>, forward<T, ELU>,
                                     forward<T, SELU>, forward<T, SOFTPLUS>, forward<T, SWISH>};
    return kernels[act - LINEAR];
}

template <class T, int ACT> Kernel backward_kernel_for(int sums) {
    if (sums == NO_SUMS) return backward<T, ACT, NO_SUMS>;
    if (sums == SUM_BIAS) return backward<T, ACT, SUM_BIAS>;
    if (sums == SUM_SCALE) return backward<T, ACT, SUM_SCALE>;
    return backward<T, ACT, ALL_SUMS>;
}

template <class T> Kernel backward_kernel(int act, int sums) {
    // The rarer activations have one kernel each, which may take sums that nobody asked for.
    static const Kernel kernels[] = {backward<T, TANH, ALL_SUMS>, backward<T, SIGMOID, ALL_SUMS>,
                                     backward<T, ELU, ALL_SUMS>, backward<T, SELU, ALL_SUMS>,
                                     backward<T, SOFTPLUS, ALL_SUMS>, backward<T, SWISH, ALL_SUMS>};
    if (act == LINEAR) return backward_kernel_for<T, LINEAR>(sums);
    if (act == LRELU) return backward_kernel_for<T, LRELU>(sums);
    return act == RELU ? backward<T, RELU, ALL_SUMS> : kernels[act - TANH];
}

}  // namespace

// Error code as of CUDA: never one here.
EXPORT int bias_act_forward(const BiasAct* q, int dtype, int act, int threads) {
    const Kernel kernel = dtype == FLOAT32   ? forward_kernel<float>(act)
                          : dtype == FLOAT64 ? forward_kernel<double>(act)
                                             : forward_kernel<bfloat16>(act);
    kernel(*q, threads);
    return 0;
}

EXPORT int bias_act_backward(const BiasAct* q, int dtype, int act, int sums, int threads) {
    const Kernel kernel = dtype == FLOAT32   ? backward_kernel<float>(act, sums)
                          : dtype == FLOAT64 ? backward_kernel<double>(act, sums)
                                             : backward_kernel<bfloat16>(act, sums);
    kernel(*q, threads);
    return 0;
}
