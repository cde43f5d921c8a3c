// From a bank to the kernel of one image: sum over g of coefficient[g][o] * kernel[g][..., o].
#pragma once
#include <algorithm>

#include "layout.h"
#include "simd.h"

namespace DYNET_LEVEL {

constexpr int MAX_CHUNK = 80;  // the least common multiple of 5 and 16

template <int S, int V, bool PAIRED>
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
      if constexpr (PAIRED) store_half(halves + v * LANES, sum[v]);
      else store(panel + v * LANES, sum[v]);
    }
    panel += V * LANES;
    halves += V * LANES;
  }
}

// coefficients: [group_size][features], where `shared` has one for all features. scales: of an int8 bank, [g][c_out].
template <int S, bool PAIRED>
inline void fuse_block(const Block& block, const void* bank, const float* scales, int c_out, const float* coefficients,
                       bool shared, int group_size, float* panel) {
  alignas(64) float eta[MAX_GROUP_SIZE * MAX_CHUNK];
  for (int g = 0; g < group_size; g++) {
    constexpr int EACH = PAIRED ? 2 : 1;  // neighbouring weights of one output channel
    float own[BLOCK * EACH];
    for (int i = 0; i < block.width * EACH; i++) {
      int channel = g * c_out + block.first + i / EACH;
      own[i] = coefficients[shared ? g : channel] * (scales ? scales[channel] : 1.0f);
    }
    float* to = eta + g * MAX_CHUNK;
    for (int i = 0; i < block.chunk; i += block.width * EACH) std::copy(own, own + block.width * EACH, to + i);
  }
  auto from = static_cast<const typename Stored<S>::type*>(bank) + block.bank;
  float* to = panel + block.panel;
  int chunks = block.size / block.chunk;
  switch (block.chunk / 16) {
    case 1: return fuse_chunks<S, 16 / LANES, PAIRED>(from, eta, group_size, chunks, to);
    case 3: return fuse_chunks<S, 48 / LANES, PAIRED>(from, eta, group_size, chunks, to);
    default: return fuse_chunks<S, 80 / LANES, PAIRED>(from, eta, group_size, chunks, to);
  }
}

}  // namespace DYNET_LEVEL
