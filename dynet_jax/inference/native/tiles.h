// One convolution, of maps that lie plane by plane. A vector holds neighbouring positions of a plane; a tile of up to
// BLOCK channels and TILE vectors stays in registers while it runs over planes and taps.
#pragma once
#include "fuse.h"
#include "geometry.h"

// How whole numbers become those of the result.
struct Requantization {
  Scale x, scale;  // of what is read, and of the result
  float before, zero_before;  // real numbers times the first, plus the second, are what the activation is given
  float residual_step;        // of its bytes, in the same units; its zero is in `zero_before`
  float after, zero_after;    // the same behind an activation; one that only clips has none
  float least, greatest;      // of the result's numbers
};

struct Task {             // what the tiles of one block of channels need
  const float* x;         // the first plane
  int64_t plane;          // from plane to plane
  int inputs;             // planes
  const int* offsets;     // of the taps
  int taps;
  const float* panel;     // [inputs][taps][width]
  const float* bias;
  const Mask* masks;      // [vectors][taps], where some of what a tap finds is outside of the map
  const float* steps;     // of quads: of the sums of each channel, which are whole numbers
  const Requantization* requantization;
  const float* residual;  // or null; laid out like y
  float* y;               // the first plane
  int outputs;            // channels, without those that fill a block up
  int64_t y_plane;
};

// The same of quads: whole numbers, from zero on.
template <int M, int N, bool MASKED>
inline __attribute__((always_inline)) void sum_quads(const Task& t, int64_t at, Vec (&result)[M][N]) {
  const float *x = t.x + at, *panel = t.panel;
  const Mask* masks = MASKED ? t.masks + at / LANES * t.taps : nullptr;
  Int sum[M][N] = {};
  for (int i = 0; i < t.inputs; i++, x += t.plane) {
    for (int tap = 0; tap < t.taps; tap++) {
      const float* from = x + t.offsets[tap];
      Quad values[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        if constexpr (MASKED) values[n] = quad(load_masked(from + n * LANES, masks[n * t.taps + tap]));
        else values[n] = quad(load(from + n * LANES));
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; m++, panel += QUAD_WORDS) {
        const QuadWeights weights(panel);
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sum[m][n] = add_products(sum[m][n], values[n], weights);
      }
    }
  }
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) result[m][n] = Vec(sum[m][n]);
}

// M channels and N vectors of positions from `at` on: sums over inputs and taps, from the bias on.
template <int P, int M, int N, bool MASKED>
inline __attribute__((always_inline)) void sum_tile(const Task& t, int64_t at, Vec (&sum)[M][N]) {
  if constexpr (weights_each(P) == 4) sum_quads<M, N, MASKED>(t, at, sum);
  else sum_floats<P, M, N, MASKED>(t, at, sum);
}

template <int P, int M, int N, bool MASKED>
inline __attribute__((always_inline)) void sum_floats(const Task& t, int64_t at, Vec (&sum)[M][N]) {
  const float *x = t.x + at, *panel = t.panel;
  const Mask* masks = MASKED ? t.masks + at / LANES * t.taps : nullptr;
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sum[m][n] = P == QUADS_APART ? Vec{} : t.bias[m] + Vec{};
  for (int i = 0; i < t.inputs; i++, x += t.plane) {
    for (int tap = 0; tap < t.taps; tap++, panel += M) {
      const float* from = x + t.offsets[tap];
      if constexpr (P == QUADS_APART) {  // a plane for each of the channels
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) sum[m][n] += panel[m] * load(from + m * t.plane + n * LANES);
        continue;
      }
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
          if constexpr (P == SINGLE || P == FLOATS_TO_QUADS) sum[m][n] += weight * values[n];
          if constexpr (P == PAIRS) sum[m][n] = add_products(sum[m][n], values[n], weight);
          if constexpr (P == APART) sum[m][n] += weight * (m ? high_halves(values[n]) : low_halves(values[n]));
        }
      }
    }
  }
}

// Of channel m of a block, one of the four of the residual's element.
template <int P, int A>
inline __attribute__((always_inline)) Vec requantized(const Task& t, int m, Vec sum, const float* residual, int channel) {
  const Requantization& r = *t.requantization;
  Vec y = P == QUADS_APART ? sum : __builtin_convertvector(Int(sum), Vec);
  y = y * t.steps[m] + t.bias[m];
  if (residual) y += channel_of(load(residual), channel) * r.residual_step;
  if constexpr (A != NONE) y = activate<A>(y) * r.after + r.zero_after;
  return clipped(y, r.least, r.greatest);
}

// A vector of a plane of the result, whose first channel of the block is m: what has been summed, and the residual there
// if there is one.
template <int P, int A>
inline __attribute__((always_inline)) Vec finished(const Task& t, int m, const Vec* sums, int stride, const float* residual) {
  if constexpr (P == FLOATS_TO_QUADS) {
    return t.requantization->scale.element({activate<A>(sums[0]), activate<A>(sums[stride]),
                                            activate<A>(sums[2 * stride]), activate<A>(sums[3 * stride])});
  } else if constexpr (P == QUADS || P == QUADS_APART) {
    Vec results[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) results[i] = requantized<P, A>(t, m + i, sums[i * stride], residual, i);
    return quad_of(results);
  } else if constexpr (P == QUADS_TO_FLOATS) {
    return requantized<P, A>(t, m, sums[0], nullptr, 0);
  } else if constexpr (P == SINGLE) {
    return activate<A>(residual ? sums[0] + load(residual) : sums[0]);
  } else {
    Vec low = sums[0], high = sums[stride];
    if (residual) low += low_halves(load(residual)), high += high_halves(load(residual));
    return pair(activate<A>(low), activate<A>(high));
  }
}

// Positions that lie in x as in y: straight from the registers.
template <int P, int M, int N, int A, bool MASKED> inline void direct_tile(const Task& t, int64_t at) {
  Vec sum[M][N];
  sum_tile<P, M, N, MASKED>(t, at, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; m += channels_of(P)) {
    if (P == QUADS_TO_FLOATS && m >= t.outputs) break;
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      int64_t to = m / channels_of(P) * t.y_plane + at + n * LANES;
      store(t.y + to, finished<P, A>(t, m, &sum[m][n], N, t.residual ? t.residual + to : nullptr));
    }
  }
}

// Calls f with the number of vectors, up to N, that so many positions need, if there are any.
template <int N, class F> inline void with_rest(int64_t positions, F f) {
  if constexpr (N > 0) {
    if (positions > (N - 1) * LANES) f(std::integral_constant<int, N>());
    else with_rest<N - 1>(positions, f);
  }
}

// Sums of quads are of four channels at a time, so that there is room for more vectors.
constexpr int tile_of(int mode) { return weights_each(mode) == 4 ? WIDEST_TILE : TILE; }

template <int P, int M, int A, bool MASKED> inline void direct(const Task& t, int64_t begin, int64_t end) {
  constexpr int N = tile_of(P);
  int64_t at = begin;
  for (; at + (N - 1) * LANES < end; at += N * LANES) direct_tile<P, M, N, A, MASKED>(t, at);
  with_rest<N - 1>(end - at, [&](auto n) { direct_tile<P, M, decltype(n)::value, A, MASKED>(t, at); });
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
    store_part(t.y + to, finished<P, A>(t, m, totals + m, 1, t.residual ? t.residual + to : nullptr), 1);
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
    for (int m = 0; m < (P == QUADS_TO_FLOATS ? t.outputs : M); m += channels_of(P)) {
      float* y = t.y + m / channels_of(P) * t.y_plane + to;
      const float* residual = t.residual ? t.residual + (y - t.y) : nullptr;
      for (int i = 0; i < end - begin; i += LANES) {
        const float* from = values[m] + begin - at + i;
        Vec sums[channels_of(P)];
        for (int c = 0; c < channels_of(P); c++) sums[c] = load(from + c * N * LANES);
        Vec value = finished<P, A>(t, m, sums, 1, residual ? residual + i : nullptr);
        if (i + LANES <= room) store(y + i, value);
        else store_part(y + i, value, end - begin - i < LANES ? end - begin - i : LANES);
      }
    }
  }
}

template <int P, int M, int A> inline void strip(const Task& t, const Strip& s, int first, int count) {
  constexpr int N = tile_of(P);
  int at = 0, end = (count - 1) * s.line + s.width;
  for (; at + (N - 1) * LANES < end; at += N * LANES) strip_tile<P, M, N, A>(t, s, first, count, at);
  with_rest<N - 1>(end - at, [&](auto n) { strip_tile<P, M, decltype(n)::value, A>(t, s, first, count, at); });
}

// Calls f with the number of channels of a block as a constant: even ones where elements are pairs, two if apart, four
// where elements are quads.
template <int P, class F> inline void with_width(int width, F f) {
  if constexpr (P == APART) return f(std::integral_constant<int, 2>());
  else if constexpr (P > APART) return f(std::integral_constant<int, 4>());
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
