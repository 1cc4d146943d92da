// The loss family on a block of rows, in the notation of stage2/engine/kernel.py.
//
// The label's exponential is taken out before the sum, so that 1 − p_y is a sum of positive terms
// over a sum and keeps its digits as p_y approaches 1.
#pragma once
#include "task.h"
#include "vector.h"

#define EACH_VECTOR for (int j = 0; j < ROW_VECTORS; j++)

// The loss of one configuration; arrays are [K] here.
struct ConfigLoss {
  const float *scale, *shift, *margin, *weight, *smoothing;
  float elsewhere, at_label, gamma, frozen_gamma;
  bool by_weights;
  float angle;
  const float *best_cosine;
  float distil, temperature;
  const float *distil_classes;
  int64_t classes, kernel;

  ConfigLoss(const Loss &loss, int64_t c, int64_t classes) : classes(classes), kernel(loss.kernel) {
    auto row = [&](const float *table) { return table ? table + c * classes : nullptr; };
    auto one = [&](const float *values) { return values ? values[c] : 0.f; };
    scale = row(loss.scale), shift = row(loss.shift), margin = row(loss.margin);
    weight = row(loss.weight), smoothing = row(loss.smoothing);
    elsewhere = one(loss.elsewhere), at_label = one(loss.at_label);
    gamma = one(loss.gamma), frozen_gamma = one(loss.frozen_gamma), angle = one(loss.angle);
    by_weights = loss.by_weights[c];
    best_cosine = row(loss.best_cosine);
    distil = one(loss.distil), temperature = one(loss.temperature), distil_classes = row(loss.distil_classes);
  }
};

// ∂L/∂u_k = z_k·slope − flat, where z is what `family` leaves.
struct Gradient {
  Vec slope[ROW_VECTORS], flat[ROW_VECTORS];
};

INLINE void lanes(float *to, const Vec *v) { EACH_VECTOR store(to + j * VL, v[j]); }
INLINE void vectors(Vec *to, const float *v) { EACH_VECTOR to[j] = load(v + j * VL); }

// κ of rows whose cosine to the weight of their class is known.
INLINE void weigh_by_angle(const ConfigLoss &loss, const int64_t *y, const float *cosine, float *weight) {
  float exponent[BLOCK], factor[BLOCK];
  Vec t[ROW_VECTORS];
  for (int r = 0; r < BLOCK; r++) exponent[r] = loss.angle * (loss.best_cosine[y[r]] - cosine[r]) * LOG2_E;
  vectors(t, exponent);
  EACH_VECTOR t[j] = exp2(t[j]);
  lanes(factor, t);
  for (int r = 0; r < BLOCK; r++) weight[r] *= factor[r];
}

// The loss of a block and its gradient. z [K, BLOCK] holds u without margins, `largest` at least the
// largest u of each row; a row counts `factor`; `cosine` [BLOCK] is null without angles.
INLINE Gradient family(const ConfigLoss &loss, float *z, const Vec *largest, const int64_t *y, const float *factor,
                       const float *cosine, Vec &total) {
  const int64_t classes = loss.classes;
  float own[BLOCK], weights[BLOCK];
  Vec top[ROW_VECTORS], u_y[ROW_VECTORS], weight[ROW_VECTORS];
  for (int r = 0; r < BLOCK; r++) {
    own[r] = z[y[r] * BLOCK + r] - (loss.margin ? loss.margin[y[r]] : 0);
    z[y[r] * BLOCK + r] = -1e30f;
    weights[r] = factor[r];
  }
  if (cosine) weigh_by_angle(loss, y, cosine, weights);
  vectors(u_y, own), vectors(weight, weights);
  EACH_VECTOR top[j] = largest[j];
  if (loss.margin) {  // the label may have stood out
    EACH_VECTOR top[j] = u_y[j];
    for (int64_t k = 0; k < classes; k++) EACH_VECTOR top[j] = larger(top[j], load(z + k * BLOCK + j * VL));
  }
  Vec others[ROW_VECTORS] = {}, logits[ROW_VECTORS] = {}, base[ROW_VECTORS];
  EACH_VECTOR base[j] = top[j] * LOG2_E;
  if (loss.smoothing) {
    for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
      Vec u = load(z + k * BLOCK + j * VL);
      logits[j] += u > all(-1e29f) ? u - top[j] : u_y[j] - top[j];
    }
  }
  for (int64_t k = 0; k < classes; k++) UNROLL EACH_VECTOR {
    Vec e = exp2(load(z + k * BLOCK + j * VL) * LOG2_E - base[j]);
    others[j] += e;
    store(z + k * BLOCK + j * VL, e);
  }
  Gradient gradient;
  float at_label[BLOCK];
  float eps[BLOCK] = {};
  if (loss.smoothing) for (int r = 0; r < BLOCK; r++) eps[r] = loss.smoothing[y[r]];
  Vec label[ROW_VECTORS], smoothing[ROW_VECTORS];
  vectors(smoothing, eps);
  EACH_VECTOR {
    Vec e_y = exp2(u_y[j] * LOG2_E - base[j]), partition = others[j] + e_y;
    Vec log_partition = log(partition), log_py = (u_y[j] - top[j]) - log_partition;
    Vec miss = others[j] / partition, entropy = -log_py, excess = all(1.f), elsewhere{};
    if (loss.smoothing) {
      elsewhere = smoothing[j] * loss.elsewhere;
      excess = 1.f - smoothing[j] + smoothing[j] * loss.at_label - elsewhere;
      entropy = -(excess * log_py + elsewhere * (logits[j] - (float)classes * log_partition));
    }
    Vec w = weight[j], turn{};
    if (loss.frozen_gamma != 0) w = w * power(miss, loss.frozen_gamma);
    if (loss.gamma != 0) {
      Vec bend = -loss.gamma * power(larger(miss, all(1.1920929e-7f)), loss.gamma - 1);
      turn = w * entropy * bend * (e_y / partition);
      w = w * power(miss, loss.gamma);
    }
    Vec slope = w - turn, flat = w * elsewhere;
    total += w * entropy;
    gradient.slope[j] = slope / partition;
    gradient.flat[j] = flat;
    // ∂L/∂u_y + flat = w(1 − excess) − slope·(1 − p_y), over the slope.
    Vec known = slope > Vec{} ? slope : all(1.f);
    label[j] = slope > Vec{} ? (w * (1.f - excess) / known - miss) * partition : Vec{};
  }
  lanes(at_label, label);
  for (int r = 0; r < BLOCK; r++) z[y[r] * BLOCK + r] = at_label[r];
  return gradient;
}

// Adds to `extra` [K, BLOCK] the gradient with respect to z of α·T²·KL(softmax(z⁰/T) ‖ softmax(z/T))
// for u = a·z + m and rows that count `weight` [BLOCK] (share·α·T where the class is distilled).
INLINE void distillation(const ConfigLoss &loss, const float *u, const float *z0, const float *weight, float *extra,
                         Vec &total) {
  const int64_t classes = loss.classes;
  const float turn = 1 / loss.temperature;
  Vec top[ROW_VECTORS], top0[ROW_VECTORS], whole[ROW_VECTORS] = {}, whole0[ROW_VECTORS] = {}, cross[ROW_VECTORS] = {},
      w[ROW_VECTORS];
  auto own = [&](int64_t k, int j) {
    Vec z = load(u + k * BLOCK + j * VL);
    if (loss.shift) z = z - loss.shift[k];
    if (loss.scale) z = z / loss.scale[k];
    return z * turn;
  };
  auto known = [&](int64_t k, int j) { return load(z0 + k * BLOCK + j * VL) * turn; };
  vectors(w, weight);
  EACH_VECTOR top[j] = top0[j] = all(-3e38f);
  for (int64_t k = 0; k < classes; k++) EACH_VECTOR top[j] = larger(top[j], own(k, j)), top0[j] = larger(top0[j], known(k, j));
  for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
    Vec z = own(k, j), z0_k = known(k, j), e0 = exp2((z0_k - top0[j]) * LOG2_E);
    whole[j] += exp2((z - top[j]) * LOG2_E);
    whole0[j] += e0;
    cross[j] += e0 * (z0_k - z);
  }
  EACH_VECTOR {
    Vec divergence = cross[j] / whole0[j] - (top0[j] + log(whole0[j])) + top[j] + log(whole[j]);
    total += w[j] * loss.temperature * divergence;
    whole[j] = 1.f / whole[j], whole0[j] = 1.f / whole0[j];
  }
  for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
    Vec p = exp2((own(k, j) - top[j]) * LOG2_E) * whole[j], p0 = exp2((known(k, j) - top0[j]) * LOG2_E) * whole0[j];
    store(extra + k * BLOCK + j * VL, load(extra + k * BLOCK + j * VL) + w[j] * (p - p0));
  }
}
