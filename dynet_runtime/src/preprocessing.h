// From an image of any size to what a network is given, as its evaluation does it: see `Preprocessing` and
// `ResizedPreprocessing` in dynet_jax/data/preprocessing.py, whose pixels these are.
#pragma once
#include <stdexcept>

#include "resize.h"

struct Image {
  const uint8_t* pixels;  // [height, width, 3]
  int height, width;
};

struct Preprocessing {
  enum Kind { NONE = 0, CROP = 1, RESIZED = 2 };
  int kind;           // one of Kind
  int height, width;  // of the result; of a crop both are the same
  int resize_to;      // of a crop: what the shorter side is resized to before
};

// The limits are those of images that OpenCV reads.
inline void check_size(int64_t height, int64_t width, const char* message) {
  if (height <= 0 || width <= 0) throw std::invalid_argument(message);
  if (height > 1 << 20 || width > 1 << 20 || height * width > 1 << 30) throw std::length_error(message);
}

inline void check(const Preprocessing& p, const Image& image, const uint8_t* result) {
  if (!image.pixels || !result) throw std::invalid_argument("no image, or no room for the result");
  check_size(image.height, image.width, "the size of an image");
  check_size(p.height, p.width, "the size of what an image becomes");
  if (p.kind == Preprocessing::CROP) {
    check_size(p.resize_to, 1, "the size that an image is resized to before it is cropped");
    if (p.height != p.width) throw std::invalid_argument("a crop that is not square");
  } else if (p.kind == Preprocessing::NONE) {
    if (p.height != image.height || p.width != image.width) throw std::invalid_argument("an image of another size");
  } else if (p.kind != Preprocessing::RESIZED) {
    throw std::invalid_argument("an unknown kind of preprocessing");
  }
}

// The middle of an image, at most eight times as long as wide: a line of pixels would be resized to gigabytes.
inline resizing::Source without_far_ends(const Image& image) {
  const int64_t stride = static_cast<int64_t>(image.width) * resizing::CHANNELS;
  const int height = std::min(image.height, 8 * image.width), width = std::min(image.width, 8 * image.height);
  const int top = (image.height - height) / 2, left = (image.width - width) / 2;
  return {image.pixels + top * stride + left * resizing::CHANNELS, height, width, stride};
}

inline void crop(const Preprocessing& p, const Image& image, uint8_t* result) {
  const resizing::Source source = without_far_ends(image);
  const double scale = static_cast<double>(p.resize_to) / std::min(source.height, source.width);
  auto middle = [&](int from, int size) {
    int to = std::max(size, static_cast<int>(std::nearbyint(from * scale)));
    return resizing::Axis{from, to, (to - size) / 2, size};
  };
  resizing::resize(source, middle(source.height, p.height), middle(source.width, p.width), result);
}

// Writes the result, [height, width, 3], beside the image. Throws std::invalid_argument for a size that is not positive
// or does not fit, std::length_error for one that is too large, both before anything is allocated; and std::bad_alloc.
inline void preprocess(const Preprocessing& p, Image image, uint8_t* result) {
  check(p, image, result);
  if (p.kind == Preprocessing::CROP) return crop(p, image, result);
  const resizing::Source source = {image.pixels, image.height, image.width, int64_t{image.width} * resizing::CHANNELS};
  resizing::resize(source, {image.height, p.height, 0, p.height}, {image.width, p.width, 0, p.width}, result);
}
