// The operations of a program, for one image. Maps lie plane by plane; values without positions are plain vectors.
#pragma once
#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <memory>

#include "convolution.h"
#include "pool.h"

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Value {
  int channels = 0, height = 0, width = 0;  // no height: a vector
  int64_t plane = 1;                        // floats from channel to channel
  float* data = nullptr;

  bool is_map() const { return height > 0; }
  int64_t positions() const { return static_cast<int64_t>(height) * width; }
  int64_t floats() const { return (channels * plane + 15) / 16 * 16 + 64; }  // a tile may read beyond the end
  void shape(int c, int h, int w) {
    channels = c, height = h, width = w;
    plane = h ? (positions() + 15) / 16 * 16 : 1;
  }
};

// What one image at a time needs: its values, scratch for each thread, and the threads.
struct Context {
  explicit Context(int threads) : pool(threads), scratch(threads) {}

  Pool pool;
  double fusion = 0;  // seconds of this image, as part of the predictors'
  std::vector<Value> values;
  std::vector<std::vector<float>> scratch;
  std::map<std::array<int, 9>, Masks> all_masks;

  const Masks& masks(const Geometry& g, int height, int width) {
    std::array<int, 9> key = {g.kernel[0], g.kernel[1], g.dilation[0], g.dilation[1], g.same, g.padding[0][0],
                              g.padding[1][0], height, width};
    auto found = all_masks.find(key);
    if (found == all_masks.end()) found = all_masks.emplace(key, Masks(g, height, width)).first;
    return found->second;
  }

  float* scratch_of(int thread, int64_t floats) {
    auto& own = scratch[thread];
    if (static_cast<int64_t>(own.size()) < floats + 16) own.resize(floats + 16);
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(own.data()) + 63) / 64 * 64);
  }
};

struct Operation {
  std::vector<int> inputs, outputs;
  virtual ~Operation() = default;
  virtual bool shape(std::vector<Value>& values) const = 0;  // of the outputs; false if the image is too small
  virtual void run(Context& context) const = 0;
};

struct Convolution : Operation {
  Geometry g;
  int x, y, coefficients, residual, kernel;  // values; kernel is the fused one, or -1
  int shared, group_size, storage;
  const void* weights;  // a static kernel's panels, or the bank
  const float *scales, *bias;
  std::vector<Block> blocks;
  int64_t panels;  // floats

  bool shape(std::vector<Value>& values) const override {
    const Value& in = values[x];
    int height = g.output(0, in.height), width = g.output(1, in.width);
    if (height < 1 || width < 1) return false;
    values[y].shape(g.c_out, height, width);
    return true;
  }

  void fuse(const Context& context, int block, float* panel) const {
    const float* eta = context.values[coefficients].data;
    auto with = [&](auto s) {
      fuse_block<decltype(s)::value>(blocks[block], weights, scales, g.c_out, eta, shared, group_size, panel);
    };
    if (storage == FLOAT32) with(std::integral_constant<int, FLOAT32>());
    if (storage == BFLOAT16) with(std::integral_constant<int, BFLOAT16>());
    if (storage == INT8) with(std::integral_constant<int, INT8>());
  }

  void run(Context& context) const override {
    const Value &in = context.values[x], &out = context.values[y];
    const float* panel = kernel < 0 ? static_cast<const float*>(weights) : context.values[kernel].data;
    const float* add = residual < 0 ? nullptr : context.values[residual].data;
    with_tile_activation(g.activation, [&](auto a) {
      constexpr int A = decltype(a)::value;
      if (g.in_place() && g.groups == 1) run_pointwise<A>(context, in, out, panel, add);
      else if (g.keeps(in.height, in.width)) run_masked<A>(context, in, out, panel, add);
      else run_strips<A>(context, in, out, panel, add);
    });
  }

 private:
  Task task(const Value& in, const Value& out, const float* panel, const float* add, const Block& b) const {
    int64_t to = b.first * out.plane;
    return {in.data, in.plane, g.c_in, nullptr, 1, panel + b.panel, bias + b.first, nullptr, add ? add + to : nullptr,
            out.data + to, out.plane};
  }

  template <int A>
  void run_pointwise(Context& context, const Value& in, const Value& out, const float* panel, const float* add) const {
    static constexpr int here[1] = {0};
    constexpr int CHUNK = 64;
    int count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK, wanted = 4 * context.pool.threads();
    int parts = chunks >= wanted ? 1 : std::min(count, (wanted + chunks - 1) / chunks);
    int lones = out.positions() % LANES <= LONE ? out.positions() % LANES : 0;
    int size = (g.c_in * BLOCK + 47) / 48 * 48;  // of a panel of BLOCK outputs
    context.pool.run(chunks * parts, [&](int number, int thread) {
      int64_t begin = static_cast<int64_t>(number / parts) * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts, first = part * count / parts, last = (part + 1) * count / parts;
      int own = end == out.positions() ? lones : 0;
      float* repeated = context.scratch_of(thread, static_cast<int64_t>(own) * size);
      for (int i = 0; i < own; i++) repeat_inputs(in.data + end - own + i, in.plane, g.c_in, size, repeated + i * size);
      for (int block = first; block < last; block++) {
        Task t = task(in, out, panel, add, blocks[block]);
        t.offsets = here;
        bool apart = blocks[block].width == BLOCK;
        int64_t whole = apart ? end - own : end;
        with_width(blocks[block].width, [&](auto m) { direct<decltype(m)::value, A, false>(t, begin, whole); });
        for (int i = 0; apart && i < own; i++) lone<A>(t, repeated + i * size, size, end - own + i);
      }
    });
  }

  // Blocks of channels by chunks of positions, with masks for what is outside of the map.
  template <int A>
  void run_masked(Context& context, const Value& in, const Value& out, const float* panel, const float* add) const {
    constexpr int64_t WORK = 50000, CHUNK = 256;  // multiply-adds that are worth a task; positions that stay in a cache
    const Masks& masks = context.masks(g, in.height, in.width);
    int inputs = g.c_in / g.groups, count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK;
    int64_t work = out.positions() * inputs * g.taps() * g.c_out / chunks;
    int parts = std::max<int64_t>(1, std::min<int64_t>(count, work / WORK));
    context.pool.run(chunks * parts, [&](int number, int) {
      int64_t begin = number / parts * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts;
      for (int block = part * count / parts; block < (part + 1) * count / parts; block++) {
        Task t = task(in, out, panel, add, blocks[block]);
        int group = blocks[block].first / (g.c_out / g.groups);
        t.x += group * inputs * in.plane;
        t.inputs = inputs, t.offsets = masks.offsets.data(), t.taps = g.taps(), t.masks = masks.bits.data();
        with_width(blocks[block].width, [&](auto m) { direct<decltype(m)::value, A, true>(t, begin, end); });
      }
    });
  }

  // Rows by blocks of channels, from padded copies.
  template <int A>
  void run_strips(Context& context, const Value& in, const Value& out, const float* panel, const float* add) const {
    constexpr int POSITIONS = 1024, WORK = 50000;  // of a strip; multiply-adds that are worth a task
    int inputs = g.c_in / g.groups, threads = context.pool.threads();
    int rows = std::max(1, std::min(out.height, POSITIONS / out.width));
    int strips = (out.height + rows - 1) / rows;
    rows = (out.height + strips - 1) / strips;
    strips = (out.height + rows - 1) / rows;
    const Strip s(g, rows, out.width);
    int units = g.groups > 1 ? g.groups : static_cast<int>(blocks.size());  // that can be worked on apart
    int64_t work = static_cast<int64_t>(rows) * out.width * inputs * g.taps() * g.c_out;
    int parts = std::max<int64_t>(1, std::min<int64_t>(units, work / WORK));
    if (g.groups == 1) parts = strips >= 3 * threads ? 1 : std::min(parts, (3 * threads + strips - 1) / strips);
    int per_unit = blocks.size() / units;
    context.pool.run(strips * parts, [&](int number, int thread) {
      int first = number / parts * rows, part = number % parts, count = std::min(rows, out.height - first);
      float* padded = context.scratch_of(thread, static_cast<int64_t>(inputs) * s.plane + 64);
      for (int unit = part * units / parts; unit < (part + 1) * units / parts; unit++) {
        if (g.groups > 1 || unit == part * units / parts) {
          const float* from = in.data + (g.groups > 1 ? unit : 0) * inputs * in.plane;
          for (int i = 0; i < inputs; i++)
            s.copy(g, from + i * in.plane, in.height, in.width, first, count, padded + i * s.plane);
        }
        for (int block = unit * per_unit; block < (unit + 1) * per_unit; block++) {
          Task t = task(in, out, panel, add, blocks[block]);
          t.x = padded, t.plane = s.plane, t.inputs = inputs, t.offsets = s.offsets, t.taps = g.taps();
          with_width(blocks[block].width, [&](auto m) { strip<decltype(m)::value, A>(t, s, first, count); });
        }
      }
    });
  }
};

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

inline void mean_of_planes(Pool& pool, const Value& x, float* y) {
  constexpr int CHANNELS = 8;
  pool.run((x.channels + CHANNELS - 1) / CHANNELS, [&](int number, int) {
    for (int c = number * CHANNELS; c < std::min(x.channels, (number + 1) * CHANNELS); c++) {
      const float* from = x.data + c * x.plane;
      int64_t i = 0, end = x.positions();
      Vec sums[4] = {};
      for (; i + 4 * LANES <= end; i += 4 * LANES)
        for (int v = 0; v < 4; v++) sums[v] += load(from + i + v * LANES);
      Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      float total = 0;
      for (int lane = 0; lane < LANES; lane++) total += sum[lane];
      for (; i < end; i++) total += from[i];
      y[c] = total / end;
    }
  });
}

// Coefficients of several dynamic convolutions, and right after them, in one pass over the banks, their kernels.
struct Predictor : Operation {
  int x;
  Linear hidden, output;  // hidden may have no weights
  int group_size, softmax;
  std::vector<int> features;
  std::vector<const Convolution*> convolutions;

  bool shape(std::vector<Value>& values) const override {
    for (size_t i = 0; i < features.size(); i++) values[outputs[i]].shape(group_size * features[i], 0, 0);
    for (auto conv : convolutions) values[conv->kernel].shape(conv->panels, 0, 0);
    return true;
  }

  void run(Context& context) const override {
    Pool& pool = context.pool;
    std::vector<float> mean(context.values[x].channels), inside(hidden.c_out), logits(output.c_out);
    const float* from = mean.data();
    mean_of_planes(pool, context.values[x], mean.data());
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
    for (auto conv : convolutions) blocks += conv->blocks.size();
    pool.run(blocks, [&](int number, int) {
      for (auto conv : convolutions) {
        int own = conv->blocks.size();
        if (number < own) return conv->fuse(context, number, context.values[conv->kernel].data);
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

  bool shape(std::vector<Value>& values) const override {
    values[outputs[0]].shape(linear.c_out, 0, 0);
    return true;
  }
  void run(Context& context) const override {
    linear.run(context.pool, context.values[inputs[0]].data, context.values[outputs[0]].data, activation);
  }
};

struct Mean : Operation {
  bool shape(std::vector<Value>& values) const override {
    values[outputs[0]].shape(values[inputs[0]].channels, 0, 0);
    return true;
  }
  void run(Context& context) const override {
    mean_of_planes(context.pool, context.values[inputs[0]], context.values[outputs[0]].data);
  }
};

// Of one value an activation; of two, where the second may be a vector for a map, their sum or product.
struct Elementwise : Operation {
  enum { ADD = -1, MULTIPLY = -2 };
  int32_t function;

  bool shape(std::vector<Value>& values) const override {
    const Value& x = values[inputs[0]];
    values[outputs[0]].shape(x.channels, x.height, x.width);
    return true;
  }

  void run(Context& context) const override {
    const Value &x = context.values[inputs[0]], &y = context.values[outputs[0]];
    const Value& other = context.values[inputs.back()];
    int rows = x.is_map() ? x.channels : 1;
    int64_t length = x.is_map() ? x.plane : x.channels;
    context.pool.run(rows, [&](int c, int) {
      const float *a = x.data + c * x.plane, *b = other.data + c * other.plane;
      float* to = y.data + c * y.plane;
      bool one = x.is_map() && !other.is_map();
      if (function == ADD) {
        for (int64_t i = 0; i < length; i++) to[i] = a[i] + b[one ? 0 : i];
      } else if (function == MULTIPLY) {
        for (int64_t i = 0; i < length; i++) to[i] = a[i] * b[one ? 0 : i];
      } else {
        with_activation(function, [&](auto f) {
          for (int64_t i = 0; i < length; i++) to[i] = activate<decltype(f)::value>(a[i]);
        });
      }
    });
  }
};

struct MaxPool : Operation {
  Geometry g;

  bool shape(std::vector<Value>& values) const override {
    const Value& x = values[inputs[0]];
    int height = g.output(0, x.height), width = g.output(1, x.width);
    values[outputs[0]].shape(x.channels, height, width);
    return height > 0 && width > 0;
  }

  void run(Context& context) const override {
    const Value &x = context.values[inputs[0]], &y = context.values[outputs[0]];
    int up = g.before(0, x.height), left = g.before(1, x.width);
    context.pool.run(x.channels, [&](int c, int thread) {
      float* row = context.scratch_of(thread, x.width);  // the largest of the rows of a window
      for (int i = 0; i < y.height; i++) {
        int top = std::max(0, i * g.strides[0] - up), bottom = std::min(x.height, i * g.strides[0] - up + g.kernel[0]);
        const float* from = x.data + c * x.plane;
        std::copy(from + top * x.width, from + (top + 1) * x.width, row);
        for (int r = top + 1; r < bottom; r++)
          for (int j = 0; j < x.width; j++) row[j] = std::max(row[j], from[r * x.width + j]);
        float* to = y.data + c * y.plane + i * y.width;
        for (int j = 0; j < y.width; j++) {
          int first = std::max(0, j * g.strides[1] - left), last = std::min(x.width, j * g.strides[1] - left + g.kernel[1]);
          float largest = row[first];
          for (int k = first + 1; k < last; k++) largest = std::max(largest, row[k]);
          to[j] = largest;
        }
      }
    });
  }
};

// Channels of the inputs side by side, in any order.
struct Channels : Operation {
  std::vector<std::pair<int, int>> from;  // for each channel of the output: which input, which of its channels

  bool shape(std::vector<Value>& values) const override {
    const Value& x = values[inputs[0]];
    values[outputs[0]].shape(from.size(), x.height, x.width);
    return true;
  }
  void run(Context& context) const override {
    const Value& y = context.values[outputs[0]];
    context.pool.run(y.channels, [&](int c, int) {
      const Value& x = context.values[inputs[from[c].first]];
      const float* first = x.data + from[c].second * x.plane;
      std::copy(first, first + x.plane, y.data + c * y.plane);
    });
  }
};
