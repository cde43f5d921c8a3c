// One convolution, of maps that lie plane by plane. A vector holds neighbouring positions of one channel; a tile of up to
// BLOCK channels and TILE vectors stays in registers while it runs over inputs and taps.
#pragma once
#include <algorithm>
#include <vector>

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
  // Whether maps keep their size, so that a tap is one offset from output to input.
  bool keeps(int height, int width) const {
    return strides[0] * strides[1] == 1 && output(0, height) == height && output(1, width) == width;
  }
  bool padded() const { return !same && (padding[0][0] || padding[0][1] || padding[1][0] || padding[1][1]); }
};

// Rows of the output, and where the rows of the input that they need are copied to, padded, and parted by their
// remainders by the strides: a tap is then one offset for all positions, counted on from row to row through the padding.
struct Strip {
  int rows, width;         // of the output; the last strip of a map may have fewer rows
  int line, phase, plane;  // floats from row to row, phase to phase, channel to channel
  int offsets[MAX_TAPS];

  Strip(const Geometry& g, int rows, int width) : rows(rows), width(width) {
    line = width + (g.reach(1) - 1) / g.strides[1];
    phase = (lines(g, rows) * line + 15) / 16 * 16 + 16 * TILE;
    plane = phase * g.phases(0) * g.phases(1);
    for (int y = 0, tap = 0; y < g.kernel[0]; y++) {
      for (int x = 0; x < g.kernel[1]; x++) {
        int down = y * g.dilation[0], right = x * g.dilation[1];
        int number = down % g.strides[0] * g.phases(1) + right % g.strides[1];
        offsets[tap++] = number * phase + down / g.strides[0] * line + right / g.strides[1];
      }
    }
  }

  static int lines(const Geometry& g, int rows) { return rows + (g.reach(0) - 1) / g.strides[0]; }

  // What rows `first` to `first + count` of the output need of one channel. In whole vectors: what is written beyond the
  // end of a line is written again with the next one, or is in the room behind the last. So is what is read.
  void copy(const Geometry& g, const float* x, int height, int width_in, int first, int count, float* to) const {
    int above = g.before(0, height), stride = g.strides[1], used = lines(g, count);
    for (int py = 0; py < g.phases(0); py++) {
      for (int px = 0; px < g.phases(1); px++, to += phase) {
        int start = px - g.before(1, width_in);
        int left = start < 0 ? std::min(line, (-start + stride - 1) / stride) : 0;
        int right = std::max(left, std::min(line, (width_in - start + stride - 1) / stride));
        int row = first * g.strides[0] + py - above;
        for (int i = 0; i < used; i++, row += g.strides[0]) {
          float* begin = to + i * line;
          if (row < 0 || row >= height) zeros(begin, line);
          else copy_line(x + static_cast<int64_t>(row) * width_in + start, left, right, stride, begin);
        }
      }
    }
  }

 private:
  void copy_line(const float* from, int left, int right, int stride, float* to) const {
    zeros(to, left);
    if (stride == 1) {
      for (int i = left; i < right; i += LANES) store(to + i, load(from + i));
    } else if (stride == 2) {
      for (int i = left; i < right; i += LANES) store(to + i, even(load(from + 2 * i), load(from + 2 * i + LANES)));
    } else {
      for (int i = left; i < right; i++) to[i] = from[i * stride];
    }
    zeros(to + right, line - right);
  }

  static void zeros(float* to, int count) {
    for (int i = 0; i < count; i += LANES) store(to + i, Vec{});
  }
};

// Which positions a tap finds within the map, for maps that keep their size: [vectors][taps].
struct Masks {
  std::vector<Mask> bits;
  std::vector<int> offsets;

  Masks(const Geometry& g, int height, int width) {
    int positions = height * width, vectors = (positions + LANES - 1) / LANES + TILE;
    bits.assign(vectors * g.taps(), 0);
    for (int y = 0, tap = 0; y < g.kernel[0]; y++) {
      for (int x = 0; x < g.kernel[1]; x++, tap++) {
        int down = y * g.dilation[0] - g.before(0, height), right = x * g.dilation[1] - g.before(1, width);
        offsets.push_back(down * width + right);
        for (int row = std::max(0, -down); row < std::min(height, height - down); row++)
          for (int column = std::max(0, -right); column < std::min(width, width - right); column++) {
            int at = row * width + column;
            bits[at / LANES * g.taps() + tap] |= 1u << at % LANES;
          }
      }
    }
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
  const Mask* masks;      // [vectors][taps], or null where all is within the map
  const float* residual;  // or null; laid out like y
  float* y;               // the first output
  int64_t y_plane;
};

// The same, where some of what a tap finds is outside of the map.
template <int M, int N>
inline __attribute__((always_inline)) void masked_tile(const float* x, int64_t plane, int inputs, const int* offsets,
                                                       int taps, const Mask* masks, const float* panel,
                                                       const float* bias, Vec (&sum)[M][N]) {
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sum[m][n] = bias[m] + Vec{};
  for (int i = 0; i < inputs; i++, x += plane) {
    for (int tap = 0; tap < taps; tap++, panel += M) {
      const float* from = x + offsets[tap];
      Vec values[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) values[n] = load_masked(from + n * LANES, masks[n * taps + tap]);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sum[m][n] += panel[m] * values[n];
    }
  }
}

// Positions that lie in x as in y: straight from the registers.
template <int M, int N, int A, bool MASKED> inline void direct_tile(const Task& t, int64_t at) {
  Vec sum[M][N];
  if constexpr (MASKED) {
    const Mask* masks = t.masks + at / LANES * t.taps;
    masked_tile<M, N>(t.x + at, t.plane, t.inputs, t.offsets, t.taps, masks, t.panel, t.bias, sum);
  } else {
    tile<M, N>(t.x + at, t.plane, t.inputs, t.offsets, t.taps, t.panel, t.bias, sum);
  }
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

template <int M, int A, bool MASKED> inline void direct(const Task& t, int64_t begin, int64_t end) {
  int64_t at = begin;
  for (; at + (TILE - 1) * LANES < end; at += TILE * LANES) direct_tile<M, TILE, A, MASKED>(t, at);
  if constexpr (TILE > 2) {
    if (at + 2 * LANES < end) return direct_tile<M, 3, A, MASKED>(t, at);
    if (at + LANES < end) return direct_tile<M, 2, A, MASKED>(t, at);
  }
  if (at < end) direct_tile<M, 1, A, MASKED>(t, at);
}

// A few positions too many for whole vectors are worked on one by one, a vector along the panel: lone positions. An input
// is repeated for each output of a block, as it lies in the panel.
constexpr int LONE = LANES / 4;

inline void repeat_inputs(const float* x, int64_t plane, int inputs, int size, float* repeated) {
  for (int i = 0; i < inputs; i++) std::fill(repeated + i * BLOCK, repeated + (i + 1) * BLOCK, x[i * plane]);
  std::fill(repeated + inputs * BLOCK, repeated + size, 0.0f);
}

template <int A> inline void lone(const Task& t, const float* repeated, int size, int64_t at) {
  constexpr int CHUNK = 48, V = CHUNK / LANES;
  Vec sum[V] = {};
  for (int i = 0; i < size; i += CHUNK)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) sum[v] += load(t.panel + i + v * LANES) * load(repeated + i + v * LANES);
  alignas(64) float lanes[CHUNK];
  for (int v = 0; v < V; v++) store(lanes + v * LANES, sum[v]);
  for (int m = 0; m < BLOCK; m++) {
    float value = t.bias[m];
    for (int i = m; i < CHUNK; i += BLOCK) value += lanes[i];
    int64_t to = m * t.y_plane + at;
    t.y[to] = activate<A>(t.residual ? value + t.residual[to] : value);
  }
}

// Positions of a strip, and out of them, without the padding between rows, into y. Within the strip in whole vectors:
// what is written beyond the end of a row is written again with the next one. Behind it may be what others have written.
template <int M, int N, int A> inline void strip_tile(const Task& t, const Strip& s, int first, int count, int at) {
  Vec sum[M][N];
  tile<M, N>(t.x + at, t.plane, t.inputs, t.offsets, t.taps, t.panel, t.bias, sum);
  alignas(64) float values[M][N * LANES];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(values[m] + n * LANES, t.residual ? sum[m][n] : activate<A>(sum[m][n]));
  for (int row = at / s.line; row < count && row * s.line < at + N * LANES; row++) {
    int begin = std::max(at, row * s.line), end = std::min(at + N * LANES, row * s.line + s.width);
    int64_t to = static_cast<int64_t>(first + row) * s.width + begin - row * s.line;
    int64_t room = static_cast<int64_t>(first + count) * s.width - to;  // to the end of the strip
    for (int m = 0; m < M; m++) {
      const float* from = values[m] + begin - at;
      float* y = t.y + m * t.y_plane + to;
      const float* residual = t.residual ? t.residual + m * t.y_plane + to : nullptr;
      for (int i = 0; i < end - begin; i += LANES) {
        Vec value = residual ? activate<A>(load(from + i) + load(residual + i)) : load(from + i);
        if (i + LANES <= room) store(y + i, value);
        else store_part(y + i, value, end - begin - i < LANES ? end - begin - i : LANES);
      }
    }
  }
}

template <int M, int A> inline void strip(const Task& t, const Strip& s, int first, int count) {
  int at = 0, end = (count - 1) * s.line + s.width;
  for (; at + (TILE - 1) * LANES < end; at += TILE * LANES) strip_tile<M, TILE, A>(t, s, first, count, at);
  if constexpr (TILE > 2) {
    if (at + 2 * LANES < end) return strip_tile<M, 3, A>(t, s, first, count, at);
    if (at + LANES < end) return strip_tile<M, 2, A>(t, s, first, count, at);
  }
  if (at < end) strip_tile<M, 1, A>(t, s, first, count, at);
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
