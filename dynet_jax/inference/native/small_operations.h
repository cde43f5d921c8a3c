// What networks do between their convolutions.
#pragma once
#include "context.h"

// Of one value an activation; of two, where the second may be a vector for a map, their sum or product.
struct Elementwise : Operation {
  enum { ADD = -1, MULTIPLY = -2 };
  int32_t function;

  void shape(std::vector<Value>& values) const override {
    const Value &x = values[inputs[0]], &other = values[inputs.back()];
    if (other.is_map()) x.check_size(other);
    values[outputs[0]].shape(x.channels, x.height, x.width);
  }

  void run(Context& context) const override {
    const Value &x = context.values[inputs[0]], &y = context.values[outputs[0]];
    const Value& other = context.values[inputs.back()];
    if (!x.is_map()) return on_vectors(x, other, y);
    context.pool.run(x.planes(), [&](int plane, int) {
      const float *a = x.data + plane * x.plane, *b = other.data + plane * other.plane;
      float* to = y.data + plane * y.plane;
      bool one = !other.is_map();  // number for each channel
      for (int64_t i = 0; i < x.plane; i += LANES) {
        if (!x.paired) {
          store(to + i, apply(load(a + i), one ? *b + Vec{} : load(b + i)));
        } else {
          const float* own = other.data + 2 * plane;
          Vec low = one ? own[0] + Vec{} : low_halves(load(b + i)), high = one ? own[1] + Vec{} : high_halves(load(b + i));
          store(to + i, pair(apply(low_halves(load(a + i)), low), apply(high_halves(load(a + i)), high)));
        }
      }
    });
  }

 private:
  void on_vectors(const Value& x, const Value& other, const Value& y) const {
    for (int i = 0; i < x.channels; i += LANES) {
      Vec value = apply(load(x.data + i), load(other.data + i));
      store_part(y.data + i, value, std::min(LANES, x.channels - i));
    }
  }

  Vec apply(Vec a, Vec b) const {
    if (function == ADD) return a + b;
    if (function == MULTIPLY) return a * b;
    Vec result;
    with_activation(function, [&](auto f) { result = activate<decltype(f)::value>(a); });
    return result;
  }
};

struct MaxPool : Operation {
  Geometry g;

  void shape(std::vector<Value>& values) const override {
    const Value& x = values[inputs[0]];
    values[outputs[0]].shape_map(x.channels, g.output(0, x.height), g.output(1, x.width));
  }

  void run(Context& context) const override {
    const Value &x = context.values[inputs[0]], &y = context.values[outputs[0]];
    context.pool.run(x.planes(), [&](int plane, int thread) {
      // The largest of the rows of a window: of floats, or of each half of pairs.
      float* row = context.scratch_of(thread, 2 * (x.width + LANES));
      float *low = row, *high = row + x.width + LANES;
      for (int i = 0; i < y.height; i++) {
        largest_of_rows(x, plane, i, low, high);
        float* to = y.data + plane * y.plane + static_cast<int64_t>(i) * y.width;
        for (int j = 0; j < y.width; j++) {
          if (x.paired) to[j] = pair(largest(low, j, x.width) + Vec{}, largest(high, j, x.width) + Vec{})[0];
          else to[j] = largest(low, j, x.width);
        }
      }
    });
  }

 private:
  // NaN if one of them is; T is a float or a vector of them.
  template <class T> static T larger(T a, T b) {
    T number = a > b ? a : b;  // b, unless the comparison is true
    return a == a ? number : a;
  }

  void largest_of_rows(const Value& x, int plane, int i, float* low, float* high) const {
    int start = i * g.strides[0] - g.before(0, x.height);
    int top = std::max(0, start), bottom = std::min(x.height, start + g.kernel[0]);
    for (int row = top; row < bottom; row++) {
      const float* from = x.data + plane * x.plane + static_cast<int64_t>(row) * x.width;
      for (int j = 0; j < x.width; j += LANES) {
        Vec element = load(from + j), first = x.paired ? low_halves(element) : element, second = high_halves(element);
        if (row > top) {
          first = larger(first, load(low + j));
          second = larger(second, load(high + j));
        }
        store(low + j, first);
        if (x.paired) store(high + j, second);
      }
    }
  }

  float largest(const float* row, int j, int width) const {
    int start = j * g.strides[1] - g.before(1, width);
    int first = std::max(0, start), last = std::min(width, start + g.kernel[1]);
    float value = row[first];
    for (int k = first + 1; k < last; k++) value = larger(row[k], value);
    return value;
  }
};

// Channels of the inputs side by side, in any order.
struct Channels : Operation {
  std::vector<std::pair<int, int>> from;  // for each channel of the output: which input, which of its channels

  void shape(std::vector<Value>& values) const override {
    const Value& x = values[inputs[0]];
    for (int input : inputs) x.check_size(values[input]);
    values[outputs[0]].shape(from.size(), x.height, x.width);
  }

  void run(Context& context) const override {
    const Value& y = context.values[outputs[0]];
    context.pool.run(y.planes(), [&](int plane, int) {
      float* to = y.data + plane * y.plane;
      if (!y.in_pairs()) {
        const float* first = source(context, plane);
        std::copy(first, first + y.plane, to);
        return;
      }
      const float *first = source(context, 2 * plane), *second = source(context, 2 * plane + 1);
      bool low_of_first = from[2 * plane].second % 2 == 0, low_of_second = from[2 * plane + 1].second % 2 == 0;
      for (int64_t i = 0; i < y.plane; i += LANES) {
        Word a = Word(load(first + i)), b = Word(load(second + i));
        a = low_of_first ? a & 0xffffu : a >> 16;
        b = low_of_second ? b << 16 : b & 0xffff0000u;
        store(to + i, Vec(a | b));
      }
    });
  }

 private:
  const float* source(const Context& context, int channel) const {  // the plane that has it
    const Value& x = context.values[inputs[from[channel].first]];
    return x.data + from[channel].second / (x.in_pairs() ? 2 : 1) * x.plane;
  }
};
