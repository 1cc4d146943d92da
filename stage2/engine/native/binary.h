// The losses of K binary terms on a block of rows, by the formulas of stage2/engine/kernel.py.
#pragma once
#include "loss.h"

// log(1 + x) for x > −1; what 1 + x has lost of x, the quotient puts back.
INLINE Vec log1p(Vec x) {
  Vec u = 1.f + x, known = u - 1.f;
  IVec lost = known == Vec{};
  return lost ? x : log(u) * (x / (lost ? all(1.f) : known));
}

// p = sigmoid(t), 1 − p, and their logarithms.
struct Sigmoid {
  Vec p, rest, log_p, log_rest;

  INLINE Sigmoid of(Vec t) {
    IVec positive = t > Vec{};
    Vec e = exp2((positive ? -t : t) * LOG2_E), near = 1.f / (1.f + e), far = e * near, l = log1p(e);
    return {positive ? near : far, positive ? far : near, (positive ? Vec{} : t) - l, (positive ? -t : Vec{}) - l};
  }
};

// ω of a block, and the gradient that is already in z.
INLINE Gradient weighed_gradient(const ConfigLoss &loss, const int64_t *y, const float *factor, const float *cosine) {
  float weights[BLOCK];
  memcpy(weights, factor, sizeof weights);
  if (cosine) weigh_by_angle(loss, y, cosine, weights);
  Gradient gradient{};
  vectors(gradient.slope, weights);
  return gradient;
}

// L = −Σ_k (1−p_k)^γ log p_k, p_y = sigmoid(z_y) and p_k = sigmoid(−z_k) for k ≠ y.
INLINE void sigmoid_focal(const ConfigLoss &loss, float *z, const int64_t *y, Vec *value) {
  // The term of the label is that of another class at −z_y.
  for (int r = 0; r < BLOCK; r++) z[y[r] * BLOCK + r] *= -1;
  for (int64_t k = 0; k < loss.classes; k++) EACH_VECTOR {
    Vec t = load(z + k * BLOCK + j * VL);
    Sigmoid s = Sigmoid::of(t);
    Vec focus = loss.gamma == 0 ? all(1.f) : exp2(s.log_p * (loss.gamma * LOG2_E));
    value[j] += (t - t) - focus * s.log_rest;  // t − t is NaN where t is not finite
    store(z + k * BLOCK + j * VL, focus * (s.p - loss.gamma * s.rest * s.log_rest));
  }
  for (int r = 0; r < BLOCK; r++) z[y[r] * BLOCK + r] *= -1;
}

// L = −log p_y − Σ_{k≠y} log(1−p_k) for p = softmax(z); * is the class of the largest logit.
INLINE void softmax_bce(const ConfigLoss &loss, float *z, const int64_t *y, Vec *value) {
  const int64_t classes = loss.classes;
  Vec top[ROW_VECTORS], second[ROW_VECTORS], partition[ROW_VECTORS] = {}, total[ROW_VECTORS] = {}, rest[ROW_VECTORS];
  IVec largest[ROW_VECTORS] = {};
  EACH_VECTOR top[j] = load(z + j * VL), second[j] = all(-3e38f);
  for (int64_t k = 1; k < classes; k++) EACH_VECTOR {
    Vec u = load(z + k * BLOCK + j * VL);
    IVec above = u > top[j];
    second[j] = larger(second[j], above ? top[j] : u);
    largest[j] = above ? IVec{} + (int32_t)k : largest[j];
    top[j] = above ? u : top[j];
  }
  float z_y[BLOCK], e_y[BLOCK], own[BLOCK];
  int32_t star[BLOCK];
  memcpy(star, largest, sizeof star);
  for (int r = 0; r < BLOCK; r++) z_y[r] = z[y[r] * BLOCK + r];
  for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
    Vec e = exp2((load(z + k * BLOCK + j * VL) - second[j]) * LOG2_E);
    e = largest[j] == IVec{} + (int32_t)k ? Vec{} : e;
    partition[j] += e;
    store(z + k * BLOCK + j * VL, e);
  }
  for (int r = 0; r < BLOCK; r++) e_y[r] = z[y[r] * BLOCK + r];  // 0 where y = *
  Vec label[ROW_VECTORS], s_y[ROW_VECTORS];
  vectors(label, z_y), vectors(s_y, e_y);
  Sigmoid first[ROW_VECTORS];
  Vec others[ROW_VECTORS], scale[ROW_VECTORS];
  EACH_VECTOR {
    others[j] = log(partition[j]) + second[j];
    first[j] = Sigmoid::of(top[j] - others[j]);
    rest[j] = first[j].rest;
    scale[j] = 1.f / partition[j];
    s_y[j] = s_y[j] * scale[j];
  }
  Vec missed[ROW_VECTORS] = {};
  for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
    Vec p = load(z + k * BLOCK + j * VL) * scale[j] * rest[j];
    total[j] += p / (1.f - p);
    missed[j] -= log1p(-p);
  }
  Vec slope[ROW_VECTORS];
  EACH_VECTOR {
    IVec right = s_y[j] == Vec{};
    // A label that is not *, but whose exponential is 0, has p_y = 0 all the same.
    for (int i = 0; i < VL; i++) right[i] = star[j * VL + i] == (int32_t)y[j * VL + i] ? -1 : 0;
    Vec p_y = s_y[j] * rest[j], p_top = first[j].p, wrong = right ? Vec{} : p_top;
    total[j] -= p_y / (1.f - p_y);
    value[j] += missed[j] + log1p(-p_y) - (right ? first[j].log_p : label[j] - others[j] + 2.f * first[j].log_rest);
    slope[j] = rest[j] * (2.f - total[j]) - wrong;
    label[j] = right ? -rest[j] - p_top * total[j] : p_y * (1.f - total[j]) - wrong * s_y[j] - 1.f;
    top[j] = p_top * (2.f - total[j]);
  }
  for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
    Vec s = load(z + k * BLOCK + j * VL) * scale[j], p = s * rest[j];
    Vec v = s * slope[j] + p * p / (1.f - p);
    store(z + k * BLOCK + j * VL, largest[j] == IVec{} + (int32_t)k ? top[j] : v);
  }
  lanes(own, label);
  for (int r = 0; r < BLOCK; r++) z[y[r] * BLOCK + r] = own[r];
}

// As `family`: the loss of a block, and its gradient from what is left in z.
INLINE Gradient block_loss(const ConfigLoss &loss, float *z, const Vec *largest, const int64_t *y, const float *factor,
                           const float *cosine, Vec &total) {
  if (loss.kernel == FAMILY) return family(loss, z, largest, y, factor, cosine, total);
  Gradient gradient = weighed_gradient(loss, y, factor, cosine);
  Vec value[ROW_VECTORS] = {};
  if (loss.kernel == SIGMOID_FOCAL) sigmoid_focal(loss, z, y, value);
  else softmax_bce(loss, z, y, value);
  EACH_VECTOR total += gradient.slope[j] * value[j];
  return gradient;
}
