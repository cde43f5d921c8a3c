// One convolution, of maps that lie plane by plane. A vector holds neighbouring positions of one channel; a tile of up to
// BLOCK channels and TILE vectors stays in registers while it runs over inputs and taps.
#pragma once
#include <algorithm>

#include "fuse.h"

constexpr int MAX_TAPS = 256;
constexpr int TILE = LANES == 16 ? 4 : 2;  // of 32 or 16 registers, 24 or 12 hold sums

struct Geometry {
  int32_t c_in, c_out, groups;
  int32_t kernel[2], strides[2], dilation[2];
  int32_t same, padding[2][2];  // SAME, or the padding before and after
  int32_t activation;

  int output(int axis, int size) const {
    if (same) return (size + strides[axis] - 1) / strides[axis];
    return (size + padding[axis][0] + padding[axis][1] - reach(axis)) / strides[axis] + 1;
  }
  int before(int axis, int size) const {
    if (!same) return padding[axis][0];
    return std::max(0, (output(axis, size) - 1) * strides[axis] + reach(axis) - size) / 2;
  }
  int reach(int axis) const { return dilation[axis] * (kernel[axis] - 1) + 1; }
  int taps() const { return kernel[0] * kernel[1]; }
  int phases(int axis) const { return std::min(strides[axis], reach(axis)); }
  bool in_place() const { return taps() == 1 && strides[0] * strides[1] == 1 && !padded(); }
  bool padded() const { return !same && (padding[0][0] || padding[0][1] || padding[1][0] || padding[1][1]); }
};

// Where the rows of a strip are copied to, padded, and parted by their remainders by the strides: a tap is then one
// offset for all positions, which are counted on from row to row through the padding between them.
struct Strip {
  int first, rows, width;     // of the output
  int line, phase, plane;     // floats from row to row, phase to phase, channel to channel
  int offsets[MAX_TAPS];

  Strip(const Geometry& g, int first, int rows, int width) : first(first), rows(rows), width(width) {
    line = width + (g.reach(1) - 1) / g.strides[1];
    int lines = rows + (g.reach(0) - 1) / g.strides[0];
    phase = (lines * line + 15) / 16 * 16 + 16 * TILE;
    plane = phase * g.phases(0) * g.phases(1);
    for (int y = 0, tap = 0; y < g.kernel[0]; y++) {
      for (int x = 0; x < g.kernel[1]; x++) {
        int down = y * g.dilation[0], right = x * g.dilation[1];
        int number = down % g.strides[0] * g.phases(1) + right % g.strides[1];
        offsets[tap++] = number * phase + down / g.strides[0] * line + right / g.strides[1];
      }
    }
  }

  int positions() const { return (rows - 1) * line + width; }

  void copy(const Geometry& g, const float* x, int height, int width_in, float* to) const {
    int lines = rows + (g.reach(0) - 1) / g.strides[0];
    for (int py = 0; py < g.phases(0); py++) {
      for (int px = 0; px < g.phases(1); px++, to += phase) {
        for (int row = 0; row < lines; row++) {
          int from = (first + row) * g.strides[0] + py - g.before(0, height);
          copy_line(x + static_cast<int64_t>(from) * width_in, from >= 0 && from < height, px - g.before(1, width_in),
                    g.strides[1], width_in, to + row * line);
        }
      }
    }
  }

 private:
  void copy_line(const float* x, bool there, int start, int stride, int width_in, float* to) const {
    if (!there) return std::fill(to, to + line, 0.0f);
    int left = start < 0 ? (-start + stride - 1) / stride : 0;
    int right = std::max(left, std::min(line, (width_in - start + stride - 1) / stride));
    std::fill(to, to + std::min(left, line), 0.0f);
    if (stride == 1) {
      std::copy(x + start + left, x + start + right, to + left);
    } else {
      for (int i = left; i < right; i++) to[i] = x[start + i * stride];
    }
    std::fill(to + right, to + line, 0.0f);
  }
};

// M channels and N vectors: sums over inputs and taps, from the bias on.
template <int M, int N>
inline __attribute__((always_inline)) void tile(const float* x, int64_t plane, int inputs, const int* offsets, int taps,
                                                const float* panel, const float* bias, Vec (&sum)[M][N]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sum[m][n] = bias[m] + Vec{};
  for (int i = 0; i < inputs; i++, x += plane) {
    for (int tap = 0; tap < taps; tap++, panel += M) {
      const float* from = x + offsets[tap];
      Vec values[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) values[n] = load(from + n * LANES);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sum[m][n] += panel[m] * values[n];
    }
  }
}

struct Task {  // what the tiles of one block of channels need
  const float* x;        // the first input
  int64_t plane;         // from input to input
  int inputs;
  const int* offsets;
  int taps;
  const float* panel;
  const float* bias;
  const float* residual;  // or null; laid out like y
  float* y;               // the first output
  int64_t y_plane;
};

// Positions that lie in x as in y: straight from the registers.
template <int M, int N, int A> inline void direct_tile(const Task& t, int64_t at) {
  Vec sum[M][N];
  tile<M, N>(t.x + at, t.plane, t.inputs, t.offsets, t.taps, t.panel, t.bias, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      int64_t to = m * t.y_plane + at + n * LANES;
      if (t.residual) sum[m][n] += load(t.residual + to);
      store(t.y + to, activate<A>(sum[m][n]));
    }
  }
}

template <int M, int A> inline void direct(const Task& t, int64_t begin, int64_t end) {
  int64_t at = begin;
  for (; at + TILE * LANES <= end; at += TILE * LANES) direct_tile<M, TILE, A>(t, at);
  if constexpr (TILE > 3)
    if (at + 2 * LANES < end) return direct_tile<M, 3, A>(t, at);
  if constexpr (TILE > 2)
    if (at + LANES < end) return direct_tile<M, 2, A>(t, at);
  if (at < end) direct_tile<M, 1, A>(t, at);
}

// Positions of a strip: into `sums` [M][stride], then without the padding into y.
template <int M, int N> inline void strip_tile(const Task& t, int at, int stride, float* sums) {
  Vec sum[M][N];
  tile<M, N>(t.x + at, t.plane, t.inputs, t.offsets, t.taps, t.panel, t.bias, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(sums + m * stride + at + n * LANES, sum[m][n]);
}

template <int M, int A> inline void strip(const Task& t, const Strip& s, float* sums) {
  int at = 0, end = s.positions(), stride = (end + LANES - 1) / LANES * LANES;
  for (; at + TILE * LANES <= stride; at += TILE * LANES) strip_tile<M, TILE>(t, at, stride, sums);
  int left = (stride - at) / LANES;
  if constexpr (TILE > 3)
    if (left == 3) strip_tile<M, 3>(t, at, stride, sums);
  if constexpr (TILE > 2)
    if (left == 2) strip_tile<M, 2>(t, at, stride, sums);
  if (left == 1) strip_tile<M, 1>(t, at, stride, sums);
  for (int m = 0; m < M; m++) {
    for (int row = 0; row < s.rows; row++) {
      const float* from = sums + m * stride + row * s.line;
      int64_t to = m * t.y_plane + static_cast<int64_t>(s.first + row) * s.width;
      int column = 0;
      for (; column + LANES <= s.width; column += LANES) {
        Vec value = load(from + column);
        if (t.residual) value += load(t.residual + to + column);
        store(t.y + to + column, activate<A>(value));
      }
      for (; column < s.width; column++) {
        float value = from[column] + (t.residual ? t.residual[to + column] : 0.0f);
        t.y[to + column] = activate<A>(value);
      }
    }
  }
}

// Calls f with the number of channels of a block as a constant.
template <class F> inline void with_width(int width, F f) {
  switch (width) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    default: return f(std::integral_constant<int, 6>());
  }
}
