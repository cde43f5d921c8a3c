// What operations work on, for one image. Maps lie plane by plane; values without positions are plain vectors.
#pragma once
#include <array>
#include <chrono>
#include <map>

#include "geometry.h"
#include "pool.h"
#include "quads.h"
#include "status.h"

namespace DYNET_LEVEL {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Value {
  int channels = 0, height = 0, width = 0;  // no height: a vector
  int packed = 1;                           // channels in an element of a map: 1, or a pair, or a quad
  Scale scale;                              // of quads
  int64_t plane = 1;                        // elements, of four bytes, from plane to plane
  float* data = nullptr;

  bool is_map() const { return height > 0; }
  int in_element() const { return is_map() ? packed : 1; }
  bool in_pairs() const { return in_element() == 2; }
  bool in_quads() const { return in_element() == 4; }
  int planes() const { return (channels + in_element() - 1) / in_element(); }
  int64_t positions() const { return static_cast<int64_t>(height) * width; }
  int64_t floats() const { return (planes() * plane + 15) / 16 * 16 + 64; }  // a tile may read beyond the end
  // Throws Failure for a map without positions.
  void shape_map(int c, int h, int w) {
    if (h < 1 || w < 1) throw Failure(DYNET_TOO_SMALL, "the images are too small for this network");
    shape(c, h, w);
  }
  void shape_vector(int c) { shape(c, 0, 0); }
  // Throws Failure for a map of another size.
  void check_size(const Value& other) const {
    if (other.height != height || other.width != width) {
      throw Failure(DYNET_OTHER_SIZES, "images of this size give maps of different sizes that the network takes together");
    }
  }

  void shape(int c, int h, int w) {
    channels = c, height = h, width = w;
    plane = h ? (positions() + 15) / 16 * 16 : 1;
  }
};

// What one image at a time needs: its values, scratch for each thread, and the threads.
struct Context {
  explicit Context(int threads) : pool(threads), scratch(threads) {}

  Pool pool;
  double fusion = 0;  // seconds of this image, as part of the predictors'
  std::vector<Value> values;
  std::vector<std::vector<float>> scratch;
  std::map<std::array<int, 9>, Masks> all_masks;

  const Masks& masks(const Geometry& g, int height, int width) {
    std::array<int, 9> key = {g.kernel[0], g.kernel[1], g.dilation[0], g.dilation[1], g.same, g.padding[0][0],
                              g.padding[1][0], height, width};
    auto found = all_masks.find(key);
    if (found == all_masks.end()) found = all_masks.emplace(key, Masks(g, height, width)).first;
    return found->second;
  }

  float* scratch_of(int thread, int64_t floats) {
    auto& own = scratch[thread];
    if (static_cast<int64_t>(own.size()) < floats + 16) own.resize(floats + 16);
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(own.data()) + 63) / 64 * 64);
  }
};

struct Operation {
  std::vector<int> inputs, outputs;
  virtual ~Operation() = default;
  virtual void shape(std::vector<Value>& values) const = 0;  // of the outputs; may throw Failure
  virtual void run(Context& context) const = 0;
  // Returns how many elements before and behind its maps it may read, for images of which all values have their shapes.
  virtual int64_t reads_around(const std::vector<Value>&) const { return 0; }
};

// A convolution whose kernel a predictor may fuse, in so many tasks.
struct Fusing : Operation {
  int kernel = -1;  // the value of the fused one, or -1

  virtual int fusions() const = 0;
  virtual int64_t kernel_floats() const = 0;
  virtual void fuse(Context& context, int number, int thread) const = 0;
};

}  // namespace DYNET_LEVEL
