// What distinguishes heads with a W: the weights that a batch meets, and the way from their
// gradient M = Gᵀx to that of the parameters (stage2/methods/heads/ has the derivations).
#pragma once
#include <cmath>
#include "optimiser.h"
#include "task.h"

INLINE float dot(const float *a, const float *b, int64_t n) {
  Vec total[2] = {};
  int64_t d = 0;
  for (; d + 2 * VL <= n; d += 2 * VL) total[0] += load(a + d) * load(b + d), total[1] += load(a + d + VL) * load(b + d + VL);
  float rest = 0;
  for (; d < n; d++) rest += a[d] * b[d];
  return sum(total[0] + total[1]) + rest;
}
INLINE float length(const float *w, int64_t n) { return std::sqrt(dot(w, w, n)); }

// A linear layer of one configuration in one step. For heads of one layer, `weight` is parameter 0.
struct Layer {
  const Task &task;
  int64_t c, outputs, inputs;
  const float *w, *bias, *scale;  // [outputs, inputs], [outputs] or null; mislas [K], cosine [1]
  Update update;
  float limit;
  int64_t head;

  Layer(const Task &task, int64_t c, int64_t step, int place, int64_t outputs, int64_t inputs)
      : task(task), c(c), outputs(outputs), inputs(inputs), update(task, task.parameters[place], c, step) {
    auto parameter = [&](int i) { return task.parameters[i].value + c * task.parameters[i].size; };
    head = task.head;
    w = parameter(place);
    bias = head == LINEAR || head == MISLAS || head == MLP ? parameter(place + 1) : nullptr;
    scale = head == COSINE ? parameter(1) : head == MISLAS ? parameter(2) : nullptr;
    limit = task.limits && (head != MLP || place == 2) ? task.limits[c] : INFINITY;
  }

  float part_slope(float n) const { return task.head_scale[c] / task.parts / (n + task.head_gamma[c]); }
  float part_length(const float *part, int64_t n) const { return std::fmax(length(part, n), 1e-12f); }

  // The weights that meet x: row k of W; of tde each part times τ/(H(n+γ)). `scratch` has room for one.
  const float *row(int64_t k, float *scratch) const {
    const float *from = w + k * inputs;
    if (head != TDE) return from;
    int64_t n = inputs / task.parts;
    for (int64_t h = 0; h < task.parts; h++) {
      float slope = part_slope(part_length(from + h * n, n));
      for (int64_t d = h * n; d < (h + 1) * n; d++) scratch[d] = from[d] * slope;
    }
    return scratch;
  }
  // z_k = factor·⟨row, x⟩ + offset.
  void affine(int64_t k, float &factor, float &offset) const {
    factor = head == COSINE ? scale[0] / std::fmax(length(w + k * inputs, inputs), 1e-12f) : head == MISLAS ? scale[k] : 1;
    offset = bias ? (head == MISLAS ? scale[k] * bias[k] : bias[k]) : 0;
  }

  // Steps row k along M_k [inputs], which is overwritten; k's part of the gradients of the others.
  void step(int64_t k, float *m, float g, float *bias_gradient, float *scale_gradient) const {
    const float *from = w + k * inputs;
    if (head == COSINE) {
      float n = std::fmax(length(from, inputs), 1e-12f), along = dot(m, from, inputs) / n;
      float slope = scale[0] / n, turn = along / n;
      scale_gradient[k] = along;
      for (int64_t d = 0; d < inputs; d++) m[d] = (m[d] - turn * from[d]) * slope;
    } else if (head == MISLAS) {
      scale_gradient[k] = dot(m, from, inputs) + g * bias[k];
      for (int64_t d = 0; d < inputs; d++) m[d] *= scale[k];
      bias_gradient[k] = g * scale[k];
    } else if (head == TDE) {
      int64_t size = inputs / task.parts;
      for (int64_t h = 0; h < task.parts; h++) {
        const float *part = from + h * size;
        float *mp = m + h * size, n = part_length(part, size), slope = part_slope(n);
        float turn = dot(mp, part, size) / (n * (n + task.head_gamma[c]));
        for (int64_t d = 0; d < size; d++) mp[d] = (mp[d] - turn * part[d]) * slope;
      }
    } else {
      bias_gradient[k] = g;
    }
    update(k * inputs, m, inputs);
    if (limit == INFINITY) return;
    float n = std::fmax(length(from, inputs), 1e-12f);
    if (n > limit) {
      float *to = update.value + k * inputs;
      for (int64_t d = 0; d < inputs; d++) to[d] *= limit / n;
    }
  }
};
