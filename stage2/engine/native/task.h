// What one call trains, as Python lays it out (library.py has the same fields in the same order).
#pragma once
#include <cstdint>

enum Head : int64_t { LINEAR, COSINE, MISLAS, TDE, LWS, DISALIGN, MLP };
enum Rule : int64_t { SGD, ADAMW };
enum Kernel : int64_t { FAMILY, SOFTMAX_BCE, SIGMOID_FOCAL };

// A stacked parameter [C, size] and what the optimiser keeps of it.
struct Parameter {
  float *value, *first, *second;     // velocity; or mean and square
  const float *anchor;               // or null
  int64_t anchor_stride;             // 0 where all configurations share it
  const float *decay, *rate;         // [C], or null for 0 and 1
  int64_t size;
};

struct Loss {                        // by configuration [C], or class [C, K]; null where neutral
  int64_t kernel;                    // of all configurations
  const float *scale, *shift, *margin, *weight, *smoothing;
  const float *elsewhere, *at_label, *gamma, *frozen_gamma;
  const uint8_t *by_weights;
  const float *angle, *best_cosine;
  const float *distil, *temperature, *distil_classes;
};

struct Task {
  int64_t head, rule, half;
  int64_t configs, classes, dim, hidden, parts, batch, steps, group, threads;
  int64_t first, last;               // configurations to train: first … last − 1
  const float *x;                    // [n, dim]
  const int64_t *rows, *labels;      // [steps, batch]
  const int64_t *second;             // labels of mixed rows, or null
  const float *share;                // share of the first label
  const float *z0;                   // stage-1 logits [m, K], or null
  const int64_t *z0_rows;            // [steps, batch]
  const float *norms0, *bias0;       // ‖w⁰_k‖ and b⁰ [K] of z⁰, for angles
  int64_t unit0;                     // z⁰ is that of x/‖x‖
  int64_t eq5;                       // disalign: alpha less 1
  const float *head_scale, *head_gamma;  // tde: tau and gamma [C]
  const float *rates;                // [steps, C]
  const float *momentum, *nesterov;  // sgd, [C]; nesterov may be null
  const double *beta1, *beta2;       // adamw, [C]
  const float *eps;
  double taken;                      // steps before these
  const float *limits;               // on the norms of rows of W, [C], or null
  Loss loss;
  double *total;                     // [C], grows by the loss of each step
  Parameter parameters[6];
};
