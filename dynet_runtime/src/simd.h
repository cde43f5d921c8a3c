// Vectors of floats by the compiler's own extension: one source for SSE, AVX2, AVX-512 and NEON. All that depends on the
// level of instructions that is compiled for is in the namespace DYNET_LEVEL, so that one library can have several.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "network.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace DYNET_LEVEL {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// The first `count` lanes, 1 to LANES of them.
inline void store_part(float* p, Vec v, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), __m512(v));
#else
  for (int i = 0; i < count; i++) p[i] = v[i];
#endif
}

// One bit for each lane; the others are 0 and are not read.
typedef uint16_t Mask;

inline Vec load_masked(const float* p, Mask mask) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_loadu_ps(mask, p));
#else
  typedef int32_t Int __attribute__((vector_size(LANES * 4)));
  Int bits = {1, 2, 4, 8, 16, 32, 64, 128}, chosen = ((mask + Int{}) & bits) != 0;
#if defined(__AVX2__)
  return Vec(_mm256_maskload_ps(p, __m256i(chosen)));
#else
  return chosen ? load(p) : Vec{};
#endif
#endif
}

// Pairs: an element of a plane is a float, or the bfloat16 values of two neighbouring channels, the first in the lower half.
typedef uint32_t Word __attribute__((vector_size(LANES * 4)));

inline Vec low_halves(Vec pairs) { return Vec(Word(pairs) << 16); }
inline Vec high_halves(Vec pairs) { return Vec(Word(pairs) & 0xffff0000u); }

// Rounded to nearest, as pairs.
inline Vec pair(Vec low, Vec high) {
#if defined(__AVX512BF16__)
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  __m512i both = __m512i(_mm512_cvtne2ps_pbh(__m512(high), __m512(low)));
  return Vec(_mm512_permutexvar_epi16(_mm512_load_si512(order), both));
#else
  auto rounded = [](Word bits) { return bits + 0x7fffu + (bits >> 16 & 1u); };
  return Vec(rounded(Word(low)) >> 16 | (rounded(Word(high)) & 0xffff0000u));
#endif
}

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
constexpr bool MULTIPLIES_BFLOAT16 = true;
#else
constexpr bool MULTIPLIES_BFLOAT16 = false;
#endif

// sum + the products of both halves.
inline Vec add_products(Vec sum, Vec pairs, Vec others) {
#if defined(__AVX512BF16__)
  return Vec(_mm512_dpbf16_ps(__m512(sum), __m512bh(pairs), __m512bh(others)));
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  struct Halves {
    float32x4_t low, high;
  };
  auto s = __builtin_bit_cast(Halves, sum), a = __builtin_bit_cast(Halves, pairs), b = __builtin_bit_cast(Halves, others);
  s.low = vbfdotq_f32(s.low, vreinterpretq_bf16_f32(a.low), vreinterpretq_bf16_f32(b.low));
  s.high = vbfdotq_f32(s.high, vreinterpretq_bf16_f32(a.high), vreinterpretq_bf16_f32(b.high));
  return __builtin_bit_cast(Vec, s);
#else
  return sum + low_halves(pairs) * low_halves(others) + high_halves(pairs) * high_halves(others);
#endif
}

// LANES floats as bfloat16, rounded to nearest.
inline void store_half(uint16_t* p, Vec v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(_mm512_cvtneps_pbh(__m512(v))));
#else
  Word bits = Word(v);
  bits = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  for (int i = 0; i < LANES; i++) p[i] = bits[i];
#endif
}

// The type of the numbers of each kind of storage.
template <int S> struct Stored;
template <> struct Stored<FLOAT32> { typedef float type; };
template <> struct Stored<BFLOAT16> { typedef uint16_t type; };
template <> struct Stored<INT8> { typedef int8_t type; };

// By intrinsics where there are some: compilers make poor code of the general form.
template <int S> inline Vec widen(const typename Stored<S>::type* p) {
  if constexpr (S == FLOAT32) {
    return load(p);
  } else if constexpr (S == BFLOAT16) {
#if defined(__AVX512F__)
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return Vec(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(__AVX2__)
    __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
    typedef uint16_t Short __attribute__((vector_size(LANES * 2), aligned(1), may_alias));
    return Vec(__builtin_convertvector(*reinterpret_cast<const Short*>(p), Word) << 16);
#endif
  } else {
#if defined(__AVX512F__)
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#elif defined(__AVX2__)
    __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
#else
    typedef int8_t Byte __attribute__((vector_size(LANES), aligned(1), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const Byte*>(p), Vec);
#endif
  }
}

// Asks for what will be read soon, where `count` numbers from `p` on are read now: weights that are read once per image come
// from far away, and the processor does not look far enough ahead.
template <class T> inline void prefetch(const T* p, int count) {
  constexpr int BYTES_AHEAD = 4096, LINE = 64;
  auto bytes = reinterpret_cast<const char*>(p) + BYTES_AHEAD;
  for (size_t i = 0; i < count * sizeof(T); i += LINE) __builtin_prefetch(bytes + i);
}

// Every other float of two vectors.
inline Vec even(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#endif
}

// max(low, v) and min(high, v), where NaN stays NaN: a comparison with it is false, and the instructions give their second
// operand then. Compilers do not find these instructions.
inline float at_least(float low, float v) { return v < low ? low : v; }
inline float at_most(float high, float v) { return v > high ? high : v; }

inline Vec at_least(float low, Vec v) {
#if defined(__AVX512F__)
  return Vec(_mm512_max_ps(_mm512_set1_ps(low), __m512(v)));
#elif defined(__AVX2__)
  return Vec(_mm256_max_ps(_mm256_set1_ps(low), __m256(v)));
#else
  return v < low ? low + Vec{} : v;
#endif
}

inline Vec at_most(float high, Vec v) {
#if defined(__AVX512F__)
  return Vec(_mm512_min_ps(_mm512_set1_ps(high), __m512(v)));
#elif defined(__AVX2__)
  return Vec(_mm256_min_ps(_mm256_set1_ps(high), __m256(v)));
#else
  return v > high ? high + Vec{} : v;
#endif
}

template <class T> inline T clip6(T v) { return at_most(6, at_least(0, v)); }

template <int A> inline float activate(float v) {
  if constexpr (A == RELU) return at_least(0, v);
  if constexpr (A == RELU6) return clip6(v);
  if constexpr (A == HARD_SWISH) return v * clip6(v + 3) * (1 / 6.0f);
  if constexpr (A == HARD_SIGMOID) return clip6(v + 3) * (1 / 6.0f);
  if constexpr (A == SIGMOID) return 1 / (1 + std::exp(-v));
  if constexpr (A == SILU) return v / (1 + std::exp(-v));
  return v;
}

template <int A> inline Vec activate(Vec v) {
  if constexpr (A == NONE) return v;
  if constexpr (A == RELU) return at_least(0, v);
  if constexpr (A == RELU6) return clip6(v);
  if constexpr (A == HARD_SWISH) return v * clip6(v + 3) * (1 / 6.0f);
  if constexpr (A == HARD_SIGMOID) return clip6(v + 3) * (1 / 6.0f);
  for (int i = 0; i < LANES; i++) v[i] = activate<A>(v[i]);
  return v;
}

// Calls f with the activation of a convolution as a constant: the few that tiles are compiled for.
template <class F> inline void with_tile_activation(int32_t activation, F f) {
  switch (activation) {
    case RELU: return f(std::integral_constant<int, RELU>());
    case RELU6: return f(std::integral_constant<int, RELU6>());
    case HARD_SWISH: return f(std::integral_constant<int, HARD_SWISH>());
    default: return f(std::integral_constant<int, NONE>());
  }
}

// Calls f with any activation as a constant.
template <class F> inline void with_activation(int32_t activation, F f) {
  switch (activation) {
    case RELU: return f(std::integral_constant<int, RELU>());
    case RELU6: return f(std::integral_constant<int, RELU6>());
    case HARD_SWISH: return f(std::integral_constant<int, HARD_SWISH>());
    case HARD_SIGMOID: return f(std::integral_constant<int, HARD_SIGMOID>());
    case SIGMOID: return f(std::integral_constant<int, SIGMOID>());
    case SILU: return f(std::integral_constant<int, SILU>());
    default: return f(std::integral_constant<int, NONE>());
  }
}

}  // namespace DYNET_LEVEL
