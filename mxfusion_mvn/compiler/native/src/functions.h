/* SPDX-License-Identifier: Apache-2.0
   Functions of one number, made of arithmetic only where that lets loops of them use vector instructions.

   exp, log and tanh in single precision: reduction and polynomials as in Cephes (S. L. Moshier), single precision. */
#ifndef MVN_FUNCTIONS_H
#define MVN_FUNCTIONS_H
#include <math.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define IVDEP _Pragma("clang loop vectorize(assume_safety)")
#define UNROLLED _Pragma("clang loop unroll(full)")
#define NOT_FUSED
#define BODY_NOT_FUSED _Pragma("clang fp contract(off)")
#else
#define IVDEP _Pragma("GCC ivdep")
#define UNROLLED _Pragma("GCC unroll 16")         /* lest arrays of vectors lie in memory, not in registers */
#define NOT_FUSED __attribute__((optimize("fp-contract=off")))
#define BODY_NOT_FUSED
#endif

INLINE float bits_as_float(int32_t bits) { union { int32_t i; float f; } u; u.i = bits; return u.f; }
INLINE int32_t float_as_bits(float x) { union { int32_t i; float f; } u; u.f = x; return u.i; }

INLINE float power_of_two(int32_t k) { return bits_as_float((int32_t)((uint32_t)(k + 127) << 23)); }

/* x = k log(2) + r, where |r| <= log(2) / 2, as k and exp(r) - 1. */
typedef struct { int32_t k; float excess; } reduced;
INLINE reduced reduce_exp(float x) {
    float shifted = x * 1.44269504088896341f + 12582912.0f;   /* 1.5 * 2^23: the last bits are the rounded product */
    float n = shifted - 12582912.0f, r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (reduced){float_as_bits(shifted) - 0x4B400000, p * r * r + r};
}

INLINE float exp_float(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    reduced y = reduce_exp(x);
    int32_t k = y.k, half = k >> 1;             /* in two factors, because 2^k may be subnormal or too large */
    return (y.excess + 1.0f) * power_of_two(half) * power_of_two(k - half);
}

INLINE float expm1_float(float x) {
    reduced y = reduce_exp(x > 89.0f ? 89.0f : x < -30.0f ? -30.0f : x);
    float scale = power_of_two(y.k - 1);        /* half of 2^k, which may be too large */
    float result = 2.0f * (y.excess * scale + (scale - 0.5f));
    return fabsf(x) < 5e-8f ? x : result;       /* keeps -0 and what is subnormal */
}

INLINE float log_float(float x) {
    float scaled = x < 1.17549435e-38f ? x * 8388608.0f : x;
    float shift = x < 1.17549435e-38f ? -23.0f : 0.0f;
    int32_t bits = float_as_bits(scaled);
    int32_t e = (int32_t)((uint32_t)bits - 0x3f3504f3u) >> 23;     /* the mantissa is in [sqrt(1/2), sqrt(2)) */
    float m = bits_as_float((int32_t)((uint32_t)bits - ((uint32_t)e << 23))) - 1.0f, n = (float)e + shift, z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float y = m + (p * m * z + n * -2.12194440e-4f - 0.5f * z) + n * 0.693359375f;
    y = x == 0.0f ? -INFINITY : y;
    y = x < 0.0f ? NAN : y;
    return x < INFINITY ? y : x;                /* infinity and nan */
}

INLINE float log1p_float(float x) {
    float u = 1.0f + x, d = u - 1.0f;
    float y = log_float(u) * (x / d);
    y = d == 0.0f ? x : y;
    return u == INFINITY ? u : y;
}

INLINE float tanh_float(float x) {
    float a = fabsf(x), z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    p = p * z * x + x;
    float q = 1.0f - 2.0f / (exp_float(2.0f * a) + 1.0f);
    return copysignf(a < 0.625f ? p : q, x);
}

/* The logarithmic derivative of the gamma function: its recurrence up to 10, then its asymptotic series
   (Abramowitz and Stegun, 6.3.18); below zero by reflection. */
static inline double digamma(double x) {
    double shift = 0;
    if (x <= 0) {
        if (x == floor(x)) return NAN;
        shift = -M_PI / tan(M_PI * x);
        x = 1 - x;
    }
    for (; x < 10; x++) shift -= 1 / x;
    double z = 1 / (x * x);
    double series = z * (1.0 / 12 - z * (1.0 / 120 - z * (1.0 / 252 - z * (1.0 / 240 - z * (1.0 / 132 - z * (691.0 / 32760))))));
    return shift + log(x) - 0.5 / x - series;
}

static inline double log_gamma(double x) { int sign; return lgamma_r(x, &sign); }

/* The names that formulas use, for either type. */
#define zero ((T)0)
#define one ((T)1)
#define half ((T)0.5)
#define pick(condition, yes, no) ((condition) ? (yes) : (no))
#define IS_FLOAT (sizeof(T) == 4)
#define exp(x) (IS_FLOAT ? (T)exp_float((float)(x)) : (T)exp(x))
#define log(x) (IS_FLOAT ? (T)log_float((float)(x)) : (T)log(x))
#define log1p(x) (IS_FLOAT ? (T)log1p_float((float)(x)) : (T)log1p(x))
#define expm1(x) (IS_FLOAT ? (T)expm1_float((float)(x)) : (T)expm1(x))
#define tanh(x) (IS_FLOAT ? (T)tanh_float((float)(x)) : (T)tanh(x))
#define fabs(x) (IS_FLOAT ? (T)fabsf((float)(x)) : (T)fabs(x))
#define sqrt(x) (IS_FLOAT ? (T)sqrtf((float)(x)) : (T)sqrt(x))
#define pow(x, y) (IS_FLOAT ? (T)powf((float)(x), (float)(y)) : (T)pow(x, y))
#endif
