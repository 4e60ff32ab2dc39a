// The arithmetic of upfirdn2d, for the CPU and the CUDA source. Inserted zeros are never visited (polyphase): of the
// taps at an output pixel only every up-th meets an input pixel.
#pragma once
#include "portable.h"

// One axis of the operation.
struct Axis {
    int64_t size;      // Input pixels
    int64_t out_size;  // Output pixels
    int taps, up, down, pad;
};

// Which taps meet which input pixels at one output pixel: tap + i * up meets pixel + i for 0 <= i < count. Pixels can
// lie outside of the image, where they are zero.
struct Reach {
    int64_t pixel;
    int tap, count;
};

SHARED Reach reach(const Axis& axis, int64_t out) {
    const int64_t position = out * axis.down - axis.pad;  // Of the first tap, in the image with zeros
    if (axis.up == 1) return {position, 0, axis.taps};
    const int64_t behind = position % axis.up;
    const int tap = int(behind > 0 ? axis.up - behind : -behind);
    return {(position + tap) / axis.up, tap, axis.taps > tap ? (axis.taps - tap + axis.up - 1) / axis.up : 0};
}

// One call: images [images, height, width, depth], with depth 1 for contiguous tensors and all channels for
// channels-last ones. Taps are correlated, not convolved, after reading them backwards if `backwards`.
struct Resampling {
    const void* x;
    const float* filter;  // [y.taps, x.taps], or one vector for both axes if separable
    void* out;
    int64_t images, depth;
    Axis axis_x, axis_y;
    int separable, backwards;
    double gain;
};

// Tap (row, column) of the filter that is correlated, without the gain.
SHARED float tap_at(const Resampling& q, int row, int column) {
    if (q.backwards) {
        row = q.axis_y.taps - 1 - row;
        column = q.axis_x.taps - 1 - column;
    }
    return q.separable ? q.filter[row] * q.filter[column] : q.filter[row * q.axis_x.taps + column];
}
