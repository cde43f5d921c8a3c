// Sums of byte products. The sums of four outputs and up to WIDEST_TILE vectors of positions stay in registers while the
// loop runs over planes and taps.
#pragma once
#include "amx.h"
#include "geometry.h"

namespace DYNET_LEVEL {

constexpr int WIDEST_BLOCK = 2 * AMX_SIDE / 4;  // quads of outputs that are worked on with the same inputs

struct QuadRows {              // of four outputs
  int first, inputs;           // planes that they depend on, of the task's
  const float* rows;
  const float *steps, *bias;   // of the sums of each output
  const float* residual;       // or null; laid out like y
  float* y;                    // a plane of quads, or one of floats for each output
  int outputs;                 // without those that fill a quad up
};

struct QuadTask {              // what the tiles of some quads of outputs need
  const float* x;              // the first plane
  int64_t plane;               // from plane to plane
  const int* offsets;          // of the taps
  int taps, tap;               // words of a row from tap to tap
  bool gathered;               // whether all taps are planes, one after the other
  int64_t row;                 // words from row to row
  int64_t y_plane;
  int count;
  QuadRows quads[WIDEST_BLOCK];
};

template <int N>
inline __attribute__((always_inline)) void sum_quads(const QuadTask& t, const QuadRows& q, int64_t at, Int (&sum)[4][N]) {
  const float *rows[4], *x = t.x + at + q.first * t.plane;
  for (int m = 0; m < 4; m++) rows[m] = q.rows + m * t.row + q.first * QUAD_WORDS;
#pragma GCC unroll 4
  for (int m = 0; m < 4; m++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sum[m][n] = Int{};
  for (int tap = 0; tap < t.taps; tap++) {
    const float* from = x + t.offsets[tap];
    const int64_t word = static_cast<int64_t>(tap) * t.tap;
    for (int i = 0; i < q.inputs; i++, from += t.plane) {
      Quad values[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) values[n] = quad(load(from + n * LANES));
#pragma GCC unroll 4
      for (int m = 0; m < 4; m++) {
        const QuadWeights weights(rows[m] + word + i * QUAD_WORDS);
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sum[m][n] = add_products(sum[m][n], values[n], weights);
      }
    }
  }
}

// Returns the result of output m in units of its bytes. The residual, if there is one, is a quad, of which channel m is added.
template <int A>
inline __attribute__((always_inline)) Vec requantized(const QuadRows& q, const Requantization& r, int m, Int sum, const Vec* residual) {
  Vec y = __builtin_convertvector(sum, Vec) * q.steps[m] + q.bias[m];
  if (residual) y += channel_of(*residual, m) * r.residual_step;
  if constexpr (A != NONE) y = activate<A>(y) * r.after + r.zero_after;
  return y;
}

// FLOATS: the result is the network's, a map of floats.
template <int A, bool FLOATS>
inline __attribute__((always_inline)) void finish(const QuadRows& q, const Requantization& r, const Int (&sum)[4], int64_t plane, int64_t at) {
  Vec element, results[4];
  if (q.residual) element = load(q.residual + at);
#pragma GCC unroll 4
  for (int m = 0; m < 4; m++) results[m] = requantized<A>(q, r, m, sum[m], q.residual ? &element : nullptr);
  if constexpr (FLOATS) {
    for (int m = 0; m < q.outputs; m++) store(q.y + m * plane + at, clipped(results[m], r.least, r.greatest));
    return;
  }
  if (r.least > 0 || r.greatest < 255)
    for (int m = 0; m < 4; m++) results[m] = clipped(results[m], r.least, r.greatest);
  store(q.y + at, quad_of(results));
}

template <int N, int A, bool FLOATS>
inline void quad_tile(const QuadTask& t, const QuadRows& q, const Requantization& r, int64_t at) {
  Int sum[4][N];
  sum_quads<N>(t, q, at, sum);
#pragma GCC unroll 8
  for (int n = 0; n < N; n++) {
    const Int own[4] = {sum[0][n], sum[1][n], sum[2][n], sum[3][n]};
    finish<A, FLOATS>(q, r, own, t.y_plane, at + n * LANES);
  }
}

template <int N, int A, bool FLOATS>
inline void quad_tile_of(int vectors, const QuadTask& t, const QuadRows& q, const Requantization& r, int64_t at) {
  if constexpr (N > 0) {
    if (vectors == N) return quad_tile<N, A, FLOATS>(t, q, r, at);
    quad_tile_of<N - 1, A, FLOATS>(vectors, t, q, r, at);
  }
}

template <int A, bool FLOATS>
inline void vector_tiles(const QuadTask& t, const QuadRows& q, const Requantization& r, int64_t begin, int64_t end) {
  int vectors = (end - begin + LANES - 1) / LANES;
  for (int tiles = (vectors + WIDEST_TILE - 1) / WIDEST_TILE; tiles > 0; tiles--) {  // of about the same size
    int own = (vectors + tiles - 1) / tiles;
    quad_tile_of<WIDEST_TILE, A, FLOATS>(own, t, q, r, begin);
    vectors -= own, begin += own * LANES;
  }
}

#if defined(DYNET_AMX)
template <int A, bool FLOATS>
inline void amx_tiles(const QuadTask& t, const Requantization& r, int64_t begin, int64_t end) {
  const AmxTask a(t);
  const AmxTiles tiles(4 * t.count, a.quads);
  alignas(64) int32_t sums[2 * AMX_SIDE][2 * AMX_SIDE];
  const bool two = 4 * t.count > AMX_SIDE;
  for (int64_t at = begin; at < end; at += 2 * AMX_SIDE) {
    const int vectors = at + AMX_SIDE < end ? 2 : 1;
    if (two) vectors == 2 ? amx_sums<true, true>(a, at, sums) : amx_sums<true, false>(a, at, sums);
    else vectors == 2 ? amx_sums<false, true>(a, at, sums) : amx_sums<false, false>(a, at, sums);
    for (int i = 0; i < t.count; i++) {
      for (int n = 0; n < vectors; n++) {
        Int own[4];
        for (int m = 0; m < 4; m++) own[m] = Int(load(reinterpret_cast<const float*>(&sums[4 * i + m][n * LANES])));
        finish<A, FLOATS>(t.quads[i], r, own, t.y_plane, at + n * LANES);
      }
    }
  }
}
#endif

// Convolves positions that have the same index in x and in y. It writes whole vectors, also behind `end`.
template <int A, bool FLOATS>
inline void quad_tiles(const QuadTask& t, const Requantization& r, int64_t begin, int64_t end) {
#if defined(DYNET_AMX)
  const bool worth_it = t.count > 1 && (t.gathered ? t.row : t.tap) >= 8;  // or most of a tile would be empty
  if (worth_it && has_amx()) return amx_tiles<A, FLOATS>(t, r, begin, end);
#endif
  for (int i = 0; i < t.count; i++) vector_tiles<A, FLOATS>(t, t.quads[i], r, begin, end);
}

}  // namespace DYNET_LEVEL
