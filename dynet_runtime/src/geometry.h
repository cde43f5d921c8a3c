// Where the input of each output position is: the window of a convolution, strips of rows, and masks.
#pragma once
#include <algorithm>
#include <vector>

#include "layout.h"
#include "simd.h"
#include "status.h"

namespace DYNET_LEVEL {

constexpr int TILE = LANES == 16 ? 4 : 2;  // of 32 or 16 registers, 24 or 12 hold sums
constexpr int WIDEST_TILE = LANES == 16 ? 6 : 2;  // of quads

// Rows of the output, and where the rows of the input that they need are copied to, padded, and parted by their
// remainders by the strides: a tap is then one offset for all positions, counted on from row to row through the padding.
struct Strip {
  static constexpr int64_t MOST = 1 << 28;  // floats of a channel

  int rows, width;         // of the output; the last strip of a map may have fewer rows
  int line, phase, plane;  // floats from row to row, phase to phase, channel to channel
  int offsets[MAX_TAPS];
  uint32_t padding = 0;  // an element of it, of whatever kind

  Strip(const Geometry& g, int rows, int width) : rows(rows), width(width) {
    line = width + (g.reach(1) - 1) / g.strides[1];
    const int64_t one = rounded_up(static_cast<int64_t>(lines(g, rows)) * line, 16) + 16 * WIDEST_TILE;
    const int64_t all = one * g.phases(0) * g.phases(1);
    if (all > MOST) throw std::bad_alloc();
    phase = static_cast<int>(one), plane = static_cast<int>(all);
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
          if (row < 0 || row >= height) fill(begin, line);
          else copy_line(x + static_cast<int64_t>(row) * width_in + start, left, right, stride, begin);
        }
      }
    }
  }

 private:
  void copy_line(const float* from, int left, int right, int stride, float* to) const {
    fill(to, left);
    if (stride == 1) {
      for (int i = left; i < right; i += LANES) store(to + i, load(from + i));
    } else if (stride == 2) {
      for (int i = left; i < right; i += LANES) store(to + i, even(load(from + 2 * i), load(from + 2 * i + LANES)));
    } else {
      for (int i = left; i < right; i++) to[i] = from[i * stride];
    }
    fill(to + right, line - right);
  }

  void fill(float* to, int count) const {
    Vec element = Vec(padding + Word{});
    for (int i = 0; i < count; i += LANES) store(to + i, element);
  }
};

// Which positions a tap finds within the map, for maps that keep their size: [vectors][taps].
struct Masks {
  std::vector<Mask> bits;
  std::vector<int> offsets;

  Masks(const Geometry& g, int height, int width) {
    const int64_t positions = static_cast<int64_t>(height) * width, vectors = (positions + LANES - 1) / LANES + TILE;
    bits.assign(vectors * g.taps(), 0);
    for (int y = 0, tap = 0; y < g.kernel[0]; y++) {
      for (int x = 0; x < g.kernel[1]; x++, tap++) {
        int down = y * g.dilation[0] - g.before(0, height), right = x * g.dilation[1] - g.before(1, width);
        offsets.push_back(down * width + right);
        for (int row = std::max(0, -down); row < std::min(height, height - down); row++)
          for (int column = std::max(0, -right); column < std::min(width, width - right); column++) {
            const int64_t at = static_cast<int64_t>(row) * width + column;
            bits[at / LANES * g.taps() + tap] |= 1u << at % LANES;
          }
      }
    }
  }
};

}  // namespace DYNET_LEVEL
