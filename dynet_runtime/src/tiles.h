// One convolution, of maps that lie plane by plane. A vector holds neighbouring positions of a plane; a tile of up to
// BLOCK channels and TILE vectors stays in registers while it runs over planes and taps.
#pragma once
#include "fuse.h"
#include "geometry.h"

namespace DYNET_LEVEL {

struct Task {             // what the tiles of one block of channels need
  const float* x;         // the first plane
  int64_t plane;          // from plane to plane
  int inputs;             // planes
  const int* offsets;     // of the taps
  int taps;
  const float* panel;     // [inputs][taps][width]
  const float* bias;
  const Mask* masks;      // [vectors][taps], where some of what a tap finds is outside of the map
  const float* residual;  // or null; laid out like y
  float* y;               // the first plane
  int64_t y_plane;
};

// M channels and N vectors of positions from `at` on: sums over inputs and taps, from the bias on.
template <int P, int M, int N, bool MASKED>
inline __attribute__((always_inline)) void sum_tile(const Task& t, int64_t at, Vec (&sum)[M][N]) {
  const float *x = t.x + at, *panel = t.panel;
  const Mask* masks = MASKED ? t.masks + at / LANES * t.taps : nullptr;
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sum[m][n] = t.bias[m] + Vec{};
  for (int i = 0; i < t.inputs; i++, x += t.plane) {
    for (int tap = 0; tap < t.taps; tap++, panel += M) {
      const float* from = x + t.offsets[tap];
      Vec values[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        if constexpr (MASKED) values[n] = load_masked(from + n * LANES, masks[n * t.taps + tap]);
        else values[n] = load(from + n * LANES);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        Vec weight = panel[m] + Vec{};
        if constexpr (P == PAIRS) weight = Vec(reinterpret_cast<const uint32_t&>(panel[m]) + Word{});
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
          if constexpr (P == SINGLE) sum[m][n] += weight * values[n];
          if constexpr (P == PAIRS) sum[m][n] = add_products(sum[m][n], values[n], weight);
          if constexpr (P == APART) sum[m][n] += weight * (m ? high_halves(values[n]) : low_halves(values[n]));
        }
      }
    }
  }
}

// A vector of plane `plane` of the result: what has been summed, and the residual there if there is one.
template <int P, int A>
inline __attribute__((always_inline)) Vec finished(const Vec* sums, int stride, const float* residual) {
  if constexpr (P == SINGLE) {
    return activate<A>(residual ? sums[0] + load(residual) : sums[0]);
  } else {
    Vec low = sums[0], high = sums[stride];
    if (residual) low += low_halves(load(residual)), high += high_halves(load(residual));
    return pair(activate<A>(low), activate<A>(high));
  }
}

constexpr int channels_of(int mode) { return mode == SINGLE ? 1 : 2; }  // in a plane

// Positions that lie in x as in y: straight from the registers.
template <int P, int M, int N, int A, bool MASKED> inline void direct_tile(const Task& t, int64_t at) {
  Vec sum[M][N];
  sum_tile<P, M, N, MASKED>(t, at, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; m += channels_of(P)) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      int64_t to = m / channels_of(P) * t.y_plane + at + n * LANES;
      store(t.y + to, finished<P, A>(&sum[m][n], N, t.residual ? t.residual + to : nullptr));
    }
  }
}

template <int P, int M, int A, bool MASKED> inline void direct(const Task& t, int64_t begin, int64_t end) {
  int64_t at = begin;
  for (; at + (TILE - 1) * LANES < end; at += TILE * LANES) direct_tile<P, M, TILE, A, MASKED>(t, at);
  if constexpr (TILE > 2) {
    if (at + 2 * LANES < end) return direct_tile<P, M, 3, A, MASKED>(t, at);
    if (at + LANES < end) return direct_tile<P, M, 2, A, MASKED>(t, at);
  }
  if (at < end) direct_tile<P, M, 1, A, MASKED>(t, at);
}

// A few positions too many for whole vectors are worked on one by one, a vector along the panel: lone positions. An
// element is repeated for each output of a block, as it lies in the panel.
constexpr int LONE = LANES / 4, LONE_CHUNK = 48;

inline void repeat_inputs(const float* x, int64_t plane, int inputs, int size, float* repeated) {
  for (int i = 0; i < inputs; i++) std::fill(repeated + i * BLOCK, repeated + (i + 1) * BLOCK, x[i * plane]);
  std::fill(repeated + inputs * BLOCK, repeated + size, 0.0f);
}

template <int P, int A> inline void lone(const Task& t, const float* repeated, int size, int64_t at) {
  constexpr int V = LONE_CHUNK / LANES;
  Vec sum[V] = {};
  for (int i = 0; i < size; i += LONE_CHUNK) {
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      Vec weights = load(t.panel + i + v * LANES), values = load(repeated + i + v * LANES);
      if constexpr (P == SINGLE) sum[v] += weights * values;
      else sum[v] = add_products(sum[v], values, weights);
    }
  }
  alignas(64) float lanes[LONE_CHUNK];
  for (int v = 0; v < V; v++) store(lanes + v * LANES, sum[v]);
  Vec totals[BLOCK];
  for (int m = 0; m < BLOCK; m++) {
    float total = t.bias[m];
    for (int i = m; i < LONE_CHUNK; i += BLOCK) total += lanes[i];
    totals[m] = total + Vec{};
  }
  for (int m = 0; m < BLOCK; m += channels_of(P)) {
    int64_t to = m / channels_of(P) * t.y_plane + at;
    store_part(t.y + to, finished<P, A>(totals + m, 1, t.residual ? t.residual + to : nullptr), 1);
  }
}

// Positions of a strip, and out of them, without the padding between rows, into y. Within the strip in whole vectors:
// what is written beyond the end of a row is written again with the next one. Behind it may be what others have written.
template <int P, int M, int N, int A>
inline void strip_tile(const Task& t, const Strip& s, int first, int count, int at) {
  Vec sum[M][N];
  sum_tile<P, M, N, false>(t, at, sum);
  alignas(64) float values[M + 1][N * LANES];  // the last vector that is read begins in the last one
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(values[m] + n * LANES, sum[m][n]);
  for (int row = at / s.line; row < count && row * s.line < at + N * LANES; row++) {
    int begin = std::max(at, row * s.line), end = std::min(at + N * LANES, row * s.line + s.width);
    int64_t to = static_cast<int64_t>(first + row) * s.width + begin - row * s.line;
    int64_t room = static_cast<int64_t>(first + count) * s.width - to;  // to the end of the strip
    for (int m = 0; m < M; m += channels_of(P)) {
      float* y = t.y + m / channels_of(P) * t.y_plane + to;
      const float* residual = t.residual ? t.residual + (y - t.y) : nullptr;
      for (int i = 0; i < end - begin; i += LANES) {
        const float* from = values[m] + begin - at + i;
        Vec sums[2] = {load(from), load(from + (P == SINGLE ? 0 : N * LANES))};
        Vec value = finished<P, A>(sums, 1, residual ? residual + i : nullptr);
        if (i + LANES <= room) store(y + i, value);
        else store_part(y + i, value, end - begin - i < LANES ? end - begin - i : LANES);
      }
    }
  }
}

template <int P, int M, int A> inline void strip(const Task& t, const Strip& s, int first, int count) {
  int at = 0, end = (count - 1) * s.line + s.width;
  for (; at + (TILE - 1) * LANES < end; at += TILE * LANES) strip_tile<P, M, TILE, A>(t, s, first, count, at);
  if constexpr (TILE > 2) {
    if (at + 2 * LANES < end) return strip_tile<P, M, 3, A>(t, s, first, count, at);
    if (at + LANES < end) return strip_tile<P, M, 2, A>(t, s, first, count, at);
  }
  if (at < end) strip_tile<P, M, 1, A>(t, s, first, count, at);
}

// Calls f with the number of channels of a block as a constant: even ones where elements are pairs, two if apart.
template <int P, class F> inline void with_width(int width, F f) {
  if constexpr (P == APART) return f(std::integral_constant<int, 2>());
  else {
    if constexpr (P == SINGLE) {
      if (width == 1) return f(std::integral_constant<int, 1>());
      if (width == 3) return f(std::integral_constant<int, 3>());
      if (width == 5) return f(std::integral_constant<int, 5>());
    }
    if (width == 2) return f(std::integral_constant<int, 2>());
    if (width == 4) return f(std::integral_constant<int, 4>());
    return f(std::integral_constant<int, 6>());
  }
}

}  // namespace DYNET_LEVEL
