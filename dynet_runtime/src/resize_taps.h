// Which pixels of an image a pixel of the resized one is made of, along one axis, and with which weights. The numbers
// are rounded as in OpenCV's cv2.resize, because the last bit of a pixel depends on it.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace resizing {

// Rounds a product to its type before it is added to something. Compilers may otherwise fuse both, as g++ does for ARM,
// and what is rounded only once is another number.
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
  int from, to;      // pixels of the image, and of the resized one
  int begin, count;  // those of the latter that are asked for

  double inverse() const { return static_cast<double>(to) / from; }
  double scale() const { return 1 / inverse(); }  // from / to may be rounded to another number
  // The scale, if it is a whole number; otherwise 0.
  int factor() const {
    double whole = std::nearbyint(scale());
    return std::abs(scale() - whole) < 0x1p-52 ? static_cast<int>(whole) : 0;
  }
};

// Where both axes shrink: a pixel is a weighted mean of pixels beside each other.
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
      if (end - last > NEGLIGIBLE) weights.push_back(static_cast<float>(std::min(end - last, 1.0) / width));
      cell.taps = static_cast<int>(weights.size() - cell.weight);
      cells.push_back(cell);
    }
  }

 private:
  static constexpr double NEGLIGIBLE = 1e-3;  // a part of a pixel
};

// Where one grows: a pixel lies between two. Weights are in units of 1/2048.
struct Pair {
  int first, second;
  float weights[2];  // whole numbers
};

enum Rule { CENTRES, AREAS };  // AREAS is for images that grow along one axis and have fewer pixels all the same.
enum Ends { WITHIN, BEYOND };  // A pixel BEYOND the outer ones lies between one and itself: both weights count.

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
