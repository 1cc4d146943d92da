// What metrics need of logits, in one pass over them (stage2/engine/tally.py and shifting.py define it).
#include <algorithm>
#include <cmath>
#include <vector>
#include "vector.h"

// Logits [rows, configs, classes]; results [rows, configs], and sums over the rows [configs, classes].
struct Measure {
  int64_t rows, configs, classes;
  const float *z;
  const int64_t *y;
  float *rank, *own, *top, *partition, *norm, *total;
  int32_t *predicted;                 // or null
  const float *place, *log_prior;     // [classes]; [configs, classes] or null: bounds on λ, or null
  float far;
  float *low, *high;
};

namespace {

constexpr int64_t ROWS_TOGETHER = 16;  // rows whose logits are summed before they join the total

// What comparisons of a row's classes with its label need, padded to whole vectors.
struct Row {
  std::vector<float> bound, inverse, side, z, prior;
  explicit Row(int64_t size) : bound(size), inverse(size), side(size), z(size), prior(size) {}
};

struct Best {
  Vec value;
  IVec index;
};

int32_t first_of(const Best &best, float top) {
  int32_t first = INT32_MAX;
  for (int i = 0; i < VL; i++)
    if (best.value[i] == top) first = std::min(first, (int32_t)best.index[i]);
  return first;
}

float largest(Vec v) {
  float top = v[0];
  for (int i = 1; i < VL; i++) top = std::max(top, v[i]);
  return top;
}

void compare_with(const Measure &m, Row &row, int64_t y) {
  for (int64_t k = 0; k < m.classes; k++) {
    row.bound[k] = k >= y ? 1.17549435e-38f : 0.f;
    if (!m.place) continue;
    float behind = m.place[k] - m.place[y];
    row.inverse[k] = behind == 0 ? 0.f : 1 / behind;
    row.side[k] = 4 * m.far * (behind > 0 ? 1 : behind < 0 ? -1 : 0);
  }
}

// Like PyTorch, a NaN is the largest logit, and what is made of it or of an infinite one is NaN.
void measure_unusual(const Measure &m, const Row &row, int64_t at, int64_t c, int64_t y) {
  const float *z = m.z + at * m.classes, *prior = m.log_prior ? m.log_prior + c * m.classes : nullptr;
  const float inf = INFINITY, apart = 4 * m.far;
  auto over = [](float a, float b) { return std::isnan(a) ? false : std::isnan(b) || b > a; };
  int64_t first = 0;
  for (int64_t k = 1; k < m.classes; k++)
    if (over(z[first], z[k])) first = k;
  const float top = z[first];
  float partition = 0, square = 0, low = -inf, high = inf;
  int64_t rank = 0;
  for (int64_t k = 0; k < m.classes; k++) {
    rank += !(z[k] - z[y] < row.bound[k]);
    float e = std::exp(z[k] - top);
    partition += e, square += e * e;
    if (!m.place) continue;
    float bound = ((z[k] - z[y]) - (prior ? prior[k] : 0)) + (prior ? prior[y] : 0);
    bound *= row.inverse[k];
    bound = (bound < -m.far ? -m.far : bound > m.far ? m.far : bound) + row.side[k];
    if (over(low, bound)) low = bound;
    if (over(-high, -bound)) high = bound;
  }
  m.rank[at] = (float)rank, m.top[at] = top, m.partition[at] = partition, m.norm[at] = std::sqrt(square);
  if (m.predicted) m.predicted[at] = (int32_t)first;
  if (m.place) m.low[at] = low - apart, m.high[at] = high + apart;
}

void measure(const Measure &m, Row &row, int64_t size, int64_t b, int64_t c, float *total) {
  const int64_t at = b * m.configs + c, y = m.y[b];
  const float *z = m.z + at * m.classes, *prior = m.log_prior ? m.log_prior + c * m.classes : nullptr;
  const float own = z[y], far = m.far, prior_y = prior ? prior[y] : 0;
  std::copy(z, z + m.classes, row.z.begin());
  if (prior) std::copy(prior, prior + m.classes, row.prior.begin());
  Best best{all(-INFINITY), IVec{}};
  IVec index, before{};
  Vec finite{};
  for (int i = 0; i < VL; i++) index[i] = i;
  Vec low = all(-INFINITY), high = all(INFINITY);
  for (int64_t k = 0; k < size; k += VL) {
    Vec v = load(&row.z[k]), gap = v - own;
    store(total + k, load(total + k) + v);
    finite += v - v;
    before -= gap < load(&row.bound[k]);
    IVec better = v > best.value;
    best.value = better ? v : best.value;
    best.index = better ? index : best.index;
    index += (int32_t)VL;
    if (!m.place) continue;
    gap = (gap - load(&row.prior[k])) + prior_y;
    Vec bound = gap * load(&row.inverse[k]);
    bound = bound < all(-far) ? all(-far) : bound;
    bound = (bound > all(far) ? all(far) : bound) + load(&row.side[k]);
    low = larger(low, bound);
    high = bound < high ? bound : high;
  }
  m.own[at] = own;
  if (sum(finite) != 0) return measure_unusual(m, row, at, c, y);
  int64_t not_before = m.classes - size;  // padding counts as not before
  for (int i = 0; i < VL; i++) not_before += before[i];
  m.rank[at] = (float)(m.classes - not_before);
  const float top = largest(best.value);
  Vec partition{}, square{};
  for (int64_t k = 0; k < size; k += VL) {
    Vec e = exp2((load(&row.z[k]) - top) * LOG2_E);
    partition += e;
    square += e * e;
  }
  m.top[at] = top;
  m.partition[at] = sum(partition), m.norm[at] = std::sqrt(sum(square));
  if (m.predicted) m.predicted[at] = first_of(best, top);
  if (m.place) m.low[at] = largest(low) - 4 * far, m.high[at] = -largest(-high) + 4 * far;
}

}  // namespace

extern "C" void featbank_measure(const Measure *task) {
  const Measure &m = *task;
  const int64_t size = rounded_up(m.classes, VL);
  Row row(size);
  std::fill(row.z.begin(), row.z.end(), -3e38f);
  std::vector<float> part(m.configs * size);
  std::fill(m.total, m.total + m.configs * m.classes, 0.f);
  for (int64_t b0 = 0; b0 < m.rows; b0 += ROWS_TOGETHER) {
    std::fill(part.begin(), part.end(), 0.f);
    for (int64_t b = b0; b < least(b0 + ROWS_TOGETHER, m.rows); b++) {
      compare_with(m, row, m.y[b]);
      for (int64_t c = 0; c < m.configs; c++) measure(m, row, size, b, c, &part[c * size]);
    }
    for (int64_t c = 0; c < m.configs; c++)
      for (int64_t k = 0; k < m.classes; k++) m.total[c * m.classes + k] += part[c * size + k];
  }
}
