// From a bank to the kernel of one image: sum over g of coefficient[g][o] * kernel[g][..., o].
#pragma once
#include <algorithm>

#include "simd.h"

// Output channels are worked on in blocks of up to BLOCK. A block's kernel is a panel [inputs x taps][width], stretched
// to whole chunks: a chunk holds a whole number of rows and of vectors, so that coefficients repeat from chunk to chunk.
constexpr int BLOCK = 6;
constexpr int MAX_CHUNK = 80;  // the least common multiple of 5 and 16
constexpr int MAX_GROUP_SIZE = 16;

struct Block {
  int32_t first, width;   // output channels
  int32_t size, chunk;    // floats of the panel, and of a chunk; the first is a multiple of the second
  int64_t panel, bank;    // where they begin: in floats, and in elements of the bank, [size / chunk][group_size][chunk]
};

template <int S, int V>
inline void fuse_chunks(const typename Stored<S>::type* bank, const float* eta, int group_size, int chunks, float* panel) {
  for (int chunk = 0; chunk < chunks; chunk++) {
    Vec sum[V] = {};
    for (int g = 0; g < group_size; g++) {
#pragma GCC unroll 16
      for (int v = 0; v < V; v++) sum[v] += widen<S>(bank + v * LANES) * load(eta + g * MAX_CHUNK + v * LANES);
      bank += V * LANES;
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; v++) store(panel + v * LANES, sum[v]);
    panel += V * LANES;
  }
}

// coefficients: [group_size][features], where `shared` has one for all features. scales: of an int8 bank, [g][c_out].
template <int S>
inline void fuse_block(const Block& block, const void* bank, const float* scales, int c_out, const float* coefficients,
                       bool shared, int group_size, float* panel) {
  alignas(64) float eta[MAX_GROUP_SIZE * MAX_CHUNK];
  for (int g = 0; g < group_size; g++) {
    float own[BLOCK];
    for (int i = 0; i < block.width; i++) {
      int channel = g * c_out + block.first + i;
      own[i] = coefficients[shared ? g : channel] * (scales ? scales[channel] : 1.0f);
    }
    float* to = eta + g * MAX_CHUNK;
    for (int i = 0; i < block.chunk; i += block.width) std::copy(own, own + block.width, to + i);
  }
  auto from = static_cast<const typename Stored<S>::type*>(bank) + block.bank;
  float* to = panel + block.panel;
  int chunks = block.size / block.chunk;
  switch (block.chunk / 16) {
    case 1: return fuse_chunks<S, 16 / LANES>(from, eta, group_size, chunks, to);
    case 3: return fuse_chunks<S, 48 / LANES>(from, eta, group_size, chunks, to);
    default: return fuse_chunks<S, 80 / LANES>(from, eta, group_size, chunks, to);
  }
}
