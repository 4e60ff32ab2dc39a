// upfirdn2d on CUDA. Filters of 4x4 taps, which networks use, have a kernel of their own; another is for all the rest.
#include "packs.h"
#include "upfirdn2d.h"

namespace {

constexpr int TAPS = 4;

// Any filter and factors: one thread for each element of the result.
template <class T> __global__ void __launch_bounds__(THREADS) resample(Resampling q, int64_t total) {
    using S = compute_t<T>;
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total) return;
    const int64_t channel = i % q.depth, pixel = i / q.depth;
    const Reach rx = reach(q.axis_x, pixel % q.axis_x.out_size);
    const Reach ry = reach(q.axis_y, pixel / q.axis_x.out_size % q.axis_y.out_size);
    const int64_t image = pixel / (q.axis_x.out_size * q.axis_y.out_size);
    S sum = 0;
    for (int row = 0; row < ry.count; ++row) {
        const int64_t y = ry.pixel + row;
        if (y < 0 || y >= q.axis_y.size) continue;
        const T* line = static_cast<const T*>(q.x) + (image * q.axis_y.size + y) * q.axis_x.size * q.depth + channel;
        for (int column = 0; column < rx.count; ++column) {
            const int64_t x = rx.pixel + column;
            if (x < 0 || x >= q.axis_x.size) continue;
            sum += S(tap_at(q, ry.tap + row * q.axis_y.up, rx.tap + column * q.axis_x.up)) * load(line[x * q.depth]);
        }
    }
    static_cast<T*>(q.out)[i] = store<T>(S(sum * S(q.gain)));
}

// 4x4 taps, the same factors for both axes: N channels of ROWS pixels below one another for each thread.
template <int UP, int DOWN, int ROWS> struct Window {
    static constexpr int IN_ROWS = UP == 1 ? (ROWS - 1) * DOWN + TAPS : ROWS / 2 + 2;
    static constexpr int IN_COLUMNS = UP == 1 ? TAPS : 2;

    // Tap of the result's row r that meets input row j, both counted from the window's first; -1 if none does.
    SHARED static constexpr int tap(int r, int j) {
        const int t = UP == 1 ? j - r * DOWN : (r & 1) + 2 * (j - (r + 1) / 2);
        return t >= 0 && t < TAPS ? t : -1;
    }
};

struct Threads {
    Divider<uint32_t> packs, columns, groups;  // Of channels, and of rows
    uint32_t total;
    int skipped;  // Rows that the first group begins above the image, so that every group begins in the same phase
};

template <class T, int N, int UP, int DOWN, int ROWS>
__global__ void __launch_bounds__(THREADS) resample4(Resampling q, Threads threads) {
    using S = compute_t<T>;
    using W = Window<UP, DOWN, ROWS>;
    uint32_t index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= threads.total) return;
    const int channel = int(pop(index, threads.packs)) * N, column = int(pop(index, threads.columns));
    const int first_row = int(pop(index, threads.groups)) * ROWS - threads.skipped;
    const int height = int(q.axis_y.size), width = int(q.axis_x.size), depth = int(q.depth);
    const int position_x = column * DOWN - q.axis_x.pad, position_y = first_row * DOWN - q.axis_y.pad;
    const int odd = UP == 1 ? 0 : position_x & 1;
    const int left = UP == 1 ? position_x : (position_x + odd) >> 1, top = UP == 1 ? position_y : position_y >> 1;

    S taps[TAPS][W::IN_COLUMNS];
    UNROLL for (int t = 0; t < TAPS; ++t)
        UNROLL for (int c = 0; c < W::IN_COLUMNS; ++c)
            taps[t][c] = S(tap_at(q, t, UP == 1 ? c : odd + 2 * c)) * S(q.gain);
    S sums[ROWS][N] = {};
    const T* image = static_cast<const T*>(q.x) + int64_t(index) * height * width * depth + channel;
    UNROLL for (int j = 0; j < W::IN_ROWS; ++j) {
        UNROLL for (int c = 0; c < W::IN_COLUMNS; ++c) {
            const int y = top + j, x = left + c;
            Pack<T, N> pack = {};
            if (uint32_t(y) < uint32_t(height) && uint32_t(x) < uint32_t(width))
                pack = load_pack<T, N>(image, (y * width + x) * depth);
            UNROLL for (int k = 0; k < N; ++k) {
                const S value = load(pack.v[k]);
                UNROLL for (int r = 0; r < ROWS; ++r)
                    if (W::tap(r, j) >= 0) sums[r][k] += taps[W::tap(r, j)][c] * value;
            }
        }
    }
    const int out_height = int(q.axis_y.out_size), out_width = int(q.axis_x.out_size);
    const int64_t out_image = int64_t(index) * out_height * out_width * depth;
    UNROLL for (int r = 0; r < ROWS; ++r) {
        if (uint32_t(first_row + r) >= uint32_t(out_height)) continue;
        Pack<T, N> pack;
        UNROLL for (int k = 0; k < N; ++k) pack.v[k] = store<T>(sums[r][k]);
        store_pack(q.out, out_image + int64_t((first_row + r) * out_width + column) * depth + channel, pack);
    }
}

template <class T, int N, int UP, int DOWN> bool launch4(const Resampling& q, cudaStream_t stream) {
    constexpr int ROWS = N == 1 ? 4 : 2;
    const int skipped = UP == 1 ? 0 : q.axis_y.pad & 1;
    const int64_t groups = (q.axis_y.out_size + skipped + ROWS - 1) / ROWS, packs = q.depth / N;
    const int64_t total = q.images * groups * q.axis_x.out_size * packs;
    if (total >= MAX_INDEX) return false;
    const Threads threads{Divider<uint32_t>(packs), Divider<uint32_t>(q.axis_x.out_size), Divider<uint32_t>(groups),
                          uint32_t(total), skipped};
    const int grid = blocks_of(total);
    resample4<T, N, UP, DOWN, ROWS><<<grid, THREADS, 0, stream>>>(q, threads);
    return true;
}

template <class T, int N> bool choose4(const Resampling& q, cudaStream_t stream) {
    if (q.axis_x.up == 2) return launch4<T, N, 2, 1>(q, stream);
    if (q.axis_x.down == 2) return launch4<T, N, 1, 2>(q, stream);
    return launch4<T, N, 1, 1>(q, stream);
}

// Whether resample4 is for it: 4x4 taps, one factor of 1 and the other of 1 or 2, images below 2^31 elements.
template <class T> bool run4(const Resampling& q, cudaStream_t stream) {
    const Axis &x = q.axis_x, &y = q.axis_y;
    const bool factors = x.up == y.up && x.down == y.down && x.up * x.down <= 2;
    const int64_t largest = (x.size + x.out_size + TAPS) * (y.size + y.out_size + TAPS) * q.depth;
    if (!factors || x.taps != TAPS || y.taps != TAPS || largest >= MAX_INDEX) return false;
    if (q.depth % PACK<T> == 0 && aligned(q.x) && aligned(q.out)) return choose4<T, PACK<T>>(q, stream);
    return choose4<T, 1>(q, stream);
}
template <> bool run4<double>(const Resampling&, cudaStream_t) { return false; }

template <class T> int run(const Resampling& q, cudaStream_t stream) {
    if (run4<T>(q, stream)) return cudaGetLastError();
    const int64_t total = q.images * q.depth * q.axis_x.out_size * q.axis_y.out_size;
    const int grid = blocks_of(total);
    resample<T><<<grid, THREADS, 0, stream>>>(q, total);
    return cudaGetLastError();
}

}  // namespace

EXPORT int upfirdn2d(const Resampling* q, int dtype, cudaStream_t stream) {
    switch (dtype) {
        case FLOAT64: return run<double>(*q, stream);
        case BFLOAT16: return run<bfloat16>(*q, stream);
#ifdef __CUDACC__
        case FLOAT16: return run<__half>(*q, stream);
#endif
        default: return run<float>(*q, stream);
    }
}
