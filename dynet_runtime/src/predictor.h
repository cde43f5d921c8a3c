// What works on vectors: linear layers, means, and the predictors of coefficients, which fuse the kernels too.
#pragma once
#include <limits>

#include "context.h"

namespace DYNET_LEVEL {

// A matrix of weights as [outputs / WIDE][c_in][WIDE], the last outputs filled up with zeros.
struct Linear {
  static constexpr int WIDE = 64;
  int c_in = 0, c_out = 0, storage = FLOAT32;
  const void* weights = nullptr;
  const float *scales = nullptr, *bias = nullptr;  // filled up too

  int tasks() const { return (c_out + WIDE - 1) / WIDE; }

  template <int S> void part(const float* x, int number, float* y) const {
    auto from = static_cast<const typename Stored<S>::type*>(weights) + static_cast<int64_t>(number) * c_in * WIDE;
    Vec sum[WIDE / LANES] = {};
    for (int i = 0; i < c_in; i++, from += WIDE) {
      prefetch(from, WIDE);
#pragma GCC unroll 8
      for (int v = 0; v < WIDE / LANES; v++) sum[v] += x[i] * widen<S>(from + v * LANES);
    }
    for (int v = 0; v < WIDE / LANES; v++) {
      int at = number * WIDE + v * LANES;
      if (scales) sum[v] *= load(scales + at);
      store(y + v * LANES, sum[v] + load(bias + at));
    }
  }

  template <class F> void run_then(Pool& pool, const float* x, float* y, F after) const {
    pool.run(tasks(), [&](int number, int) {
      float values[WIDE];
      if (storage == FLOAT32) part<FLOAT32>(x, number, values);
      if (storage == BFLOAT16) part<BFLOAT16>(x, number, values);
      if (storage == INT8) part<INT8>(x, number, values);
      for (int v = 0; v < WIDE; v += LANES) store(values + v, after(load(values + v)));
      int first = number * WIDE;
      std::copy(values, values + std::min(WIDE, c_out - first), y + first);
    });
  }

  void run(Pool& pool, const float* x, float* y, int32_t activation) const {
    with_activation(activation, [&](auto a) {
      run_then(pool, x, y, [](Vec v) { return activate<decltype(a)::value>(v); });
    });
  }
};

// The means of the channels of a plane of quads; sums of bytes are exact.
inline void mean_of_quads(const Value& x, int plane, float* y) {
  const float* from = x.data + plane * x.plane;
  int64_t end = x.positions();
  Int sums[4] = {};
  for (int64_t i = 0; i < end; i += LANES) {
    Word bytes = Word(end - i < LANES ? load_masked(from + i, (1 << (end - i)) - 1) : load(from + i));
    for (int channel = 0; channel < 4; channel++) sums[channel] += Int(bytes >> (8 * channel) & 0xffu);
  }
  for (int channel = 0; channel < std::min(4, x.channels - 4 * plane); channel++) {
    int64_t total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sums[channel][lane];
    y[channel] = (static_cast<float>(total) / end - x.scale.zero) * x.scale.step;
  }
}

// Of one plane of a map, y[0], and where elements are pairs, of its two channels.
inline void mean_of_plane(const Value& x, int plane, float* y) {
  const float* from = x.data + plane * x.plane;
  int64_t i = 0, end = x.positions();
  Vec sums[2][2] = {};
  auto add = [&](Vec element, int which) {
    sums[0][which] += x.in_pairs() ? low_halves(element) : element;
    if (x.in_pairs()) sums[1][which] += high_halves(element);
  };
  for (; i + 2 * LANES <= end; i += 2 * LANES) add(load(from + i), 0), add(load(from + i + LANES), 1);
  for (; i < end; i += LANES) add(end - i < LANES ? load_masked(from + i, (1 << (end - i)) - 1) : load(from + i), 0);
  for (int channel = 0; channel < x.in_element(); channel++) {
    Vec sum = sums[channel][0] + sums[channel][1];
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sum[lane];
    y[channel] = total / end;
  }
}

// A vector is its own mean.
inline void mean_of_planes(Pool& pool, const Value& x, float* y) {
  if (!x.is_map()) {
    std::copy(x.data, x.data + x.channels, y);
    return;
  }
  constexpr int PLANES = 8;
  pool.run((x.planes() + PLANES - 1) / PLANES, [&](int number, int) {
    for (int plane = number * PLANES; plane < std::min(x.planes(), (number + 1) * PLANES); plane++)
      if (x.in_quads()) mean_of_quads(x, plane, y + 4 * plane);
      else mean_of_plane(x, plane, y + plane * x.in_element());
  });
}

// Coefficients of several dynamic convolutions, and right after them, in one pass over the banks, their kernels.
struct Predictor : Operation {
  int x;
  Linear hidden, output;  // hidden may have no weights
  int group_size, softmax;
  std::vector<float> lower, upper;  // limits of the means, or empty
  std::vector<int> features;
  std::vector<const Fusing*> convolutions;

  void shape(std::vector<Value>& values) const override {
    for (size_t i = 0; i < features.size(); i++) values[outputs[i]].shape_vector(group_size * features[i]);
    for (auto conv : convolutions) values[conv->kernel].shape_vector(conv->kernel_floats());
  }

  void run(Context& context) const override {
    Pool& pool = context.pool;
    std::vector<float> mean(context.values[x].channels), inside(hidden.c_out), logits(output.c_out);
    const float* from = mean.data();
    mean_of_planes(pool, context.values[x], mean.data());
    for (size_t c = 0; c < lower.size(); c++) mean[c] = std::min(std::max(mean[c], lower[c]), upper[c]);
    if (hidden.weights) {
      hidden.run(pool, from, inside.data(), RELU);
      from = inside.data();
    }
    output.run(pool, from, logits.data(), softmax ? NONE : SIGMOID);
    const float* part = logits.data();
    for (size_t i = 0; i < features.size(); i++) {
      float* eta = context.values[outputs[i]].data;
      std::copy(part, part + group_size * features[i], eta);
      part += group_size * features[i];
      if (softmax) normalise(eta, features[i]);
    }
    double start = seconds();
    int blocks = 0;
    for (auto conv : convolutions) blocks += conv->fusions();
    pool.run(blocks, [&](int number, int thread) {
      for (auto conv : convolutions) {
        int own = conv->fusions();
        if (number < own) return conv->fuse(context, number, thread);
        number -= own;
      }
    });
    context.fusion += seconds() - start;
  }

 private:
  void normalise(float* eta, int features) const {
    for (int f = 0; f < features; f++) {
      float largest = -std::numeric_limits<float>::infinity(), total = 0;
      for (int g = 0; g < group_size; g++) largest = std::max(largest, eta[g * features + f]);
      for (int g = 0; g < group_size; g++) total += eta[g * features + f] = std::exp(eta[g * features + f] - largest);
      for (int g = 0; g < group_size; g++) eta[g * features + f] /= total;
    }
  }
};

struct Dense : Operation {
  Linear linear;
  int32_t activation;

  void shape(std::vector<Value>& values) const override { values[outputs[0]].shape_vector(linear.c_out); }
  void run(Context& context) const override {
    linear.run(context.pool, context.values[inputs[0]].data, context.values[outputs[0]].data, activation);
  }
};

struct Mean : Operation {
  void shape(std::vector<Value>& values) const override {
    values[outputs[0]].shape_vector(values[inputs[0]].channels);
  }
  void run(Context& context) const override {
    mean_of_planes(context.pool, context.values[inputs[0]], context.values[outputs[0]].data);
  }
};

}  // namespace DYNET_LEVEL
