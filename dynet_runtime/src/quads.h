// Quads: an element of a plane is four neighbouring channels, one byte each and unsigned, the first in the lowest. A
// byte q stands for (q - zero) * scale of its map. Products with signed bytes are summed in 32 bits, exactly.
#pragma once
#include <algorithm>

#include "simd.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace DYNET_LEVEL {

typedef int32_t Int __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// Returns sum + x[0] * weights[0] + x[1] * weights[1] for each lane, which holds two signed 16-bit integers.
inline Int add_pairs(Int sum, Int x, Int weights) {
#if defined(__AVX512VNNI__)
  return Int(_mm512_dpwssd_epi32(__m512i(sum), __m512i(x), __m512i(weights)));
#elif defined(__AVX512BW__)
  return sum + Int(_mm512_madd_epi16(__m512i(x), __m512i(weights)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return sum + Int(_mm256_madd_epi16(__m256i(x), __m256i(weights)));
#else
  return sum + (x << 16 >> 16) * (weights << 16 >> 16) + (x >> 16) * (weights >> 16);
#endif
}

// Loads two signed bytes for each lane, as 16-bit integers.
inline Int pairs_of_bytes(const int8_t* p) {
#if defined(__AVX512BW__)
  return Int(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return Int(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Int pairs;
  for (int i = 0; i < LANES; i++) pairs[i] = (p[2 * i] & 0xffff) | p[2 * i + 1] * 65536;
  return pairs;
#endif
}

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__)) || defined(__ARM_FEATURE_DOTPROD)
#define DYNET_DOT_PRODUCTS 1
#endif

// ARM's dot products without I8MM are of two signed bytes: bytes of maps are made signed ones, 128 less than they were.
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int BYTE_SHIFT = 128;
#else
constexpr int BYTE_SHIFT = 0;
#endif

// The four weights of one output for a quad are four bytes in one word; or, where no instruction multiplies unsigned by
// signed bytes, 16-bit integers in two words: the first and third weight in one, the second and fourth in the other. AVX2's
// vpmaddubsw does not serve: it saturates sums of two products at 16 bits.
#if defined(DYNET_DOT_PRODUCTS)
constexpr int QUAD_WORDS = 1;
struct Quad {
  Int all;
};
inline Quad quad(Vec element) { return {Int(Word(element) ^ (BYTE_SHIFT ? 0x80808080u : 0u))}; }
#else
constexpr int QUAD_WORDS = 2;
struct Quad {
  Int even, odd;
};
inline Quad quad(Vec element) {
  Word bytes = Word(element);
  return {Int(bytes & 0x00ff00ffu), Int(bytes >> 8 & 0x00ff00ffu)};
}
#endif

struct QuadWeights {
  Int words[QUAD_WORDS];

  explicit QuadWeights(const float* from) {
    int32_t word[QUAD_WORDS];
    std::memcpy(word, from, sizeof word);
    for (int i = 0; i < QUAD_WORDS; i++) words[i] = word[i] + Int{};
  }
};

// Returns the sum plus the four products of each lane.
inline Int add_products(Int sum, const Quad& x, const QuadWeights& weights) {
#if defined(__AVX512VNNI__)
  return Int(_mm512_dpbusd_epi32(__m512i(sum), __m512i(x.all), __m512i(weights.words[0])));
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return Int(_mm256_dpbusd_avx_epi32(__m256i(sum), __m256i(x.all), __m256i(weights.words[0])));
#elif defined(__ARM_FEATURE_DOTPROD)
  struct Halves {
    int32x4_t low, high;
  };
  auto s = __builtin_bit_cast(Halves, sum), a = __builtin_bit_cast(Halves, x.all), b = __builtin_bit_cast(Halves, weights.words[0]);
  auto products = [](int32x4_t sum, int32x4_t x, int32x4_t weights) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_s32(sum, vreinterpretq_u8_s32(x), vreinterpretq_s8_s32(weights));
#else
    return vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(weights));
#endif
  };
  s.low = products(s.low, a.low, b.low), s.high = products(s.high, a.high, b.high);
  return __builtin_bit_cast(Int, s);
#else
  return add_pairs(add_pairs(sum, x.even, weights.words[0]), x.odd, weights.words[1]);
#endif
}

// Returns one of the four channels as floats.
inline Vec channel_of(Vec element, int channel) { return __builtin_convertvector(Int(Word(element) >> (8 * channel) & 0xffu), Vec); }

// Rounds numbers below 2^22 to the nearest integer, which the addition leaves in the lower bits of the mantissa.
inline Int nearest(Vec v) { return Int(v + 12582912.0f); }

inline Vec clipped(Vec v, float low, float high) { return at_most(high, at_least(low, v)); }

// Stores LANES integers from -127 to 127 as weights of a row.
inline void store_weights(char* to, Int v) {
#if defined(__AVX512F__)
  if constexpr (QUAD_WORDS == 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(__m512i(v)));
  else _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(__m512i(v)));
#elif defined(__AVX2__)
  __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(__m256i(v)), _mm256_extracti128_si256(__m256i(v), 1));
  if constexpr (QUAD_WORDS == 2) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), words);
  else _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
#else
  for (int i = 0; i < LANES; i++) {
    if constexpr (QUAD_WORDS == 1) reinterpret_cast<int8_t*>(to)[i] = v[i];
    else reinterpret_cast<int16_t*>(to)[i] = v[i];
  }
#endif
}

// Returns a quad of four channels of any numbers, rounded to nearest and clipped to 0 to 255.
inline Vec quad_of(const Vec (&v)[4]) {
#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
  alignas(16) static constexpr uint32_t order[4] = {0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703};
  const __m128i interleaved = _mm_load_si128(reinterpret_cast<const __m128i*>(order));
#endif
#if defined(__AVX512BW__)
  __m512i n[4];
  for (int i = 0; i < 4; i++) n[i] = _mm512_cvtps_epi32(__m512(at_most(255, v[i])));  // too large for 32 bits is below 0
  __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(n[0], n[1]), _mm512_packs_epi32(n[2], n[3]));
  return Vec(_mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(interleaved)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  __m256i n[4];
  for (int i = 0; i < 4; i++) n[i] = _mm256_cvtps_epi32(__m256(at_most(255, v[i])));
  __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
  return Vec(_mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(interleaved)));
#else
  Word bytes = {};
  for (int i = 0; i < 4; i++) bytes |= (Word(nearest(clipped(v[i], 0, 255))) & 0xffu) << (8 * i);
  return Vec(bytes);
#endif
}

// Conversions of the numbers of a map.
inline Vec number_of(const Scale& scale, Vec byte) { return (byte - scale.zero) * scale.step; }

// Returns the quad of four channels.
inline Vec quad_of(const Scale& scale, const Vec (&numbers)[4]) {
  Vec bytes[4];
  for (int i = 0; i < 4; i++) bytes[i] = numbers[i] * (1 / scale.step) + scale.zero;
  return quad_of(bytes);
}

}  // namespace DYNET_LEVEL
