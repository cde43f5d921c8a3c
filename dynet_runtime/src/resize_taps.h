// Which pixels of an image make a pixel of it resized, along one axis, and by how much: by the arithmetic of OpenCV's
// cv2.resize, whose roundings decide the last bit of a pixel.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace resizing {

// Rounds a product to its type before it is used. Compilers may fuse it with the sum that it is part of, as g++ does for
// ARM; the sum is then rounded otherwise.
template <class Number> inline Number rounded(Number product) {
#if defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  asm("" : "+m"(product));
#endif
  return product;
}

struct Axis {
  int from, to;     // pixels of the image, and of it resized
  int begin, count;  // of the latter, those that are asked for

  double inverse() const { return static_cast<double>(to) / from; }
  double scale() const { return 1 / inverse(); }  // not from / to, which may be another number
  // Of pixels that are averaged for one, where that is the same whole number everywhere; otherwise 0.
  int factor() const {
    double whole = std::nearbyint(scale());
    return std::abs(scale() - whole) < 0x1p-52 ? static_cast<int>(whole) : 0;
  }
};

// For an axis that shrinks: a pixel is a weighted mean of pixels beside each other.
struct Cells {
  struct Cell {
    int first, taps;
    int64_t weight;  // where its weights begin
  };
  std::vector<Cell> cells;
  std::vector<float> weights;

  explicit Cells(const Axis& axis) {
    const double scale = axis.scale();
    for (int i = axis.begin; i < axis.begin + axis.count; i++) {
      double start = rounded(i * scale), end = start + scale, width = std::min(scale, axis.from - start);
      int last = std::min(static_cast<int>(std::floor(end)), axis.from - 1);
      int first = std::min(static_cast<int>(std::ceil(start)), last), before = first - start > NEGLIGIBLE;
      Cell cell = {first - before, 0, static_cast<int64_t>(weights.size())};
      if (before) weights.push_back(static_cast<float>((first - start) / width));
      weights.insert(weights.end(), last - first, static_cast<float>(1 / width));
      if (end - last > NEGLIGIBLE) weights.push_back(static_cast<float>(std::min({end - last, 1.0, width}) / width));
      cell.taps = static_cast<int>(weights.size() - cell.weight);
      cells.push_back(cell);
    }
  }

 private:
  static constexpr double NEGLIGIBLE = 1e-3;  // a part of a pixel
};

// For other axes: a pixel lies between two. Weights are in units of 1/2048.
struct Pair {
  int first, second;
  float weights[2];  // whole numbers
};

enum Rule { CENTRES, AREAS };  // AREAS is for an image that has fewer pixels afterwards, but more along one axis.
enum Ends { WITHIN, BEYOND };  // Whether a pixel may lie beyond the outer ones, between one and itself.

inline std::vector<Pair> pairs_of(const Axis& axis, Rule rule, Ends ends) {
  const double inverse = axis.inverse(), scale = axis.scale();
  const int last = axis.from - 1;
  std::vector<Pair> pairs;
  for (int i = axis.begin; i < axis.begin + axis.count; i++) {
    int at;
    float part;
    if (rule == CENTRES) {
      float position = static_cast<float>(rounded((i + 0.5) * scale) - 0.5);
      at = static_cast<int>(std::floor(position)), part = position - static_cast<float>(at);
    } else {
      at = static_cast<int>(std::floor(i * scale));
      part = static_cast<float>((i + 1) - rounded((at + 1) * inverse));
      part = part <= 0 ? 0 : part - std::floor(part);
    }
    if (ends == WITHIN && (at < 0 || at >= last)) at = std::clamp(at, 0, last), part = 0;
    auto weight = [](float part) { return std::nearbyint(part * 2048); };
    pairs.push_back({std::clamp(at, 0, last), std::clamp(at + 1, 0, last), {weight(1 - part), weight(part)}});
  }
  return pairs;
}

}  // namespace resizing
