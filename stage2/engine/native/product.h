// The two products of a step, Z = P·Xᵀ and M = G·X, in float32 or with bf16 factors and float32 sums.
//
// Lanes of Z are rows of the batch, so that a softmax needs no sums across lanes and K no padding.
// A cell is what a lane multiplies at once: one float, or two neighbouring bf16.
#pragma once
#include "vector.h"

struct Single {
  typedef float Cell;
  typedef Vec Cells;
  enum { EACH = 1 };  // numbers of a cell
  INLINE Cells all(Cell x) { return ::all(x); }
  INLINE Cells load(const Cell *p) { return ::load(p); }
  INLINE Vec add_product(Vec sum, Cells a, Cells b) { return sum + a * b; }
  INLINE void narrow(Cell *to, Vec v) { store(to, v); }
  INLINE void interleave(Cell *to, const Cell *row, const Cell *, int64_t n) { memcpy(to, row, 4 * n); }
};

#if defined(__AVX512BF16__)
struct Half {
  typedef uint32_t Cell;
  typedef __m512bh Cells;
  enum { EACH = 2 };
  INLINE Cells all(Cell x) { return (__m512bh)_mm512_set1_epi32(x); }
  INLINE Cells load(const Cell *p) { return (__m512bh)_mm512_loadu_si512(p); }
  INLINE Vec add_product(Vec sum, Cells a, Cells b) { return (Vec)_mm512_dpbf16_ps((__m512)sum, a, b); }
  INLINE void narrow(Cell *to, Vec v) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }
  // Pairs of two rows, from rows whose cells are pairs of neighbours; n numbers, a multiple of VL.
  INLINE void interleave(Cell *to, const Cell *row, const Cell *next, int64_t n) {
    auto wide = [](const uint16_t *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)); };
    for (int64_t d = 0; d < n; d += VL)
      _mm512_storeu_si512(to + d, _mm512_or_si512(wide((const uint16_t *)row + d),
                                                  _mm512_slli_epi32(wide((const uint16_t *)next + d), 16)));
  }
};
#endif

// Narrows n numbers and fills up with zeros to a multiple of VL.
template <class F> INLINE void narrow_row(typename F::Cell *to, const float *from, int64_t n) {
  int64_t d = 0;
  for (; d + VL <= n; d += VL) F::narrow(to + d / F::EACH, load(from + d));
  if (d < n) {
    float rest[VL] = {};
    memcpy(rest, from + d, 4 * (n - d));
    F::narrow(to + d / F::EACH, load(rest));
  }
}

// u = A·(P·xᵀ) + B of CLASSES classes and a block of rows; raises the running maximum `top` of each row.
template <class F, int CLASSES>
INLINE void logits_of(const typename F::Cell *p, int64_t stride, int64_t depth, const typename F::Cell *xt,
                      const float *scale, const float *shift, float *z, Vec *top) {
  Vec sums[CLASSES][ROW_VECTORS] = {};
  for (int64_t d = 0; d < depth; d++) {
    typename F::Cells x[ROW_VECTORS];
    UNROLL for (int j = 0; j < ROW_VECTORS; j++) x[j] = F::load(xt + d * BLOCK + j * VL);
    UNROLL for (int i = 0; i < CLASSES; i++) {
      typename F::Cells w = F::all(p[i * stride + d]);
      UNROLL for (int j = 0; j < ROW_VECTORS; j++) sums[i][j] = F::add_product(sums[i][j], w, x[j]);
    }
  }
  UNROLL for (int i = 0; i < CLASSES; i++) UNROLL for (int j = 0; j < ROW_VECTORS; j++) {
    Vec u = sums[i][j] * scale[i] + shift[i];
    store(z + i * BLOCK + j * VL, u);
    top[j] = larger(top[j], u);
  }
}

// Logits z [n, BLOCK] of n classes with packed weights p [n, stride].
template <class F>
INLINE void logits(const typename F::Cell *p, int64_t stride, int64_t n, int64_t depth, const typename F::Cell *xt,
                   const float *scale, const float *shift, float *z, Vec *top) {
  for (int64_t k = 0; k < n; k += LOGIT_CLASSES)
    with_constant<LOGIT_CLASSES>(least(n - k, LOGIT_CLASSES), [&](auto classes) {
      logits_of<F, classes()>(p + k * stride, stride, depth, xt, scale + k, shift + k, z + k * BLOCK, top);
    });
}

template <class F, int CLASSES, int VECTORS>
INLINE void gradient_of(const typename F::Cell *g, int64_t stride, int64_t rows, const typename F::Cell *x, float *m,
                        int64_t m_stride) {
  Vec sums[CLASSES][VECTORS] = {};
  for (int64_t r = 0; r < rows; r++) {
    typename F::Cells v[VECTORS];
    UNROLL for (int j = 0; j < VECTORS; j++) v[j] = F::load(x + (r * VECTORS + j) * VL);
    UNROLL for (int i = 0; i < CLASSES; i++) {
      typename F::Cells w = F::all(g[i * stride + r]);
      UNROLL for (int j = 0; j < VECTORS; j++) sums[i][j] = F::add_product(sums[i][j], w, v[j]);
    }
  }
  UNROLL for (int i = 0; i < CLASSES; i++) UNROLL for (int j = 0; j < VECTORS; j++)
    store(m + i * m_stride + j * VL, sums[i][j]);
}

// M [n, dim] of n classes, from their gradients g [n, stride] and the panels of a batch.
template <class F>
INLINE void gradients(const typename F::Cell *g, int64_t stride, int64_t n, int64_t rows, const typename F::Cell *panels,
                      int64_t dim, float *m) {
  for (int64_t d = 0; d < dim; d += PANEL)
    with_constant<PANEL_VECTORS>(least(dim - d, PANEL) / VL, [&](auto vectors) {
      for (int64_t k = 0; k < n; k += GRADIENT_CLASSES)
        with_constant<GRADIENT_CLASSES>(least(n - k, GRADIENT_CLASSES), [&](auto classes) {
          gradient_of<F, classes(), vectors()>(g + k * stride, stride, rows, panels + d * rows, m + k * dim + d, dim);
        });
    });
}

// Four cells of each of four rows, as four columns; a cell has 32 bits.
template <class Cell> INLINE void transpose(Cell *to, int64_t to_stride, const Cell *from, int64_t stride) {
#if defined(__x86_64__)
  __m128 a = _mm_loadu_ps((const float *)from), b = _mm_loadu_ps((const float *)(from + stride));
  __m128 c = _mm_loadu_ps((const float *)(from + 2 * stride)), d = _mm_loadu_ps((const float *)(from + 3 * stride));
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps((float *)to, a), _mm_storeu_ps((float *)(to + to_stride), b);
  _mm_storeu_ps((float *)(to + 2 * to_stride), c), _mm_storeu_ps((float *)(to + 3 * to_stride), d);
#else
  for (int r = 0; r < 4; r++)
    for (int d = 0; d < 4; d++) to[d * to_stride + r] = from[r * stride + d];
#endif
}

// The rows of a batch as both products read them: [rows/BLOCK][cells][BLOCK] and panels of columns
// [dim/PANEL][rows/EACH][PANEL], from cells [rows][dim/EACH]. `rows` is a multiple of BLOCK.
template <class F>
INLINE void arrange(const typename F::Cell *cells, int64_t rows, int64_t dim, typename F::Cell *across,
                    typename F::Cell *panels) {
  int64_t depth = dim / F::EACH;
  for (int64_t r0 = 0; r0 < rows; r0 += BLOCK)
    for (int r = 0; r < BLOCK; r += 4)
      for (int64_t d = 0; d < depth; d += 4)
        transpose(across + r0 * depth + d * BLOCK + r, BLOCK, cells + (r0 + r) * depth + d, depth);
  for (int64_t d = 0; d < dim && panels != cells; d += PANEL) {
    int64_t width = least(dim - d, PANEL);
    for (int64_t r = 0; r < rows; r += F::EACH) {
      const typename F::Cell *row = cells + r * depth + d / F::EACH;
      F::interleave(panels + d * (rows / F::EACH) + r / F::EACH * width, row, row + depth, width);
    }
  }
}
