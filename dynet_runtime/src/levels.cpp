#include "levels.h"

#include <cstdlib>
#include <cstring>

#include "status.h"

// Only the baseline is in every library. Others are linked in ascending order, so that a function of the standard library
// that several have is that of the lowest.
#if defined(DYNET_EVERY_LEVEL) && defined(__x86_64__)
#include <cpuid.h>
extern const Level dynet_level_baseline, dynet_level_avx2, dynet_level_avxvnni, dynet_level_avx512, dynet_level_avx512vnni,
    dynet_level_avx512bf16;

namespace {

// The bits of the processor's leaf 7.1, where the compiler's own functions do not know them.
bool has_in_leaf(int bit) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> bit & 1;
}

// Returns whether the processor has what x86-64-v3 has beside vectors. A virtual one may lack it, and where there is no
// LZCNT, its code is that of another instruction.
bool has_scalars_of_v3() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & (bit_MOVBE | bit_F16C | bit_POPCNT)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~b & (bit_BMI | bit_BMI2)) return false;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) && c & bit_LZCNT;
}

std::vector<const Level*> find_levels() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_scalars_of_v3();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  std::vector<const Level*> levels;
  if (vnni && has_in_leaf(5)) levels.push_back(&dynet_level_avx512bf16);
  if (vnni) levels.push_back(&dynet_level_avx512vnni);
  if (avx512) levels.push_back(&dynet_level_avx512);
  if (avx2 && has_in_leaf(4)) levels.push_back(&dynet_level_avxvnni);
  if (avx2) levels.push_back(&dynet_level_avx2);
  levels.push_back(&dynet_level_baseline);
  return levels;
}

}  // namespace
#elif defined(DYNET_EVERY_LEVEL) && defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
extern const Level dynet_level_baseline, dynet_level_dotprod, dynet_level_i8mm;

namespace {

std::vector<const Level*> find_levels() {
  constexpr unsigned long DOT_PRODUCTS = 1 << 20, I8MM = 1 << 13, BF16 = 1 << 14;  // HWCAP_ASIMDDP, HWCAP2_...
  std::vector<const Level*> levels;
  const bool dot = getauxval(AT_HWCAP) & DOT_PRODUCTS;
  const unsigned long more = getauxval(AT_HWCAP2);
  if (dot && (more & I8MM) && (more & BF16)) levels.push_back(&dynet_level_i8mm);
  if (dot) levels.push_back(&dynet_level_dotprod);
  levels.push_back(&dynet_level_baseline);
  return levels;
}

}  // namespace
#elif defined(DYNET_EVERY_LEVEL)
extern const Level dynet_level_baseline;

namespace {

std::vector<const Level*> find_levels() { return {&dynet_level_baseline}; }

}  // namespace
#else
extern const Level dynet_level_native;

namespace {

std::vector<const Level*> find_levels() { return {&dynet_level_native}; }

}  // namespace
#endif

const std::vector<const Level*>& levels() {
  static const std::vector<const Level*> found = find_levels();
  return found;
}

const Level& chosen_level() {
  const char* wanted = std::getenv("DYNET_LEVEL");
  if (!wanted || !*wanted) return *levels().front();
  std::string names;
  for (const Level* level : levels()) {
    if (!std::strcmp(level->name, wanted)) return *level;
    names += (names.empty() ? "" : ", ") + std::string(level->name);
  }
  throw Failure(DYNET_ARGUMENT, "DYNET_LEVEL=" + std::string(wanted) + " is none of this processor and library, which have: " + names);
}
