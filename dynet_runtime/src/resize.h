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

// To the nearest bytes, to the even one of two. The numbers are means of bytes.
inline void round_to_bytes(const float* __restrict numbers, int count, uint8_t* __restrict bytes) {
  const uint32_t zero = std::bit_cast<uint32_t>(0x1p23f);
  for (int i = 0; i < count; i++)
    bytes[i] = static_cast<uint8_t>(std::bit_cast<uint32_t>(numbers[i] + 0x1p23f) - zero);
}

// Averages along rows first, then along columns; sums are in the order of the pixels.
class Averaging {
 public:
  Averaging(const Source& source, const Axis& down, const Axis& across)
      : source_(source), rows_(down), columns_(across), pixels_(source.width), means_(across.count),
        sums_(across.count) {}

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

template <class Sum> inline void add_bytes(const uint8_t* __restrict bytes, int count, Sum* __restrict sums) {
  for (int i = 0; i < count; i++) sums[i] = static_cast<Sum>(sums[i] + bytes[i]);
}

// [blocks * factor] pixels -> [blocks].
template <class Sum> inline void add_pixels(const Sum* pixels, int factor, int blocks, Sum* sums) {
  typedef typename Lanes<Sum>::type Sums;
  for (int x = 0; x < blocks; x++, sums += CHANNELS) {
    Sums sum = {};
    for (int i = 0; i < factor; i++, pixels += CHANNELS) sum += load<Sums>(pixels);
    store(sums, sum);
  }
}

// Where both factors are whole, a pixel is the mean of a block, in integers. As in OpenCV, sums of more than eight
// million pixels may overflow.
template <class Sum>
inline void average_blocks(const Source& source, const Axis& down, const Axis& across, uint8_t* result) {
  const int factor = across.factor(), count = across.count * CHANNELS;
  Line<Sum> columns(across.count * factor), blocks(across.count);
  Line<float> means(across.count);
  for (int y = down.begin; y < down.begin + down.count; y++, result += count) {
    std::fill(columns.begin(), columns.end(), Sum{0});
    for (int row = y * down.factor(); row < (y + 1) * down.factor(); row++)
      add_bytes(source.at(row, across.begin * factor), count * factor, columns.data());
    add_pixels(columns.data(), factor, across.count, blocks.data());
    if (down.factor() == 2 && factor == 2) {
      for (int i = 0; i < count; i++) result[i] = static_cast<uint8_t>((blocks[i] + 2) >> 2);  // up, of two as near
    } else {
      const float scale = 1.0f / static_cast<float>(down.factor() * factor);
      for (int i = 0; i < count; i++) {
        const auto sum = static_cast<int32_t>(blocks[i]);
        means[i] = std::max(0.0f, static_cast<float>(sum) * scale);
      }
      round_to_bytes(means.data(), count, result);
    }
  }
}

// Interpolates along rows first, then along columns, in fixed-point numbers.
class Interpolation {
 public:
  Interpolation(const Source& source, const Axis& down, const Axis& across, Rule rule)
      : source_(source), rows_(pairs_of(down, rule, BEYOND)), columns_(pairs_of(across, rule, WITHIN)),
        pixels_(source.width), products_(across.count), sums_(across.count), first_{Line<int16_t>(across.count)},
        second_{Line<int16_t>(across.count)} {}

  void run(uint8_t* result) {
    const int count = static_cast<int>(columns_.size()) * CHANNELS;
    for (const Pair& pair : rows_) {
      if (pair.first == second_.row) std::swap(first_, second_);
      interpolate_row(pair.first, first_);
      interpolate_row(pair.second, second_);
      add_weighted(first_.numbers.data(), second_.numbers.data(), pair, count, sums_.data());
      round_quarters(sums_.data(), count, result);
      result += count;
    }
  }

 private:
  typedef Lanes<float>::type Floats;
  struct Row {
    Line<int16_t> numbers;  // in units of 1/128
    int row = -1;
  };

  void interpolate_row(int y, Row& to) {
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
    narrow(products_.data(), static_cast<int>(columns_.size()) * CHANNELS, to.numbers.data());
  }

  static void narrow(const float* __restrict numbers, int count, int16_t* __restrict sixteenths) {
    for (int i = 0; i < count; i++) sixteenths[i] = static_cast<int16_t>(static_cast<int>(numbers[i]) >> 4);
  }

  // In units of 1/4; both products are rounded down.
  static void add_weighted(const int16_t* first, const int16_t* second, const Pair& pair, int count, int16_t* sums) {
    const Shorts a = Shorts{} + static_cast<int16_t>(pair.weights[0]);
    const Shorts b = Shorts{} + static_cast<int16_t>(pair.weights[1]);
    for (int i = 0; i < count; i += SHORTS) {
      Shorts upper = upper_halves_of_products(load<Shorts>(first + i), a);
      store(sums + i, upper + upper_halves_of_products(load<Shorts>(second + i), b));
    }
  }

  static void round_quarters(const int16_t* __restrict quarters, int count, uint8_t* __restrict bytes) {
    for (int i = 0; i < count; i++) bytes[i] = static_cast<uint8_t>((quarters[i] + 2) >> 2);
  }

  const Source source_;
  const std::vector<Pair> rows_, columns_;
  Line<float> pixels_, products_;
  Line<int16_t> sums_;
  Row first_, second_;
};

// A part of an image that is resized to down.to x across.to pixels: its rows from down.begin on and its columns from
// across.begin on, [down.count, across.count, 3]. The others are not calculated.
inline void resize(const Source& source, const Axis& down, const Axis& across, uint8_t* result) {
  const bool shrinks = static_cast<int64_t>(down.to) * across.to < static_cast<int64_t>(down.from) * across.from;
  if (down.from == down.to && across.from == across.to) {
    for (int y = 0; y < down.count; y++, result += across.count * CHANNELS)
      std::memcpy(result, source.at(down.begin + y, across.begin), static_cast<size_t>(across.count) * CHANNELS);
  } else if (down.to > down.from || across.to > across.from) {
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
