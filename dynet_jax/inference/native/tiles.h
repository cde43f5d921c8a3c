// One convolution, of maps that lie plane by plane. A vector holds neighbouring positions of one channel; a tile of up to
// BLOCK channels and TILE vectors stays in registers while it runs over inputs and taps.
#pragma once
#include "fuse.h"
#include "geometry.h"

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
