// What networks do between their convolutions.
#pragma once
#include "context.h"

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
