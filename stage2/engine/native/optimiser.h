// One step of SGD or AdamW on a stretch of a parameter, as stage2/methods/optimisers.py defines them.
#pragma once
#include <cmath>
#include "task.h"
#include "vector.h"

// An optimiser's numbers for one parameter of one configuration at one step.
struct Update {
  bool adam;
  float lr, decay, momentum, ahead;            // ahead: 1 with Nesterov's momentum
  float first, second, ratio, floor;           // 1 − β₁, 1 − β₂, √(1−β₂ᵗ)/(1−β₁ᵗ), ε√(1−β₂ᵗ)
  float *value, *one, *two;
  const float *anchor;

  Update(const Task &task, const Parameter &p, int64_t c, int64_t step) {
    adam = task.rule == ADAMW;
    lr = task.rates[step * task.configs + c] * (p.rate ? p.rate[c] : 1.f);
    decay = p.decay ? p.decay[c] : 0.f;
    if (adam) {
      double t = task.taken + step + 1;
      double rest1 = 1 - std::pow(task.beta1[c], t), rest2 = 1 - std::pow(task.beta2[c], t);
      first = (float)(1 - task.beta1[c]), second = (float)(1 - task.beta2[c]);
      ratio = (float)(std::sqrt(rest2) / rest1), floor = task.eps[c] * (float)std::sqrt(rest2);
    } else {
      momentum = task.momentum[c], ahead = task.nesterov ? task.nesterov[c] : 0.f;
    }
    value = p.value + c * p.size, one = p.first + c * p.size, two = adam ? p.second + c * p.size : nullptr;
    anchor = p.anchor ? p.anchor + c * p.anchor_stride : nullptr;
  }

  // Steps value[at … at + VL) along its gradient.
  static inline __attribute__((always_inline)) Vec moved(const Update &u, Vec p, Vec a, Vec &m, Vec &s, Vec g) {
    if (u.adam) {
      m = m + u.first * (g - m);
      s = s + u.second * (g * g - s);
      p = p - (u.lr * u.decay) * (p - a);
      return p - (u.lr * u.ratio) * (m / (square_root(s) + u.floor));
    }
    g = g + u.decay * (p - a);
    m = g + m * u.momentum;
    return p - u.lr * (u.ahead * g + (1.f - u.ahead * (1.f - u.momentum)) * m);
  }

  // Steps value[at … at + n) along the gradient [n].
  void operator()(int64_t at, const float *gradient, int64_t n) const {
    float *p = value + at, *m = one + at, *s = adam ? two + at : nullptr;
    const float *a = anchor ? anchor + at : nullptr;
    int64_t d = 0;
    for (; d + VL <= n; d += VL) {
      Vec mean = load(m + d), square = adam ? load(s + d) : Vec{};
      store(p + d, moved(*this, load(p + d), a ? load(a + d) : Vec{}, mean, square, load(gradient + d)));
      store(m + d, mean);
      if (adam) store(s + d, square);
    }
    if (d == n) return;
    float rest[5][VL] = {};
    const int64_t bytes = 4 * (n - d);
    memcpy(rest[0], p + d, bytes), memcpy(rest[1], m + d, bytes), memcpy(rest[2], gradient + d, bytes);
    if (a) memcpy(rest[3], a + d, bytes);
    if (adam) memcpy(rest[4], s + d, bytes);
    Vec mean = load(rest[1]), square = load(rest[4]);
    store(rest[0], moved(*this, load(rest[0]), load(rest[3]), mean, square, load(rest[2])));
    store(rest[1], mean), store(rest[4], square);
    memcpy(p + d, rest[0], bytes), memcpy(m + d, rest[1], bytes);
    if (adam) memcpy(s + d, rest[4], bytes);
  }
};
