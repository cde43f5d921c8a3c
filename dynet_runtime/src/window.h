// The window of a convolution or a pooling. Nothing here depends on the processor.
#pragma once
#include <algorithm>
#include <cstdint>

constexpr int MAX_TAPS = 256;

struct Geometry {
  int32_t c_in, c_out, groups;
  int32_t kernel[2], strides[2], dilation[2];
  int32_t same, padding[2][2];  // SAME, or the padding before and after
  int32_t activation;

  int output(int axis, int size) const {
    if (same) return (size + strides[axis] - 1) / strides[axis];
    int room = size + padding[axis][0] + padding[axis][1] - reach(axis);
    return room < 0 ? 0 : room / strides[axis] + 1;
  }
  int before(int axis, int size) const {
    if (!same) return padding[axis][0];
    return std::max(0, (output(axis, size) - 1) * strides[axis] + reach(axis) - size) / 2;
  }
  int reach(int axis) const { return dilation[axis] * (kernel[axis] - 1) + 1; }
  int taps() const { return kernel[0] * kernel[1]; }
  int phases(int axis) const { return std::min(strides[axis], reach(axis)); }
  bool in_place() const { return taps() == 1 && strides[0] * strides[1] == 1 && !padded(); }
  // Whether maps keep their size, so that a tap is one offset from output to input.
  bool keeps(int height, int width) const {
    return strides[0] * strides[1] == 1 && output(0, height) == height && output(1, width) == width;
  }
  bool padded() const { return !same && (padding[0][0] || padding[0][1] || padding[1][0] || padding[1][1]); }
};
