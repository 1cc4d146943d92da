// A vector of VL floats, its functions, and how many of them the products keep in registers.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { VL = 16, ROW_VECTORS = 2, LOGIT_CLASSES = 12, PANEL_VECTORS = 4, GRADIENT_CLASSES = 6 };  // 24 sums of 32 registers
#elif defined(__AVX2__)
enum { VL = 8, ROW_VECTORS = 2, LOGIT_CLASSES = 6, PANEL_VECTORS = 2, GRADIENT_CLASSES = 6 };  // 12 of 16
#else
enum { VL = 4, ROW_VECTORS = 2, LOGIT_CLASSES = 6, PANEL_VECTORS = 2, GRADIENT_CLASSES = 6 };
#endif
enum { BLOCK = ROW_VECTORS * VL, PANEL = PANEL_VECTORS * VL };

typedef float Vec __attribute__((vector_size(VL * 4)));
typedef int32_t IVec __attribute__((vector_size(VL * 4)));
typedef float UnalignedVec __attribute__((vector_size(VL * 4), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE Vec load(const float *p) { return *(const UnalignedVec *)p; }
INLINE void store(float *p, Vec v) { *(UnalignedVec *)p = v; }
INLINE Vec all(float x) { return x - Vec{}; }
INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }
INLINE float sum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float total = 0;
  for (int i = 0; i < VL; i++) total += v[i];
  return total;
#endif
}

// 2^t for t <= 127, with a relative error of 1e-7; 2^-126 below that. Rounding to an integer by
// adding 1.5·2^23 is what -ffast-math would delete.
INLINE Vec exp2(Vec t) {
  t = larger(t, all(-126.f));
  Vec shifted = t + 12582912.f;
  Vec f = t - (shifted - 12582912.f);
  Vec p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  return (Vec)((IVec)p + (((IVec)shifted - 0x4B400000) << 23));
}

// log x for normal x > 0 (Cephes' polynomial).
INLINE Vec log(Vec x) {
  IVec bits = (IVec)x;
  IVec exponent = (bits >> 23) - 127;
  Vec m = (Vec)((bits & 0x7fffff) | 0x3f800000);
  IVec big = m > all(1.41421356f);
  m = big ? m * 0.5f : m;
  exponent = exponent - big;
  Vec f = m - 1.f, e = __builtin_convertvector(exponent, Vec);
  Vec p = f * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  return f + (f * f * f * p - 2.12194440e-4f * e - 0.5f * f * f) + 0.693359375f * e;
}

#define LOG2_E 1.44269504f

// x^g for x in (0, 1].
INLINE Vec power(Vec x, float g) { return exp2(log(x) * (g * LOG2_E)); }

INLINE Vec square_root(Vec x) {
#if defined(__AVX512F__)
  return (Vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (Vec)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Calls f with n as a compile-time number, 1 <= n <= MOST.
template <int MOST, class F> INLINE void with_constant(int n, F &&f) {
  if constexpr (MOST > 0) {
    if (n == MOST) f(std::integral_constant<int, MOST>{});
    else with_constant<MOST - 1>(n, f);
  }
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
