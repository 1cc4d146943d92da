// Trains a tile over consecutive batches in one call: C configurations, one after the other in each
// step, so that the features of a batch are arranged once for all of them. Threads share the classes
// of a product and the blocks of rows of a loss; each of these has its own order of operations,
// whatever their number.
#include <algorithm>
#include <cstdlib>
#include <optional>
#include "binary.h"
#include "heads.h"
#include "product.h"
#include "team.h"

namespace {

// Weights are packed, and gradients M kept, for as many classes as this leaves in the second cache.
constexpr int64_t HELD_BYTES = 192 << 10, PADDING = 16;

// Outputs of a layer that one of `threads` takes at once.
INLINE int64_t at_once(int64_t inputs, int64_t outputs, int64_t threads) {
  int64_t fit = std::max<int64_t>(HELD_BYTES / (4 * inputs) / LOGIT_CLASSES, 1) * LOGIT_CLASSES;
  int64_t share = rounded_up((outputs + threads - 1) / threads, LOGIT_CLASSES);
  return least(outputs, least(fit, share));
}

// Memory of a call, zeros at first.
struct Memory {
  std::vector<void *> blocks;
  bool failed = false;
  template <class T> T *of(int64_t n) {
    int64_t bytes = rounded_up(n * sizeof(T) + 1, 64);
    void *p = aligned_alloc(64, bytes);
    if (!p) return failed = true, nullptr;
    blocks.push_back(p);
    return (T *)memset(p, 0, bytes);
  }
  ~Memory() {
    for (void *p : blocks) free(p);
  }
};

// The inputs of a layer for a batch, as both products read them.
template <class F> struct Inputs {
  int64_t rows, size, padded, depth;
  float *plain;  // [rows, padded]
  typename F::Cell *cells, *across, *panels;

  Inputs(Memory &memory, int64_t rows, int64_t size)
      : rows(rows), size(size), padded(rounded_up(size, VL)), depth(padded / F::EACH) {
    plain = memory.of<float>(rows * padded);
    cells = F::EACH == 1 ? (typename F::Cell *)plain : memory.of<typename F::Cell>(rows * depth);
    across = memory.of<typename F::Cell>(rows * depth);
    // Rows of floats that fit one panel are that panel.
    panels = F::EACH == 1 && padded <= PANEL ? cells : memory.of<typename F::Cell>(rows * depth);
  }
  void arrange() {
    if (F::EACH > 1) narrow_row<F>(cells, plain, rows * padded);
    ::arrange<F>(cells, rows, padded, across, panels);
  }
  // From the outputs [rows/BLOCK][size][BLOCK] of another layer.
  void arrange(const float *z) {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < size; k++) plain[r * padded + k] = z[(r / BLOCK * size + k) * BLOCK + r % BLOCK];
    arrange();
  }
};

// Memory of a thread.
template <class F> struct Own {
  typename F::Cell *packed;
  float *m, *scratch, *extra = nullptr, *z2 = nullptr;
  Vec *tops;
};

template <class F> struct Trainer {
  typedef typename F::Cell Cell;
  const Task &task;
  const int64_t classes, batch, rows, blocks;
  Memory memory;
  Team team;
  std::vector<Own<F>> owns;
  Inputs<F> x;
  std::optional<Inputs<F>> hidden, back;  // of a perceptron: h, and G
  float *z0 = nullptr, *lengths, *part_lengths = nullptr, *hidden_lengths = nullptr, *share, *share2;
  int64_t *y, *second;
  // Of one configuration at a time:
  Cell *g;
  float *z, *hidden_z = nullptr, *hidden_back = nullptr, *factor, *offset, *norms, *weighed, *weighed2;
  float *bias_gradient, *scale_gradient, *gate;
  Vec *tops, *sums, *sums2, *totals;
  const int64_t most, places;  // outputs of a layer; places where sums over the batch are kept
  bool angles = false, distils = false;

  explicit Trainer(const Task &t)
      : task(t), classes(t.classes), batch(t.batch), rows(rounded_up(t.batch, BLOCK)), blocks(rows / BLOCK),
        team(t.threads), owns(team.size()), x(memory, rows, t.dim), most(std::max(t.hidden, classes)),
        places(team.size() > 1 ? blocks : 1) {
    for (int64_t c = 0; c < t.configs; c++) {
      angles |= t.loss.angle && t.loss.angle[c] != 0;
      distils |= t.loss.distil && t.loss.distil[c] != 0;
    }
    int64_t cells = 0, numbers = 0;
    auto layer = [&](const Inputs<F> &in, int64_t outputs) {
      int64_t held = at_once(in.padded, outputs, team.size());
      cells = std::max(cells, held * (in.depth + PADDING)), numbers = std::max(numbers, held * in.padded);
    };
    if (t.hidden) {
      hidden.emplace(memory, rows, t.hidden), back.emplace(memory, rows, classes);
      hidden_z = memory.of<float>(rows * t.hidden), hidden_back = memory.of<float>(rows * t.hidden);
      layer(x, t.hidden), layer(*hidden, classes), layer(*back, t.hidden);
    } else {
      layer(x, classes);
    }
    g = memory.of<Cell>(most * rows / F::EACH);
    z = memory.of<float>(rows * classes);
    if (t.z0) z0 = memory.of<float>(rows * classes);
    if (t.head == TDE) part_lengths = memory.of<float>(rows * t.parts);
    if (t.hidden) hidden_lengths = memory.of<float>(rows);
    lengths = memory.of<float>(rows), share = memory.of<float>(rows), share2 = memory.of<float>(rows);
    weighed = memory.of<float>(rows), weighed2 = memory.of<float>(rows), gate = memory.of<float>(2 * rows);
    y = memory.of<int64_t>(rows), second = memory.of<int64_t>(rows);
    factor = memory.of<float>(most), offset = memory.of<float>(most), norms = memory.of<float>(classes);
    bias_gradient = memory.of<float>(most), scale_gradient = memory.of<float>(classes);
    sums = memory.of<Vec>(places * most), sums2 = memory.of<Vec>(classes), totals = memory.of<Vec>(blocks);
    for (Own<F> &own : owns) {
      own.packed = memory.of<Cell>(cells), own.m = memory.of<float>(numbers);
      own.scratch = memory.of<float>(std::max(x.padded, most));
      own.tops = memory.of<Vec>(blocks * ROW_VECTORS);
      if (distils || t.second) own.extra = memory.of<float>(BLOCK * classes);
      if (t.second) own.z2 = memory.of<float>(BLOCK * classes);
    }
    tops = owns[0].tops;
  }

  int64_t run() {
    if (memory.failed) return 1;
    for (int64_t c0 = task.first; c0 < task.last; c0 += task.group)
      for (int64_t s = 0; s < task.steps; s++) {
        read(s);
        for (int64_t c = c0; c < least(c0 + task.group, task.last); c++) step(c, s);
      }
    return 0;
  }

  // ---- the batch

  void read(int64_t s) {
    const int64_t *at = task.rows + s * batch, dim = task.dim;
    for (int64_t r = 0; r < batch; r++) {
      float *to = x.plain + r * x.padded;
      memcpy(to, task.x + at[r] * dim, 4 * dim);
      y[r] = task.labels[s * batch + r];
      share[r] = 1.f / batch;
      if (task.second) {
        second[r] = task.second[s * batch + r];
        float first = task.share[s * batch + r];
        share[r] = first / batch, share2[r] = (1 - first) / batch;
      }
      lengths[r] = task.head == COSINE || task.unit0 ? 1 : angles ? length(to, dim) : 0;
      if (task.head != COSINE && task.head != TDE) continue;
      int64_t parts = task.head == TDE ? task.parts : 1, n = dim / parts;
      for (int64_t h = 0; h < parts; h++) {
        float part = std::fmax(length(to + h * n, n), 1e-12f);
        for (int64_t d = h * n; d < (h + 1) * n; d++) to[d] /= part;
        if (part_lengths) part_lengths[r * parts + h] = part;
      }
    }
    if (task.head != LWS) x.arrange();
    if (z0)
      for (int64_t r = 0; r < batch; r++) {
        const float *from = task.z0 + task.z0_rows[s * batch + r] * classes;
        float *to = z0 + r / BLOCK * classes * BLOCK + r % BLOCK;
        for (int64_t k = 0; k < classes; k++) to[k * BLOCK] = from[k];
      }
  }

  // ---- the losses of one configuration

  // share·ω of each row; divided by their sum where the loss is.
  void weigh(const ConfigLoss &loss) {
    float total = 0;
    for (int64_t r = 0; r < batch; r++) {
      weighed[r] = share[r] * (loss.weight ? loss.weight[y[r]] : 1);
      weighed2[r] = task.second ? share2[r] * (loss.weight ? loss.weight[second[r]] : 1) : 0;
      total += weighed[r] + weighed2[r];
    }
    if (!loss.weight || !loss.by_weights || !(total > 0)) return;
    for (int64_t r = 0; r < batch; r++) weighed[r] /= total, weighed2[r] /= total;
  }

  // cos(x, w_y) of the rows of a block, where a loss needs them; w is that of stage 1 where there is
  // no other. product(r, k) = ⟨x, w_k⟩, of_input [rows] = ‖x‖.
  template <class Product>
  const float *cosines(const ConfigLoss &loss, const int64_t *y, int64_t r0, const float *of_input, const float *of_class,
                       float *to, Product product) const {
    if (loss.angle == 0) return nullptr;
    for (int r = 0; r < BLOCK; r++) {
      float cosine = product(r, y[r]) / std::fmax(of_input[r0 + r] * of_class[y[r]], 1e-12f);
      to[r] = std::fmax(-1.f, std::fmin(1.f, cosine));
    }
    return to;
  }

  // Turns u of a block into ∂L/∂z; calls emit(k, v) with the vectors of a class. angles(y, to) are the
  // cosines of the labels y.
  template <class Angles, class Emit>
  void loss_of(const ConfigLoss &loss, int64_t b, float *u, const Own<F> &own, Angles angles, Emit emit) {
    const int64_t r0 = b * BLOCK;
    float *extra = own.extra, *z2 = own.z2;
    Vec &total = totals[b] = Vec{};
    const float *a = loss.scale;
    const bool adds = loss.distil != 0 || task.second;
    float angle[BLOCK], weight[BLOCK];
    if (adds) memset(extra, 0, 4 * BLOCK * classes);
    if (loss.distil != 0) {
      auto distilled = [&](int64_t k) { return loss.distil_classes ? loss.distil_classes[k] : 1.f; };
      for (int r = 0; r < BLOCK; r++) {
        weight[r] = r0 + r < batch ? share[r0 + r] * distilled(y[r0 + r]) : 0;
        if (task.second && r0 + r < batch) weight[r] += share2[r0 + r] * distilled(second[r0 + r]);
        weight[r] *= loss.distil * loss.temperature;
      }
      distillation(loss, u, z0 + b * classes * BLOCK, weight, extra, total);
    }
    if (task.second) {
      memcpy(z2, u, 4 * BLOCK * classes);
      const float *cosine = angles(second + r0, angle);
      Gradient part = block_loss(loss, z2, tops + b * ROW_VECTORS, second + r0, weighed2 + r0, cosine, total);
      for (int64_t k = 0; k < classes; k++) EACH_VECTOR {
        Vec v = load(z2 + k * BLOCK + j * VL) * part.slope[j] - part.flat[j];
        float *to = extra + k * BLOCK + j * VL;
        store(to, load(to) + (a ? v * a[k] : v));
      }
    }
    const float *cosine = angles(y + r0, angle);
    Gradient part = block_loss(loss, u, tops + b * ROW_VECTORS, y + r0, weighed + r0, cosine, total);
    for (int64_t k = 0; k < classes; k++) {
      Vec v[ROW_VECTORS];
      UNROLL EACH_VECTOR {
        v[j] = load(u + k * BLOCK + j * VL) * part.slope[j] - part.flat[j];
        if (a) v[j] = v[j] * a[k];
        if (adds) v[j] += load(extra + k * BLOCK + j * VL);
      }
      emit(k, v);
    }
  }

  void narrow_gradient(int64_t k, int64_t b, const Vec *v) {
    EACH_VECTOR F::narrow(g + (k * rows + b * BLOCK + j * VL) / F::EACH, v[j]);
  }

  // ---- layers

  // u [blocks][outputs][BLOCK] of a layer, or one block after the other in the same place; packs
  // `outputs` rows of weights by pack(k, to, own) and calls after(b, u, own) when those of a block are
  // there.
  template <class Pack, class After>
  void forward(const Inputs<F> &in, int64_t outputs, float *u, bool keep, Pack pack, After after) {
    const int64_t held = at_once(in.padded, outputs, team.size()), stride = in.depth + PADDING;
    const int64_t parts = (outputs + held - 1) / held;
    keep |= parts > 1;
    for (Own<F> &own : owns) std::fill(own.tops, own.tops + blocks * ROW_VECTORS, all(-3e38f));
    team.each(parts, [&](int64_t i, int worker) {
      const Own<F> &own = owns[worker];
      const int64_t k0 = i * held, n = least(held, outputs - k0);
      for (int64_t k = 0; k < n; k++) pack(k0 + k, own.packed + k * stride, own);
      for (int64_t b = 0; b < blocks; b++) {
        float *to = u + (keep ? b * outputs * BLOCK : 0);
        logits<F>(own.packed, stride, n, in.depth, in.across + b * in.depth * BLOCK, factor + k0, offset + k0,
                  to + k0 * BLOCK, own.tops + b * ROW_VECTORS);
        if (parts == 1) after(b, to, own);
      }
    });
    if (parts == 1) return;
    team.each(blocks, [&](int64_t b, int worker) {
      for (const Own<F> &own : owns)
        for (int64_t i = b * ROW_VECTORS; i < (b + 1) * ROW_VECTORS; i++) tops[i] = larger(tops[i], own.tops[i]);
      after(b, u + b * outputs * BLOCK, owns[worker]);
    });
  }

  // Steps a layer whose outputs have the gradients g, their sums over the batch in `sums`.
  void backward(const Inputs<F> &in, const Layer &layer) {
    const int64_t held = at_once(in.padded, layer.outputs, team.size()), stride = rows / F::EACH;
    team.each((layer.outputs + held - 1) / held, [&](int64_t i, int worker) {
      const int64_t k0 = i * held, n = least(held, layer.outputs - k0);
      float *m = owns[worker].m;
      gradients<F>(g + k0 * stride, stride, n, stride, in.panels, in.padded, m);
      for (int64_t k = k0; k < k0 + n; k++) {
        Vec total = sums[k];
        for (int64_t b = 1; b < places; b++) total += sums[b * most + k];
        layer.step(k, m + (k - k0) * in.padded, sum(total), bias_gradient, scale_gradient);
      }
    });
  }

  void update(int place, int64_t c, int64_t s, const float *gradient) {
    const Parameter &p = task.parameters[place];
    Update(task, p, c, s)(0, gradient, p.size);
  }

  // ---- heads

  void step(int64_t c, int64_t s) {
    ConfigLoss loss(task.loss, c, classes);
    weigh(loss);
    memset(sums, 0, sizeof(Vec) * places * most);
    if (task.head == LWS) lws(loss, c, s);
    else if (task.head == DISALIGN) disalign(loss, c, s);
    else if (task.head == MLP) perceptron(loss, c, s);
    else linear(loss, c, s);
    Vec total = totals[0];
    for (int64_t b = 1; b < blocks; b++) total += totals[b];
    task.total[c] += sum(total);
  }

  // The last layer: its logits, losses, and gradients g.
  void classify(const Inputs<F> &in, const Layer &layer, const ConfigLoss &loss, bool keep) {
    auto pack = [&](int64_t k, Cell *to, const Own<F> &own) {
      narrow_row<F>(to, layer.row(k, own.scratch), layer.inputs);
      layer.affine(k, factor[k], offset[k]);
      if (loss.angle != 0) norms[k] = length(layer.w + k * layer.inputs, layer.inputs);
      if (loss.scale) factor[k] *= loss.scale[k], offset[k] *= loss.scale[k];
      if (loss.shift) offset[k] += loss.shift[k];
    };
    const float *of_input = &in == &x ? lengths : hidden_lengths;
    if (loss.angle != 0 && &in != &x)
      for (int64_t r = 0; r < rows; r++) hidden_lengths[r] = length(in.plain + r * in.padded, in.size);
    forward(in, classes, z, keep, pack, [&](int64_t b, float *u, const Own<F> &own) {
      auto product = [&](int r, int64_t k) {
        if (task.head != TDE) return (u[k * BLOCK + r] - offset[k]) / factor[k];
        return part_products(layer.w + k * task.dim, b * BLOCK + r);
      };
      auto angles = [&](const int64_t *y, float *to) { return cosines(loss, y, b * BLOCK, of_input, norms, to, product); };
      Vec *gathered = sums + (places > 1 ? b * most : 0);
      loss_of(loss, b, u, own, angles, [&](int64_t k, const Vec *v) {
        gathered[k] += v[0] + v[1];
        narrow_gradient(k, b, v);
        if (keep) lanes(u + k * BLOCK, v);
      });
    });
  }

  // ⟨x, w⟩ of a row whose parts have length 1.
  float part_products(const float *w, int64_t r) const {
    float total = 0;
    const int64_t n = task.dim / task.parts;
    for (int64_t h = 0; h < task.parts; h++)
      total += part_lengths[r * task.parts + h] * dot(x.plain + r * x.padded + h * n, w + h * n, n);
    return total;
  }

  void linear(const ConfigLoss &loss, int64_t c, int64_t s) {
    Layer layer(task, c, s, 0, classes, task.dim);
    classify(x, layer, loss, false);
    backward(x, layer);
    if (task.head == LINEAR || task.head == MISLAS) update(1, c, s, bias_gradient);
    if (task.head == COSINE) {
      float total = 0;
      for (int64_t k = 0; k < classes; k++) total += scale_gradient[k];
      update(1, c, s, &total);
    }
    if (task.head == MISLAS) update(2, c, s, scale_gradient);
  }

  void perceptron(const ConfigLoss &loss, int64_t c, int64_t s) {
    Layer below(task, c, s, 0, task.hidden, task.dim), above(task, c, s, 2, classes, task.hidden);
    auto pack = [&](int64_t k, Cell *to, const Own<F> &) {
      narrow_row<F>(to, below.w + k * task.dim, task.dim);
      factor[k] = 1, offset[k] = below.bias[k];
    };
    forward(x, task.hidden, hidden_z, true, pack, [&](int64_t, float *u, const Own<F> &) {
      for (int64_t i = 0; i < task.hidden * BLOCK; i += VL) store(u + i, larger(load(u + i), Vec{}));
    });
    hidden->arrange(hidden_z);
    classify(*hidden, above, loss, true);
    // ∂L/∂h = GW while W is still that of this step; it passes the relu where h > 0.
    back->arrange(z);
    auto transposed = [&](int64_t h, Cell *to, const Own<F> &own) {
      for (int64_t k = 0; k < classes; k++) own.scratch[k] = above.w[k * task.hidden + h];
      narrow_row<F>(to, own.scratch, classes);
      factor[h] = 1, offset[h] = 0;
    };
    forward(*back, task.hidden, hidden_back, true, transposed, [](int64_t, float *, const Own<F> &) {});
    backward(*hidden, above);
    update(3, c, s, bias_gradient);
    memset(sums, 0, sizeof(Vec) * places * most);
    for (int64_t b = 0; b < blocks; b++)
      for (int64_t h = 0; h < task.hidden; h++) {
        Vec v[ROW_VECTORS];
        EACH_VECTOR {
          int64_t at = (b * task.hidden + h) * BLOCK + j * VL;
          v[j] = load(hidden_z + at) > Vec{} ? load(hidden_back + at) : Vec{};
        }
        sums[h] += v[0] + v[1];
        narrow_gradient(h, b, v);
      }
    backward(x, below);
    update(1, c, s, bias_gradient);
  }

  // The cosines of stage 1 of a block, which follow from z⁰ = ⟨w, x⟩ + b⁰.
  auto angles_of_z0(const ConfigLoss &loss, int64_t b) const {
    return [this, &loss, b](const int64_t *y, float *to) {
      auto product = [&](int r, int64_t k) { return z0[(b * classes + k) * BLOCK + r] - task.bias0[k]; };
      return cosines(loss, y, b * BLOCK, lengths, task.norms0, to, product);
    };
  }

  // z = s ⊙ z⁰.
  void lws(const ConfigLoss &loss, int64_t c, int64_t s) {
    const float *scale = task.parameters[0].value + c * classes;
    for (int64_t b = 0; b < blocks; b++) {
      const float *known = z0 + b * classes * BLOCK;
      calibrate(loss, b, [&](int64_t k, int j) { return load(known + k * BLOCK + j * VL) * scale[k]; });
      loss_of(loss, b, z, owns[0], angles_of_z0(loss, b), [&](int64_t k, const Vec *v) {
        EACH_VECTOR sums[k] += v[j] * load(known + k * BLOCK + j * VL);
      });
    }
    for (int64_t k = 0; k < classes; k++) scale_gradient[k] = sum(sums[k]);
    update(0, c, s, scale_gradient);
  }

  // u = a·z + m of a block in z, and its tops.
  template <class Z> void calibrate(const ConfigLoss &loss, int64_t b, Z logit) {
    Vec *top = tops + b * ROW_VECTORS;
    EACH_VECTOR top[j] = all(-3e38f);
    for (int64_t k = 0; k < classes; k++) UNROLL EACH_VECTOR {
      Vec u = logit(k, j);
      if (loss.scale) u = u * loss.scale[k];
      if (loss.shift) u = u + loss.shift[k];
      store(z + k * BLOCK + j * VL, u);
      top[j] = larger(top[j], u);
    }
  }

  // z = z⁰ + σA with A = αz⁰ + β, and σ = sigmoid(v·x + c) or 1.
  void disalign(const ConfigLoss &loss, int64_t c, int64_t s) {
    const Parameter *p = task.parameters;
    const float *alpha = p[0].value + c * classes, *beta = p[1].value + c * classes;
    const bool gated = p[2].value;
    float *sigma = gate, *through = gate + rows;
    if (gated) confidence(c, sigma);
    else std::fill(sigma, sigma + rows, 1.f);
    memset(sums2, 0, sizeof(Vec) * classes);
    for (int64_t b = 0; b < blocks; b++) {
      const float *known = z0 + b * classes * BLOCK;
      Vec confident[ROW_VECTORS], turned[ROW_VECTORS] = {};
      vectors(confident, sigma + b * BLOCK);
      auto calibration = [&](int64_t k, int j) {
        return load(known + k * BLOCK + j * VL) * (alpha[k] - (float)task.eq5) + beta[k];
      };
      calibrate(loss, b, [&](int64_t k, int j) {
        return load(known + k * BLOCK + j * VL) + confident[j] * calibration(k, j);
      });
      loss_of(loss, b, z, owns[0], angles_of_z0(loss, b), [&](int64_t k, const Vec *of_k) {
        EACH_VECTOR {
          turned[j] += of_k[j] * calibration(k, j);
          Vec v = of_k[j] * confident[j];
          sums[k] += v;
          sums2[k] += v * load(known + k * BLOCK + j * VL);
        }
      });
      EACH_VECTOR turned[j] = turned[j] * confident[j] * (1.f - confident[j]);
      lanes(through + b * BLOCK, turned);
    }
    for (int64_t k = 0; k < classes; k++) scale_gradient[k] = sum(sums2[k]), bias_gradient[k] = sum(sums[k]);
    update(0, c, s, scale_gradient);
    update(1, c, s, bias_gradient);
    if (!gated) return;
    float whole = 0;
    for (int64_t r = 0; r < rows; r++) whole += through[r];
    narrow_row<F>(g, through, rows);
    gradients<F>(g, rows / F::EACH, 1, rows / F::EACH, x.panels, x.padded, owns[0].m);
    update(2, c, s, owns[0].m);
    update(3, c, s, &whole);
  }

  void confidence(int64_t c, float *sigma) {
    const Parameter *p = task.parameters;
    auto pack = [&](int64_t, Cell *to, const Own<F> &) {
      narrow_row<F>(to, p[2].value + c * task.dim, task.dim);
      factor[0] = 1, offset[0] = p[3].value[c];
    };
    forward(x, 1, sigma, true, pack, [](int64_t, float *t, const Own<F> &) {
      for (int j = 0; j < ROW_VECTORS; j++) {
        Vec e = exp2(load(t + j * VL) * -LOG2_E);
        store(t + j * VL, 1.f / (1.f + e));
      }
    });
  }
};

template <class F> int64_t run(const Task &task) {
  FlushToZero guard;
  return Trainer<F>(task).run();
}

}  // namespace

// 0; 1 where memory does not suffice, 2 where this build has no bf16. Nothing is changed then.
extern "C" int64_t featbank_train(const Task *task) {
#if defined(__AVX512BF16__)
  if (task->half) return run<Half>(*task);
#else
  if (task->half) return 2;
#endif
  return run<Single>(*task);
}

extern "C" int64_t featbank_has_bf16() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}
