// The arithmetic of bias_act, for the CPU and the CUDA source:
//   y = clamp(gain * act(x * scale + noise + bias)).
#pragma once
#include "portable.h"

// Numbers of the activations, as `cuda_idx` in bias_act.py.
enum Activation { LINEAR = 1, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

// Which sums the backward pass takes along with the gradient by x.
enum Sums { NO_SUMS = 0, SUM_BIAS = 1, SUM_SCALE = 2, ALL_SUMS = 7, SUM_NOISE = 4 };

constexpr double SELU_SCALE = 1.0507009873554804934193349852946;
constexpr double SELU_ALPHA = 1.6732632423543772848170429916717;

// exp(t) - 1 and log(1 + e) where the formulas below need them, t <= 0 and 0 <= e <= 1. The float versions of the CPU
// have neither branches nor calls, so that compilers vectorise the loops around them.
#ifdef __CUDACC__
SHARED float exp_minus_1(float t) { return expm1f(t); }
SHARED float log_plus_1(float e) { return log1pf(e); }
#else
SHARED float exp_minus_1(float t) {
    t = t < -87.0f ? -87.0f : t;
    const float n = std::nearbyint(t * 1.44269504f);
    const float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts; |r| < 0.35
    float q = 1.0f / 5040 * r + 1.0f / 720;
    q = q * r + 1.0f / 120;
    q = q * r + 1.0f / 24;
    q = q * r + 1.0f / 6;
    q = q * r + 0.5f;
    q = (q * r) * r + r;
    const uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power * q + (power - 1.0f);
}
SHARED float log_plus_1(float e) {
    const float s = e / (2.0f + e), z = s * s;  // log(1 + e) = 2 artanh(s), s <= 1/3
    float q = 1.0f / 13 * z + 1.0f / 11;
    q = q * z + 1.0f / 9;
    q = q * z + 1.0f / 7;
    q = q * z + 1.0f / 5;
    q = q * z + 1.0f / 3;
    return 2.0f * (s + s * z * q);
}
#endif
SHARED double exp_minus_1(double t) { return expm1(t); }
SHARED double log_plus_1(double e) { return log1p(e); }

SHARED float magnitude(float t) { return fabsf(t); }
SHARED double magnitude(double t) { return fabs(t); }

template <class S> SHARED S sigmoid(S t) {
    const S e = exp_minus_1(-magnitude(t)) + 1;
    const S p = 1 / (1 + e);
    return t >= 0 ? p : e * p;
}

// exp(t) - 1 for negative t, else 0; NaN stays NaN.
template <class S> SHARED S negative_exp(S t) { return exp_minus_1(t > 0 ? S(0) : t); }

template <int ACT, class S> SHARED S activate(S t, S alpha) {
    if constexpr (ACT == RELU) return t < 0 ? S(0) : t;
    if constexpr (ACT == LRELU) return t > 0 ? t : t * alpha;
    if constexpr (ACT == TANH) {
        const S m = exp_minus_1(-2 * magnitude(t));
        const S v = -m / (m + 2);
        return t < 0 ? -v : v;
    }
    if constexpr (ACT == SIGMOID) return sigmoid(t);
    if constexpr (ACT == ELU) return t > 0 ? t : negative_exp(t);
    if constexpr (ACT == SELU) return S(SELU_SCALE) * (t > 0 ? t : S(SELU_ALPHA) * negative_exp(t));
    if constexpr (ACT == SOFTPLUS) return (t < 0 ? S(0) : t) + log_plus_1(exp_minus_1(-magnitude(t)) + 1);
    if constexpr (ACT == SWISH) return t * sigmoid(t);
    return t;
}

// Derivative of activate by t.
template <int ACT, class S> SHARED S slope(S t, S alpha) {
    if constexpr (ACT == RELU) return t > 0 ? S(1) : S(0);
    if constexpr (ACT == LRELU) return t > 0 ? S(1) : alpha;
    if constexpr (ACT == TANH) {
        const S v = activate<TANH>(t, alpha);
        return 1 - v * v;
    }
    if constexpr (ACT == SIGMOID) return sigmoid(t) * sigmoid(-t);
    if constexpr (ACT == ELU) return t > 0 ? S(1) : negative_exp(t) + 1;
    if constexpr (ACT == SELU) return S(SELU_SCALE) * (t > 0 ? S(1) : S(SELU_ALPHA) * (negative_exp(t) + 1));
    if constexpr (ACT == SOFTPLUS) return sigmoid(t);
    if constexpr (ACT == SWISH) return sigmoid(t) * (1 + t * sigmoid(-t));
    return S(1);
}

// Piecewise linear activations are differentiated from y, which has the sign of t: alpha >= 0 and gain > 0 are needed.
SHARED constexpr bool from_output(int act) { return act <= LRELU; }

template <class S> struct Numbers {
    S alpha, gain;
    S clamp;  // NaN = no limit: every comparison with it is false
};

template <int ACT, class S> SHARED S forward_value(S t, const Numbers<S>& k) {
    const S v = activate<ACT>(t, k.alpha) * k.gain;
    return v > k.clamp ? k.clamp : v < -k.clamp ? -k.clamp : v;
}

// Derivative of forward_value, from t, or from its value y where from_output(ACT).
template <int ACT, class S> SHARED S backward_factor(S t_or_y, const Numbers<S>& k) {
    const S factor = slope<ACT>(t_or_y, k.alpha) * k.gain;
    if constexpr (from_output(ACT)) return magnitude(t_or_y) >= k.clamp ? S(0) : factor;
    return magnitude(activate<ACT>(t_or_y, k.alpha) * k.gain) > k.clamp ? S(0) : factor;
}

// One tensor x, [n, channels, pixels] or channels-last [n, pixels, channels], with all that belongs to it. Without
// scale, noise or bias the pointer is null. Factors are of the compute type.
struct BiasAct {
    const void* x;
    const void* y;      // backward, where from_output
    const void* grad;   // backward, by y
    const void* scale;  // [n, channels]
    const void* noise;  // [n, pixels] or [pixels]
    const void* bias;   // [channels]
    void* out;          // y, or the gradient by x
    void* grad_scale;   // [n, channels]
    void* grad_noise;   // [n, pixels]
    void* grad_bias;    // [channels]
    int64_t n, channels, pixels;
    int channels_last, noise_per_sample;
    double alpha, gain, clamp;
};
