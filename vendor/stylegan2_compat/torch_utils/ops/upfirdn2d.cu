// upfirdn2d on CUDA: one thread for each element of the result.
#include "upfirdn2d.h"

namespace {

constexpr int THREADS = 256;
constexpr int64_t MAX_BLOCKS = 1 << 20;

template <class T> __global__ void resample(Resampling q, int64_t total) {
    using S = compute_t<T>;
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
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
}

template <class T> int run(const Resampling& q, cudaStream_t stream) {
    const int64_t total = q.images * q.depth * q.axis_x.out_size * q.axis_y.out_size;
    const int64_t blocks = (total + THREADS - 1) / THREADS;
    const int grid = int(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
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
