// From an image as it is stored, pixel by pixel, to normalised planes, or to one of quads, as it is.
#pragma once
#include "context.h"

namespace DYNET_LEVEL {

struct Pixels {
  float mean[3] = {0, 0, 0}, scale[3] = {1, 1, 1};

  template <class Pixel> void read(Pool& pool, const Pixel* image, const Value& to) const {
    if (to.in_quads()) return read_bytes(pool, image, to);
    pool.run(to.height, [&](int row, int) {
      int64_t first = static_cast<int64_t>(row) * to.width;
      const Pixel* __restrict from = image + first * 3;
      float *__restrict red = to.data + first, *__restrict green = red + to.plane, *__restrict blue = green + to.plane;
      alignas(64) float lines[3][256];
      for (int begin = 0; begin < to.width; begin += 256) {
        int count = std::min(256, to.width - begin);
        float *r = to.in_pairs() ? lines[0] : red + begin, *g = to.in_pairs() ? lines[1] : green + begin;
        float* b = to.in_pairs() ? lines[2] : blue + begin;
        split(from + 3 * begin, count, r, g, b);
        for (int i = 0; to.in_pairs() && i < count; i += LANES) {
          int part = std::min(LANES, count - i);
          store_part(red + begin + i, pair(load(r + i), load(g + i)), part);
          store_part(green + begin + i, pair(load(b + i), Vec{}), part);
        }
      }
    });
  }

 private:
  template <class Pixel> static void read_bytes(Pool& pool, const Pixel* image, const Value& to) {
    pool.run(to.height, [&](int row, int) {
      const Pixel* from = image + static_cast<int64_t>(row) * to.width * 3;
      float* y = to.data + static_cast<int64_t>(row) * to.width;
      // Four bytes at once are faster; those of the last pixel might be behind the image.
      for (int x = 0; x < to.width; x++, from += 3) {
        uint32_t element;
        if (sizeof(Pixel) == 1 && x + 1 < to.width) std::memcpy(&element, from, 4), element &= 0xffffff;
        else element = byte(from[0]) | byte(from[1]) << 8 | byte(from[2]) << 16;
        std::memcpy(y + x, &element, 4);
      }
    });
  }

  static uint32_t byte(uint8_t pixel) { return pixel; }
  static uint32_t byte(float pixel) { return pixel > 0 ? std::nearbyint(at_most(255, pixel)) : 0; }  // NaN is 0 too

  template <class Pixel>
  void split(const Pixel* __restrict from, int count, float* __restrict red, float* __restrict green,
             float* __restrict blue) const {
    const float m0 = mean[0], m1 = mean[1], m2 = mean[2], s0 = scale[0], s1 = scale[1], s2 = scale[2];
    for (int x = 0; x < count; x++) {
      red[x] = (from[3 * x] - m0) * s0;
      green[x] = (from[3 * x + 1] - m1) * s1;
      blue[x] = (from[3 * x + 2] - m2) * s2;
    }
  }
};

}  // namespace DYNET_LEVEL
