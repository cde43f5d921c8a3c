// How the weights of convolutions lie in a file: in the order in which they are read. The same for all processors.
#pragma once
#include <numeric>
#include <vector>

#include "network.h"

constexpr int64_t rounded_up(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

inline int64_t bytes_of(int storage) { return storage == FLOAT32 ? 4 : storage == BFLOAT16 ? 2 : 1; }

// Output channels are worked on in blocks of up to BLOCK. A block's kernel is a panel [inputs x taps][width], stretched
// to whole chunks: a chunk holds a whole number of rows and of vectors, so that coefficients repeat from chunk to chunk.
struct Block {
  int32_t first, width;  // output channels
  int64_t size;          // weights of the panel, a multiple of the chunk
  int32_t chunk;
  int64_t panel, bank;   // where they begin: in elements, and in weights of the bank, [size / chunk][group_size][chunk]
};

struct Panels {
  std::vector<Block> blocks;
  int64_t elements = 0, weights = 0;  // of the (fused) kernel, and of the file
};

inline Panels panels_of(const Node& node) {
  constexpr int VECTOR = 16;
  const Geometry& g = node.geometry;
  const int each = node.mode == PAIRS ? 2 : 1, most = node.mode == APART ? 2 : BLOCK;
  const int groups = node.mode == APART ? 1 : g.groups, outputs = g.c_out / groups;
  const int64_t rows = static_cast<int64_t>(g.c_in / g.groups / each) * g.taps(), kernels = std::max(1, node.group_size);
  Panels panels;
  for (int group = 0; group < groups; group++) {
    for (int start = 0; start < outputs; start += most) {
      Block b;
      b.first = group * outputs + start, b.width = std::min(most, outputs - start);
      b.chunk = std::lcm(b.width * each, VECTOR);
      b.size = rounded_up(rows * each * b.width, static_cast<int64_t>(b.chunk) * each);
      b.panel = panels.elements, b.bank = kernels * panels.elements * each;
      panels.elements += b.size / each;
      panels.weights += kernels * b.size;
      panels.blocks.push_back(b);
    }
  }
  return panels;
}

// A kernel of integers has a row for each output channel, [taps][quads][4 weights], padded with zeros to a multiple of
// STEP weights. Quads beyond a few are split into equal parts, which some instructions take at once.
constexpr int STEP = 16;

struct Rows {
  int unit;         // the smallest number of groups whose inputs and outputs fill whole quads, or all
  int64_t quads;    // of a tap
  int64_t row;      // weights
  int64_t outputs;  // filled up to whole quads
  int64_t weights;  // of the file
};

inline int64_t in_parts(int64_t quads, int64_t multiple) {
  constexpr int64_t TOGETHER = 16;
  const int64_t parts = (quads + TOGETHER - 1) / TOGETHER;
  return rounded_up(quads, parts * multiple);
}

inline Rows rows_of(const Node& node) {
  const Geometry& g = node.geometry;
  const int inputs = g.c_in / g.groups, outputs = g.c_out / g.groups;
  Rows r;
  r.unit = 1;
  while (r.unit < 4 && (r.unit * inputs % 4 || r.unit * outputs % 4)) r.unit++;
  r.unit = std::min(r.unit, g.groups);
  r.quads = in_parts(rounded_up(static_cast<int64_t>(r.unit) * inputs, 4) / 4, 1);
  r.row = 4 * in_parts(r.quads * g.taps(), STEP / 4);
  r.outputs = rounded_up(g.c_out, 4);
  // The kernels of a bank of bytes are in pairs.
  const int64_t kernels = node.group_size == 0 ? 1 : node.storage == INT8 ? rounded_up(node.group_size, 2) : node.group_size;
  r.weights = r.outputs * kernels * r.row;
  return r;
}
