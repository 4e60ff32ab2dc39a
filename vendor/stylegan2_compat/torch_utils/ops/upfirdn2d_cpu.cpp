// upfirdn2d on the CPU. A filter is a sum of products of a column and a row (one product for the usual filters), so
// each output row is a sum of input rows, which fits the first-level cache, filtered along x.
#include "parallel.h"
#include "upfirdn2d_taps.h"

namespace {

constexpr int64_t BLOCK_ROWS = 8;      // Output rows of a piece of work, channels-last
constexpr int64_t AHEAD_BYTES = 4096;  // How far before its use memory is fetched

// Up to CHUNK input rows, weighted and added up.
template <class T, int COUNT, bool ADD, class S = compute_t<T>>
void add_rows(int64_t size, const T* const* rows, const S* weights, S* __restrict__ out) {
    const T *__restrict__ a = rows[0], *__restrict__ b = rows[COUNT > 1], *__restrict__ c = rows[COUNT > 2 ? 2 : 0],
            *__restrict__ d = rows[COUNT > 3 ? 3 : 0];
    const S wa = weights[0], wb = weights[COUNT > 1], wc = weights[COUNT > 2 ? 2 : 0], wd = weights[COUNT > 3 ? 3 : 0];
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
        S v = wa * load(a[i]);
        if constexpr (COUNT > 1) v += wb * load(b[i]);
        if constexpr (COUNT > 2) v += wc * load(c[i]);
        if constexpr (COUNT > 3) v += wd * load(d[i]);
        out[i] = ADD ? out[i] + v : v;
    }
}

template <class T, bool ADD, class S = compute_t<T>>
void add_rows(int count, int64_t size, const T* const* rows, const S* weights, S* out) {
    if (count == 1) return add_rows<T, 1, ADD>(size, rows, weights, out);
    if (count == 2) return add_rows<T, 2, ADD>(size, rows, weights, out);
    if (count == 3) return add_rows<T, 3, ADD>(size, rows, weights, out);
    add_rows<T, 4, ADD>(size, rows, weights, out);
}

// Sum of COUNT elements at distance `step`.
template <int COUNT, class S> inline S dot(const S* __restrict__ in, int64_t step, const S* __restrict__ weights) {
    S v = weights[0] * in[0];
    if constexpr (COUNT > 1) v += weights[1] * in[step];
    if constexpr (COUNT > 2) v += weights[2] * in[2 * step];
    if constexpr (COUNT > 3) v += weights[3] * in[3 * step];
    return v;
}

template <bool ADD, class Out, class S> inline void put(Out& out, S v) {
    if constexpr (ADD) out += v;
    else out = store<Out>(v);
}

// One chunk of taps along a row; PHASES and STRIDE are known when compiling for the usual factors, else 0.
template <class Out, int COUNT, bool ADD, int PHASES, int STRIDE, class S>
void filter_pixels(const Row<S>& row, int64_t chunk, const S* __restrict__ in, int64_t size, Out* __restrict__ out) {
    const int64_t phases = PHASES ? PHASES : row.phases, stride = STRIDE ? STRIDE : row.stride;
    const S* taps = row.taps.data() + chunk * phases * CHUNK;
    in += chunk * CHUNK - row.first;
    if constexpr (PHASES == 2) {
        const S *__restrict__ a = in + row.pixels[0], *__restrict__ b = in + row.pixels[1];
        S wa[COUNT], wb[COUNT];
        std::copy_n(taps, COUNT, wa);
        std::copy_n(taps + CHUNK, COUNT, wb);
#pragma omp simd
        for (int64_t i = 0; i < size / 2; ++i) {
            put<ADD>(out[2 * i], dot<COUNT>(a + i * stride, 1, wa));
            put<ADD>(out[2 * i + 1], dot<COUNT>(b + i * stride, 1, wb));
        }
        if (size % 2) put<ADD>(out[size - 1], dot<COUNT>(a + size / 2 * stride, 1, wa));
        return;
    }
    for (int64_t phase = 0; phase < phases; ++phase) {
        const S* __restrict__ from = in + row.pixels[phase];
        S weights[COUNT];
        std::copy_n(taps + phase * CHUNK, COUNT, weights);
        const int64_t count = (size - phase + phases - 1) / phases;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            put<ADD>(out[i * phases + phase], dot<COUNT>(from + i * stride, 1, weights));
    }
}

// The same for pixels of `depth` channels.
template <class Out, int COUNT, bool ADD, class S>
void filter_vectors(const Row<S>& row, int64_t chunk, const S* __restrict__ in, int64_t size, int64_t depth,
                    Out* __restrict__ out) {
    const S* taps = row.taps.data() + chunk * row.phases * CHUNK;
    const bool plain = row.phases == 1 && row.stride == 1;  // Then all pixels together are one long loop.
    const int64_t length = plain ? size * depth : depth;
    for (int64_t i = 0; i < (plain ? 1 : size); ++i) {
        const int64_t phase = i % row.phases;
        const S* __restrict__ from =
            in + (row.pixels[phase] + i / row.phases * row.stride + chunk * CHUNK - row.first) * depth;
        Out* __restrict__ to = out + i * depth;
        S weights[COUNT];
        std::copy_n(taps + phase * CHUNK, COUNT, weights);
#pragma omp simd
        for (int64_t c = 0; c < length; ++c) put<ADD>(to[c], dot<COUNT>(from + c, depth, weights));
    }
}

template <class Out, int COUNT, bool ADD, class S>
void filter_row(const Row<S>& row, int64_t chunk, const S* in, int64_t size, int64_t depth, Out* out) {
    if (depth > 1) return filter_vectors<Out, COUNT, ADD>(row, chunk, in, size, depth, out);
    if (row.phases == 1 && row.stride == 1) return filter_pixels<Out, COUNT, ADD, 1, 1>(row, chunk, in, size, out);
    if (row.phases == 2 && row.stride == 1) return filter_pixels<Out, COUNT, ADD, 2, 1>(row, chunk, in, size, out);
    if (row.phases == 1 && row.stride == 2) return filter_pixels<Out, COUNT, ADD, 1, 2>(row, chunk, in, size, out);
    filter_pixels<Out, COUNT, ADD, 0, 0>(row, chunk, in, size, out);
}

template <class Out, bool ADD, class S>
void filter_row(int count, const Row<S>& row, int64_t chunk, const S* in, int64_t size, int64_t depth, Out* out) {
    if (count == 1) return filter_row<Out, 1, ADD>(row, chunk, in, size, depth, out);
    if (count == 2) return filter_row<Out, 2, ADD>(row, chunk, in, size, depth, out);
    if (count == 3) return filter_row<Out, 3, ADD>(row, chunk, in, size, depth, out);
    filter_row<Out, 4, ADD>(row, chunk, in, size, depth, out);
}

// Sum of the input rows that the column's taps meet at output row `y`, at x from `begin` to `end`; false if there is none.
template <class T, class S>
bool sum_rows(const Resampling& q, const std::vector<S>& column, const T* image, int64_t y, int64_t begin, int64_t end,
              S* out) {
    const Axis& axis = q.axis_y;
    const Reach r = reach(axis, y);
    const T* rows[CHUNK];
    S weights[CHUNK];
    int count = 0;
    bool any = false;
    if (q.depth == 1 && axis.down > 1) {
        // Processors follow the jumps of short rows badly; asking for what the next rows bring is twice as fast.
        const T* next = image + (r.pixel + r.count) * q.axis_x.size;
        const int64_t bytes = axis.down * q.axis_x.size * int64_t(sizeof(T));
        for (int64_t i = 0; i < bytes; i += 64) fetch(reinterpret_cast<const char*>(next) + AHEAD_BYTES + i);
    }
    const auto flush = [&] {
        const int64_t size = (end - begin) * q.depth;
        if (count && any) add_rows<T, true>(count, size, rows, weights, out);
        if (count && !any) add_rows<T, false>(count, size, rows, weights, out);
        any = any || count;
        count = 0;
    };
    for (int i = std::max<int64_t>(0, -r.pixel); i < r.count && r.pixel + i < axis.size; ++i) {
        if (column[r.tap + i * axis.up] == 0) continue;
        weights[count] = column[r.tap + i * axis.up];
        rows[count++] = image + ((r.pixel + i) * q.axis_x.size + begin) * q.depth;
        if (count == CHUNK) flush();
    }
    flush();
    return any;
}

// All that the pieces of one call share.
template <class T, class S = compute_t<T>> struct Plan {
    const Resampling& q;
    std::vector<Product<S>> products;
    std::vector<Row<S>> rows;
    int64_t begin, end;  // Input pixels of a row that are needed at all

    explicit Plan(const Resampling& q) : q(q), products(factorize<S>(q)) {
        for (const Product<S>& product : products) rows.emplace_back(q.axis_x, product.row);
        begin = std::clamp<int64_t>(rows[0].first, 0, q.axis_x.size);
        end = std::clamp<int64_t>(rows[0].last, begin, q.axis_x.size);
    }

    // One output row. `line` is a row of input pixels with zeros around it, `sums` room for an output row.
    void output_row(const T* image, int64_t y, S* line, S* sums, T* out) const {
        const int64_t size = q.axis_x.out_size, length = size * q.depth;
        S* inside = line + (begin - rows[0].first) * q.depth;
        const auto summed = [&](size_t i) {
            return begin < end && sum_rows<T>(q, products[i].column, image, y, begin, end, inside);
        };
        if (products.size() == 1 && rows[0].chunks == 1) {
            if (summed(0)) filter_row<T, false>(rows[0].used[0], rows[0], 0, line, size, q.depth, out);
            else std::fill_n(out, length, store<T>(S(0)));
            return;
        }
        std::fill_n(sums, length, S(0));
        for (size_t i = 0; i < products.size(); ++i) {
            if (!summed(i)) continue;
            for (int64_t chunk = 0; chunk < rows[i].chunks; ++chunk)
                filter_row<S, true>(rows[i].used[chunk], rows[i], chunk, line, size, q.depth, sums);
        }
        for (int64_t i = 0; i < length; ++i) out[i] = store<T>(sums[i]);
    }
};

template <class T> void resample(const Resampling& q, int threads) {
    using S = compute_t<T>;
    const Plan<T> plan(q);
    const int64_t in_row = q.axis_x.size * q.depth, out_row = q.axis_x.out_size * q.depth;
    const int64_t block_rows = q.depth > 1 ? BLOCK_ROWS : q.axis_y.out_size;
    const int64_t blocks = (q.axis_y.out_size + block_rows - 1) / block_rows;
    parallel(q.images * blocks, threads, [&](int64_t piece) {
        const int64_t first = piece % blocks * block_rows, last = std::min(first + block_rows, q.axis_y.out_size);
        const T* image = static_cast<const T*>(q.x) + piece / blocks * q.axis_y.size * in_row;
        T* out = static_cast<T*>(q.out) + piece / blocks * q.axis_y.out_size * out_row;
        thread_local std::vector<S> line, sums;
        line.assign((plan.rows[0].last - plan.rows[0].first) * q.depth, S(0));
        sums.resize(out_row);
        for (int64_t y = first; y < last; ++y)
            plan.output_row(image, y, line.data(), sums.data(), out + y * out_row);
    });
}

}  // namespace

// Error code as of CUDA: never one here.
EXPORT int upfirdn2d(const Resampling* q, int dtype, int threads) {
    if (dtype == FLOAT32) resample<float>(*q, threads);
    else if (dtype == FLOAT64) resample<double>(*q, threads);
    else resample<bfloat16>(*q, threads);
    return 0;
}
