// What networks do between their convolutions.
#pragma once
#include "context.h"

namespace DYNET_LEVEL {

// Of one value an activation; of two, where the second may be a vector for a map, their sum or product.
struct Elementwise : Operation {
  int32_t function;
  int32_t quads;  // whether the result is a map of them
  Scale scale;    // of such a result

  void shape(std::vector<Value>& values) const override {
    const Value &x = values[inputs[0]], &other = values[inputs.back()];
    if (other.is_map()) x.check_size(other);
    values[outputs[0]].packed = quads ? 4 : x.packed, values[outputs[0]].scale = scale;
    values[outputs[0]].shape(x.channels, x.height, x.width);
  }

  void run(Context& context) const override {
    const Value &x = context.values[inputs[0]], &y = context.values[outputs[0]];
    const Value& other = context.values[inputs.back()];
    if (!x.is_map()) return on_vectors(x, other, y);
    if (y.in_quads()) return on_quads(context.pool, x, other, y);
    context.pool.run(x.planes(), [&](int plane, int) {
      const float *a = x.data + plane * x.plane, *b = other.data + plane * other.plane;
      float* to = y.data + plane * y.plane;
      bool one = !other.is_map();  // number for each channel
      for (int64_t i = 0; i < x.plane; i += LANES) {
        if (!x.in_pairs()) {
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
  void on_quads(Pool& pool, const Value& x, const Value& other, const Value& y) const {
    pool.run(y.planes(), [&](int plane, int) {
      float ones[4] = {};  // a number for each channel, of a vector
      if (!other.is_map()) std::copy_n(other.data + 4 * plane, std::min(4, x.channels - 4 * plane), ones);
      for (int64_t i = 0; i < x.plane; i += LANES) {
        Vec numbers[4];
        for (int c = 0; c < 4; c++) {
          Vec second = other.is_map() ? number(other, plane, c, i) : ones[c] + Vec{};
          numbers[c] = apply(number(x, plane, c, i), second);
        }
        store(y.data + plane * y.plane + i, quad_of(scale, numbers));
      }
    });
  }

  // Of one of the four channels, from a map of quads or of floats; what fills the last quad up may be any number.
  static Vec number(const Value& x, int quad, int c, int64_t i) {
    if (x.in_quads()) return number_of(x.scale, channel_of(load(x.data + quad * x.plane + i), c));
    return load(x.data + std::min(4 * quad + c, x.channels - 1) * x.plane + i);
  }

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
    values[outputs[0]].packed = x.packed, values[outputs[0]].scale = x.scale;
    values[outputs[0]].shape_map(x.channels, g.output(0, x.height), g.output(1, x.width));
  }

  void run(Context& context) const override {
    const Value &x = context.values[inputs[0]], &y = context.values[outputs[0]];
    if (x.in_quads()) return on_quads(context, x, y);
    context.pool.run(x.planes(), [&](int plane, int thread) {
      // The largest of the rows of a window: of floats, or of each half of pairs.
      float* row = context.scratch_of(thread, 2 * (x.width + LANES));
      float *low = row, *high = row + x.width + LANES;
      for (int i = 0; i < y.height; i++) {
        largest_of_rows(x, plane, i, low, high);
        float* to = y.data + plane * y.plane + static_cast<int64_t>(i) * y.width;
        for (int j = 0; j < y.width; j++) {
          if (x.in_pairs()) to[j] = pair(largest(low, j, x.width) + Vec{}, largest(high, j, x.width) + Vec{})[0];
          else to[j] = largest(low, j, x.width);
        }
      }
    });
  }

 private:
  // What is outside of the map is 0, which no byte is below.
  void on_quads(Context& context, const Value& x, const Value& y) const {
    int before = g.before(1, x.width), line = (y.width - 1) * g.strides[1] + g.kernel[1] + LANES;
    context.pool.run(x.planes(), [&](int plane, int thread) {
      const int whole = std::max(line, before + x.width) + LANES;
      float *row = context.scratch_of(thread, whole + y.width), *shifted = row + whole;
      for (int i = 0; i < y.height; i++) {
        int start = i * g.strides[0] - g.before(0, x.height);
        std::fill(row, row + whole, 0.0f);
        for (int from = std::max(0, start); from < std::min(x.height, start + g.kernel[0]); from++)
          larger_bytes(row + before, x.data + plane * x.plane + static_cast<int64_t>(from) * x.width, x.width);
        float* to = y.data + plane * y.plane + static_cast<int64_t>(i) * y.width;
        for (int j = 0; j < y.width; j++) to[j] = row[j * g.strides[1]];
        for (int k = 1; k < g.kernel[1]; k++) {
          for (int j = 0; j < y.width; j++) shifted[j] = row[j * g.strides[1] + k];
          larger_bytes(to, shifted, y.width);
        }
      }
    });
  }

  static void larger_bytes(float* to, const float* from, int count) {
    auto a = reinterpret_cast<uint8_t*>(to);
    auto b = reinterpret_cast<const uint8_t*>(from);
    for (int i = 0; i < 4 * count; i++) a[i] = std::max(a[i], b[i]);
  }

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
        Vec element = load(from + j), first = x.in_pairs() ? low_halves(element) : element, second = high_halves(element);
        if (row > top) {
          first = larger(first, load(low + j));
          second = larger(second, load(high + j));
        }
        store(low + j, first);
        if (x.in_pairs()) store(high + j, second);
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
    values[outputs[0]].packed = x.packed, values[outputs[0]].scale = x.scale;
    values[outputs[0]].shape(from.size(), x.height, x.width);
  }

  void run(Context& context) const override {
    const Value& y = context.values[outputs[0]];
    context.pool.run(y.planes(), [&](int plane, int) {
      float* to = y.data + plane * y.plane;
      if (y.in_quads()) return quads(context, y, plane, to);
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
  void quads(const Context& context, const Value& y, int plane, float* to) const {
    const float* sources[4] = {};
    int shifts[4] = {}, channels = std::min(4, y.channels - 4 * plane);
    for (int c = 0; c < channels; c++) {
      sources[c] = source(context, 4 * plane + c);
      shifts[c] = from[4 * plane + c].second % 4 * 8;
    }
    for (int64_t i = 0; i < y.plane; i += LANES) {
      Word bytes = {};
      for (int c = 0; c < channels; c++) bytes |= (Word(load(sources[c] + i)) >> shifts[c] & 0xffu) << (8 * c);
      store(to + i, Vec(bytes));
    }
  }

  const float* source(const Context& context, int channel) const {  // the plane that has it
    const Value& x = context.values[inputs[from[channel].first]];
    return x.data + from[channel].second / x.in_element() * x.plane;
  }
};

}  // namespace DYNET_LEVEL
