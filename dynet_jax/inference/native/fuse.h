// From a bank to the kernel of one image: sum over g of coefficient[g][o] * kernel[g][..., o].
#pragma once
#include <algorithm>

#include "quads.h"

// Output channels are worked on in blocks of up to BLOCK. A block's kernel is a panel [inputs x taps][width], stretched
// to whole chunks: a chunk holds a whole number of rows and of vectors, so that coefficients repeat from chunk to chunk.
constexpr int BLOCK = 6;
constexpr int MAX_CHUNK = 80;  // the least common multiple of 5 and 16
constexpr int MAX_GROUP_SIZE = 16;

// What an element of a map is, and how a convolution works on it.
enum Mode : int32_t {
  SINGLE = 0,  // floats
  PAIRS = 1,   // pairs of channels, multiplied and added at once; a row of a panel is a pair of inputs and a tap
  APART = 2,   // pairs of channels, each for itself: a depthwise convolution. Its panels are floats
  QUADS = 3,            // quads, from quads; a row of a panel is a quad of inputs and a tap
  QUADS_APART = 4,      // quads, each channel for itself: panels and sums are floats, but whole numbers, so exact
  QUADS_TO_FLOATS = 5,  // of the last layer, whose result is no map of quads
  FLOATS_TO_QUADS = 6,  // of the first layer
};

constexpr bool reads_quads(int mode) { return mode == QUADS || mode == QUADS_APART || mode == QUADS_TO_FLOATS; }
constexpr bool gives_quads(int mode) { return mode == QUADS || mode == QUADS_APART || mode == FLOATS_TO_QUADS; }
// Channels of an element of what it reads, and of what it gives.
constexpr int channels_in(int mode) { return reads_quads(mode) ? 4 : mode == PAIRS || mode == APART ? 2 : 1; }
constexpr int channels_of(int mode) { return gives_quads(mode) ? 4 : mode == PAIRS || mode == APART ? 2 : 1; }
// Neighbouring weights of an output channel.
constexpr int weights_each(int mode) { return mode == PAIRS ? 2 : mode == QUADS || mode == QUADS_TO_FLOATS ? 4 : 1; }

struct Block {
  int32_t first, width;   // output channels
  int32_t size, chunk;    // weights of the panel, and of a chunk; the first is a multiple of the second
  int64_t panel, bank;    // where they begin: in elements, and in weights of the bank, [size / chunk][group_size][chunk]
};

template <int S, int V, int EACH>
inline void fuse_chunks(const typename Stored<S>::type* bank, const float* eta, int group_size, int chunks, float* panel) {
  auto halves = reinterpret_cast<uint16_t*>(panel);
  for (int chunk = 0; chunk < chunks; chunk++) {
    Vec sum[V] = {};
    for (int g = 0; g < group_size; g++) {
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) sum[v] += widen<S>(bank + v * LANES) * load(eta + g * MAX_CHUNK + v * LANES);
      bank += V * LANES;
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) {
      if constexpr (EACH == 2) store_half(halves + v * LANES, sum[v]);
      else store(panel + v * LANES, sum[v]);
    }
    panel += V * LANES;
    halves += V * LANES;
  }
}

// panel: of this block. coefficients: [group_size][features], where `shared` has one for all features. scales: of an int8 bank, [g][c_out].
// EACH: see `weights_each`; quads are fused in floats, which `quantize` rounds.
template <int S, int EACH>
inline void fuse_block(const Block& block, const void* bank, const float* scales, int c_out, const float* coefficients,
                       bool shared, int group_size, float* panel) {
  alignas(64) float eta[MAX_GROUP_SIZE * MAX_CHUNK];
  for (int g = 0; g < group_size; g++) {
    float own[BLOCK * EACH];
    for (int i = 0; i < block.width * EACH; i++) {
      int channel = g * c_out + std::min(block.first + i / EACH, c_out - 1);  // beyond the last weights are zeros
      own[i] = coefficients[shared ? g : channel] * (scales ? scales[channel] : 1.0f);
    }
    float* to = eta + g * MAX_CHUNK;
    for (int i = 0; i < block.chunk; i += block.width * EACH) std::copy(own, own + block.width * EACH, to + i);
  }
  auto from = static_cast<const typename Stored<S>::type*>(bank) + block.bank;
  int chunks = block.size / block.chunk;
  switch (block.chunk / 16) {
    case 1: return fuse_chunks<S, 16 / LANES, EACH>(from, eta, group_size, chunks, panel);
    case 3: return fuse_chunks<S, 48 / LANES, EACH>(from, eta, group_size, chunks, panel);
    default: return fuse_chunks<S, 80 / LANES, EACH>(from, eta, group_size, chunks, panel);
  }
}

// Rounds a block's kernel to whole numbers of -127 to 127, for each output channel in steps of its own: `steps`, whose
// numbers add up to `sums`. They are written as weights of quads, or, if a channel has neighbours of its own only
// (EACH = 1), as floats.
template <int EACH>
inline void quantize(const Block& block, const float* fused, float* to, float (&steps)[4], float (&sums)[4]) {
  constexpr int V = 16 / LANES;  // vectors that hold a row: four outputs of four weights, or four rows of four outputs
  auto output_of = [](int lane) { return EACH == 4 ? lane / 4 : lane % 4; };
  alignas(64) float largest[16], inverse[16], total[16];
  Vec most[V] = {}, factors[V];
  for (const float* row = fused; row < fused + block.size; row += 16)
    for (int v = 0; v < V; v++) {
      Vec size = Vec(Word(load(row + v * LANES)) & 0x7fffffffu);
      most[v] = size > most[v] ? size : most[v];
    }
  for (int v = 0; v < V; v++) store(largest + v * LANES, most[v]);
  std::fill(steps, steps + 4, 0.0f);
  for (int lane = 0; lane < 16; lane++) steps[output_of(lane)] = std::max(steps[output_of(lane)], largest[lane] / 127);
  for (int lane = 0; lane < 16; lane++) inverse[lane] = steps[output_of(lane)] > 0 ? 1 / steps[output_of(lane)] : 0;
  for (int v = 0; v < V; v++) factors[v] = load(inverse + v * LANES);
  Int sum[V] = {};
  auto bytes = reinterpret_cast<char*>(to);
  for (const float* row = fused; row < fused + block.size; row += 16)
    for (int v = 0; v < V; v++) {
      Int number = nearest(load(row + v * LANES) * factors[v]) - 0x4b400000;
      sum[v] += number;
      if constexpr (EACH == 4) {
        store_weights(bytes, number);
        bytes += LANES * QUAD_WORDS;
      } else {
        store(to, __builtin_convertvector(number, Vec));
        to += LANES;
      }
    }
  for (int v = 0; v < V; v++) store(total + v * LANES, __builtin_convertvector(sum[v], Vec));
  std::fill(sums, sums + 4, 0.0f);
  for (int lane = 0; lane < 16; lane++) sums[output_of(lane)] += total[lane];
}
