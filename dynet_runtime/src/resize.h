// Resizes images of bytes: area averaging where an image shrinks, bilinear interpolation where it grows. The pixels are
// those of OpenCV's cv2.resize for x86-64 with INTER_AREA and INTER_LINEAR, to the bit, on every processor.
#pragma once
#include <bit>
#include <cstring>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "resize_taps.h"

namespace resizing {

constexpr int CHANNELS = 3, LANES = 4, SHORTS = 8;

// Four numbers: the channels of a pixel, and one behind them.
template <class Number> struct Lanes {
  typedef Number type __attribute__((vector_size(LANES * sizeof(Number))));
};
typedef int16_t Shorts __attribute__((vector_size(SHORTS * 2)));

template <class Vector> inline Vector load(const void* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class Vector> inline void store(void* p, Vector v) { std::memcpy(p, &v, sizeof v); }

inline Shorts upper_halves_of_products(Shorts a, Shorts b) {
#if defined(__x86_64__)
  return Shorts(_mm_mulhi_epi16(__m128i(a), __m128i(b)));
#else
  typedef int32_t Ints __attribute__((vector_size(SHORTS * 4)));
  return __builtin_convertvector(__builtin_convertvector(a, Ints) * __builtin_convertvector(b, Ints) >> 16, Shorts);
#endif
}

// What is calculated of a row, with room behind it for the rest of a vector.
template <class Number> struct Line : std::vector<Number> {
  explicit Line(int pixels) : std::vector<Number>(static_cast<size_t>(pixels) * CHANNELS + SHORTS) {}
};

struct Source {  // an image, or a part of one
  const uint8_t* pixels;
  int height, width;
  int64_t stride;  // bytes from row to row

  const uint8_t* at(int y, int x) const { return pixels + y * stride + x * CHANNELS; }
};

inline void widen(const uint8_t* __restrict bytes, int count, float* __restrict numbers) {
  for (int i = 0; i < count; i++) numbers[i] = bytes[i];
}

// To the nearest bytes, to the even one of two. No number is negative.
inline void round_to_bytes(const float* __restrict numbers, int count, uint8_t* __restrict bytes) {
  const uint32_t zero = std::bit_cast<uint32_t>(0x1p23f);
  for (int i = 0; i < count; i++) {
    uint32_t number = std::bit_cast<uint32_t>(numbers[i] + 0x1p23f) - zero;
    bytes[i] = static_cast<uint8_t>(number > 255 ? 255 : number);
  }
}

// Averages along rows first, then along columns; sums are in the order of the pixels.
class Averaging {
 public:
  Averaging(const Source& source, const Axis& down, const Axis& across)
      : source_(source), rows_(down), columns_(across), pixels_(source.width), means_(across.count), sums_(across.count) {}

  void run(uint8_t* result) {
    const int count = static_cast<int>(columns_.cells.size()) * CHANNELS;
    for (const Cells::Cell& cell : rows_.cells) {
      std::fill(sums_.begin(), sums_.end(), 0.0f);
      for (int tap = 0; tap < cell.taps; tap++) {
        if (cell.first + tap != row_) average_row(row_ = cell.first + tap);
        const float weight = rows_.weights[cell.weight + tap];
        for (int i = 0; i < count; i += LANES)
          store(&sums_[i], load<Floats>(&sums_[i]) + rounded(weight * load<Floats>(&means_[i])));
      }
      round_to_bytes(sums_.data(), count, result);
      result += count;
    }
  }

 private:
  typedef Lanes<float>::type Floats;

  void average_row(int y) {
    const int begin = columns_.cells.front().first, end = columns_.cells.back().first + columns_.cells.back().taps;
    widen(source_.at(y, begin), (end - begin) * CHANNELS, pixels_.data());
    float* mean = means_.data();
    for (const Cells::Cell& cell : columns_.cells) {
      const float *pixel = &pixels_[(cell.first - begin) * CHANNELS], *weights = &columns_.weights[cell.weight];
      Floats sum = {};
      for (int tap = 0; tap < cell.taps; tap++) sum += rounded(weights[tap] * load<Floats>(pixel + tap * CHANNELS));
      store(mean, sum);
      mean += CHANNELS;
    }
  }

  const Source source_;
  const Cells rows_, columns_;
  Line<float> pixels_, means_, sums_;
  int row_ = -1;  // whose means they are
};

// Where both factors are whole, a pixel is the mean of a block, in integers. As in OpenCV, sums of more than eight
// million pixels may overflow.
template <class Sum>
inline void average_blocks(const Source& source, const Axis& down, const Axis& across, uint8_t* result) {
  typedef typename Lanes<Sum>::type Sums;
  const int factor = across.factor(), count = across.count * CHANNELS, area = down.factor() * factor;
  const float scale = 1.0f / static_cast<float>(area);
  const bool halved = down.factor() == 2 && factor == 2;  // is rounded otherwise: up, of two bytes that are as near
  Line<Sum> columns(across.count * factor), blocks(across.count);
  Line<float> means(across.count);
  for (int y = down.begin; y < down.begin + down.count; y++, result += count) {
    std::fill(columns.begin(), columns.end(), Sum{0});
    for (int row = y * down.factor(); row < (y + 1) * down.factor(); row++) {
      const uint8_t* pixels = source.at(row, across.begin * factor);
      for (int i = 0; i < count * factor; i++) columns[i] += pixels[i];
    }
    for (int x = 0; x < across.count; x++) {
      Sums sum = {};
      for (int i = 0; i < factor; i++) sum += load<Sums>(&columns[(x * factor + i) * CHANNELS]);
      store(&blocks[x * CHANNELS], sum);
    }
    for (int i = 0; i < count; i++) {
      if (halved) result[i] = static_cast<uint8_t>((blocks[i] + 2) >> 2);
      else means[i] = std::max(0.0f, static_cast<float>(static_cast<int32_t>(blocks[i])) * scale);
    }
    if (!halved) round_to_bytes(means.data(), count, result);
  }
}

// Interpolates along rows first, then along columns, in fixed-point numbers.
class Interpolation {
 public:
  Interpolation(const Source& source, const Axis& down, const Axis& across, Rule rule)
      : source_(source), rows_(pairs_of(down, rule, BEYOND)), columns_(pairs_of(across, rule, WITHIN)),
        pixels_(source.width), products_(across.count), between_(across.count), first_{Line<int16_t>(across.count)},
        second_{Line<int16_t>(across.count)} {}

  void run(uint8_t* result) {
    const int count = static_cast<int>(columns_.size()) * CHANNELS;
    for (const Pair& pair : rows_) {
      if (pair.first == second_.row) std::swap(first_, second_);
      fill(first_, pair.first);
      fill(second_, pair.second);
      const auto first = static_cast<int16_t>(pair.weights[0]), second = static_cast<int16_t>(pair.weights[1]);
      for (int i = 0; i < count; i += SHORTS) {
        Shorts a = upper_halves_of_products(load<Shorts>(&first_.numbers[i]), Shorts{} + first);
        Shorts b = upper_halves_of_products(load<Shorts>(&second_.numbers[i]), Shorts{} + second);
        store(&between_[i], a + b);
      }
      for (int i = 0; i < count; i++) result[i] = static_cast<uint8_t>((between_[i] + 2) >> 2);
      result += count;
    }
  }

 private:
  typedef Lanes<float>::type Floats;
  struct Row {
    Line<int16_t> numbers;  // in units of 1/128
    int row = -1;
  };

  void fill(Row& to, int y) {
    if (to.row == y) return;
    to.row = y;
    const int begin = columns_.front().first, end = columns_.back().second + 1;
    widen(source_.at(y, begin), (end - begin) * CHANNELS, pixels_.data());
    float* product = products_.data();
    for (const Pair& pair : columns_) {
      Floats first = load<Floats>(&pixels_[(pair.first - begin) * CHANNELS]);
      Floats second = load<Floats>(&pixels_[(pair.second - begin) * CHANNELS]);
      store(product, first * pair.weights[0] + second * pair.weights[1]);  // exact: whole numbers below 2^24
      product += CHANNELS;
    }
    int16_t* numbers = to.numbers.data();
    const int count = static_cast<int>(columns_.size()) * CHANNELS;
    for (int i = 0; i < count; i++) numbers[i] = static_cast<int16_t>(static_cast<int>(products_[i]) >> 4);
  }

  const Source source_;
  const std::vector<Pair> rows_, columns_;
  Line<float> pixels_, products_;
  Line<int16_t> between_;
  Row first_, second_;
};

// A part of an image that is resized to down.to x across.to pixels: its rows from down.begin on and its columns from
// across.begin on, [down.count, across.count, 3]. The others are not calculated.
inline void resize(const Source& source, const Axis& down, const Axis& across, uint8_t* result) {
  const bool shrinks = static_cast<int64_t>(down.to) * across.to < static_cast<int64_t>(down.from) * across.from;
  if (down.from == down.to && across.from == across.to) {
    for (int y = 0; y < down.count; y++, result += across.count * CHANNELS)
      std::memcpy(result, source.at(down.begin + y, across.begin), static_cast<size_t>(across.count) * CHANNELS);
  } else if (!shrinks || down.to > down.from || across.to > across.from) {
    Interpolation(source, down, across, shrinks ? AREAS : CENTRES).run(result);
  } else if (!down.factor() || !across.factor()) {
    Averaging(source, down, across).run(result);
  } else if (down.factor() * across.factor() <= 257) {  // whose sums are of 16 bits
    average_blocks<uint16_t>(source, down, across, result);
  } else {
    average_blocks<uint32_t>(source, down, across, result);
  }
}

}  // namespace resizing
