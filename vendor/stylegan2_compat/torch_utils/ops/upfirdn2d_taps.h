// How the CPU source arranges the taps of a filter before it runs over the pixels.
#pragma once
#include <algorithm>
#include <vector>

#include "upfirdn2d.h"

constexpr int CHUNK = 4;  // Taps that one loop takes

// One term of a filter: the outer product of a column and a row.
template <class S> struct Product {
    std::vector<S> column, row;
};

// The taps as products. A matrix that is an outer product, up to rounding, is one; any other is one per row.
template <class S> std::vector<Product<S>> factorize(const Resampling& q) {
    const int height = q.axis_y.taps, width = q.axis_x.taps;
    const auto tap = [&](int i, int j) { return S(tap_at(q, i, j)); };
    std::vector<Product<S>> products;
    if (q.separable) {
        Product<S> product;
        for (int i = 0; i < height; ++i) product.column.push_back(S(q.filter[q.backwards ? height - 1 - i : i]));
        product.row = product.column;
        for (S& v : product.column) v *= S(q.gain);
        return {product};
    }
    int top = 0, left = 0;
    for (int i = 0; i < height; ++i)
        for (int j = 0; j < width; ++j)
            if (std::abs(tap(i, j)) > std::abs(tap(top, left))) top = i, left = j;
    const S peak = tap(top, left), tolerance = (sizeof(S) == 4 ? S(1e-6) : S(1e-14)) * std::abs(peak);
    Product<S> outer;
    for (int i = 0; i < height; ++i) outer.column.push_back(tap(i, left));
    for (int j = 0; j < width; ++j) outer.row.push_back(peak == 0 ? S(0) : tap(top, j) / peak);
    bool is_outer = true;
    for (int i = 0; i < height; ++i)
        for (int j = 0; j < width; ++j)
            is_outer = is_outer && std::abs(tap(i, j) - outer.column[i] * outer.row[j]) <= tolerance;
    if (is_outer) {
        for (S& v : outer.column) v *= S(q.gain);
        return {outer};
    }
    for (int i = 0; i < height; ++i) {
        Product<S> line{std::vector<S>(height), {}};
        line.column[i] = S(q.gain);
        for (int j = 0; j < width; ++j) line.row.push_back(tap(i, j));
        products.push_back(line);
    }
    return products;
}

// Taps along x, sorted by phase: output pixels that are `phases` apart use the same taps, on pixels `stride` apart.
template <class S> struct Row {
    int64_t phases, stride, chunks, first, last;  // first, last: input pixels that are touched, last excluded
    std::vector<int64_t> pixels;                  // [phases]: input pixel of the first tap
    std::vector<S> taps;                          // [chunks, phases, CHUNK], zero where there is none
    std::vector<int> used;                        // [chunks]: how many of CHUNK taps are in use in any phase

    Row(const Axis& axis, const std::vector<S>& row) {
        int64_t a = axis.up, b = axis.down;
        while (b) std::swap(a %= b, b);
        phases = axis.up / a;
        stride = axis.down / a;
        chunks = std::max<int64_t>(1, ((axis.taps + axis.up - 1) / axis.up + CHUNK - 1) / CHUNK);
        taps.resize(chunks * phases * CHUNK);
        first = INT64_MAX, last = INT64_MIN;
        for (int64_t phase = 0; phase < phases; ++phase) {
            const Reach r = reach(axis, phase);
            pixels.push_back(r.pixel);
            for (int i = 0; i < r.count; ++i)
                taps[(i / CHUNK * phases + phase) * CHUNK + i % CHUNK] = row[r.tap + i * axis.up];
            first = std::min(first, r.pixel);
            last = std::max(last, r.pixel + (axis.out_size - 1) / phases * stride + chunks * CHUNK);
        }
        used.assign(chunks, 1);
        for (int64_t i = 0; i < int64_t(taps.size()); ++i)
            if (taps[i] != 0) used[i / (phases * CHUNK)] = std::max<int>(used[i / (phases * CHUNK)], i % CHUNK + 1);
    }
};
