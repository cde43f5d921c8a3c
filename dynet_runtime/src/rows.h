// A row of an integer kernel (`layout.h`), fused for the image and rounded in the same pass. A bank's row is
// [size / STEP][group_size][STEP].
#pragma once
#include "fuse.h"
#include "quads.h"

namespace DYNET_LEVEL {

// A fused row before it is rounded: integers times `step`, or floats with a step of 1.
struct Fused {
  float largest, step;  // the largest magnitude
};

inline float largest_lane(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(__m512(v));
#else
  float most = v[0];
  for (int i = 1; i < LANES; i++) most = std::max<float>(most, v[i]);
  return most;
#endif
}

inline int32_t sum_of_lanes(Int v) {
  // Numbers that are not finite may leave any integers, whose sums wrap around.
#if defined(__AVX2__)
#if defined(__AVX512F__)
  __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(__m512i(v)), _mm512_extracti64x4_epi64(__m512i(v), 1));
#else
  __m256i eight = __m256i(v);
#endif
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
  uint32_t sum = 0;
  for (int i = 0; i < LANES; i++) sum += static_cast<uint32_t>(v[i]);
  return static_cast<int32_t>(sum);
#endif
}

// Computes the sum over g of eta[g] * bank[g].
template <int S>
inline Fused fuse_row(const typename Stored<S>::type* bank, const float* eta, int group_size, int size, float* fused) {
  Vec factors[MAX_GROUP_SIZE], largest = {};
  for (int g = 0; g < group_size; g++) factors[g] = eta[g] + Vec{};
  for (int i = 0; i < size; i += STEP) {
    Vec sum[STEP / LANES] = {};
    prefetch(bank, STEP * group_size);
    for (int g = 0; g < group_size; g++, bank += STEP)
      for (int v = 0; v < STEP / LANES; v++) sum[v] += widen<S>(bank + v * LANES) * factors[g];
    for (int v = 0; v < STEP / LANES; v++) {
      store(fused + i + v * LANES, sum[v]);
      Vec magnitude = Vec(Word(sum[v]) & 0x7fffffffu);
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  return {largest_lane(largest), 1};
}

// The same for a bank of bytes, [size / STEP][pairs of kernels][STEP][2]: coefficients are rounded to 16 bits and two kernels
// are added by one instruction. An odd group size is padded by a kernel whose coefficient is zero.
template <>
inline Fused fuse_row<INT8>(const int8_t* bank, const float* eta, int group_size, int size, float* fused) {
  float most = 0;
  for (int g = 0; g < group_size; g++) most = std::max(most, std::abs(eta[g]));
  const float step = most / 32767;
  const int pairs = (group_size + 1) / 2;
  Int factors[(MAX_GROUP_SIZE + 1) / 2], largest = {};
  for (int p = 0; p < pairs; p++) {
    auto rounded = [&](int g) { return g < group_size && step > 0 ? static_cast<int32_t>(std::lrint(eta[g] / step)) : 0; };
    factors[p] = ((rounded(2 * p) & 0xffff) | rounded(2 * p + 1) * 65536) + Int{};
  }
  for (int i = 0; i < size; i += STEP) {
    Int sum[STEP / LANES] = {};
    prefetch(bank, 2 * STEP * pairs);
    for (int p = 0; p < pairs; p++, bank += 2 * STEP)
      for (int v = 0; v < STEP / LANES; v++) sum[v] = add_pairs(sum[v], pairs_of_bytes(bank + 2 * v * LANES), factors[p]);
    for (int v = 0; v < STEP / LANES; v++) {
      store(fused + i + v * LANES, __builtin_convertvector(sum[v], Vec));
      Int magnitude = sum[v] < 0 ? -sum[v] : sum[v];
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  return {largest_lane(__builtin_convertvector(largest, Vec)), step};
}

// Rounds a row to integers from -127 to 127, so that the largest magnitude becomes 127; returns their sum.
inline float round_row(const float* fused, float largest, int size, char* row) {
  const float inverse = largest > 0 ? 127 / largest : 0;
  Word sums = {};
  for (int i = 0; i < size; i += LANES, row += LANES * QUAD_WORDS) {
    const Word number = Word(nearest(load(fused + i) * inverse)) - 0x4b400000u;
    sums += number;
    store_weights(row, Int(number));
  }
  return sum_of_lanes(Int(sums));
}

}  // namespace DYNET_LEVEL
