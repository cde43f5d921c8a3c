// mutate FILE COUNT SEED: loads so many damaged variants of a file, and runs those that the library takes for whole. Most
// have a checksum that is right again, so that what is behind it is tried. Prints how many were refused and run.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "../../dynet_runtime/include/dynet.h"

namespace {

typedef std::vector<char> Bytes;
std::mt19937_64 chance;

size_t below(size_t bound) { return chance() % bound; }

uint32_t crc32(const char* from, size_t bytes) {  // bit by bit, as the standard defines it
  uint32_t crc = ~0u;
  for (size_t i = 0; i < bytes; i++) {
    crc ^= static_cast<uint8_t>(from[i]);
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

void put(Bytes& file, size_t at, uint64_t value, size_t bytes) {
  if (at + bytes <= file.size()) std::memcpy(file.data() + at, &value, bytes);
}

uint64_t words_end(const Bytes& file) {
  uint64_t words = 0;
  if (file.size() >= 64) std::memcpy(&words, file.data() + 24, 8);
  return std::min<uint64_t>(file.size(), 64 + 4 * std::min<uint64_t>(words, file.size() / 4));
}

// Changes a word among the operations: to a number that is close, special, or any.
void change_word(Bytes& file) {
  static const uint32_t special[] = {0, 1, 2, 3, 7, 16, 64, 255, 256, 4095, 1 << 16, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff};
  const size_t at = 64 + 4 * below((words_end(file) - 64) / 4);
  uint32_t word;
  std::memcpy(&word, file.data() + at, 4);
  switch (below(4)) {
    case 0: word += static_cast<uint32_t>(below(9)) - 4; break;
    case 1: word = special[below(sizeof special / sizeof *special)]; break;
    case 2: word ^= 1u << below(32); break;
    default: word = static_cast<uint32_t>(chance());
  }
  put(file, at, word, 4);
}

// Copies one word over another: numbers that are valid elsewhere.
void copy_word(Bytes& file) {
  const size_t count = (words_end(file) - 64) / 4;
  std::memcpy(file.data() + 64 + 4 * below(count), file.data() + 64 + 4 * below(count), 4);
}

Bytes mutated(const Bytes& whole) {
  Bytes file = whole;
  for (size_t changes = 1 + below(3); changes; changes--) {
    switch (below(8)) {
      case 0: file.resize(below(2) ? below(file.size() + 1) : file.size() - std::min<size_t>(file.size(), below(128))); break;
      case 1: file[below(file.size())] ^= 1 << below(8); break;
      case 2: copy_word(file); break;
      default: change_word(file);
    }
    if (file.size() < 80) return file;
  }
  if (below(8) == 0) return file;  // with a checksum that is wrong
  put(file, 16, file.size(), 8);
  put(file, 12, crc32(file.data() + 16, file.size() - 16), 4);
  return file;
}

// Returns whether the library has taken the file.
bool attempt(const Bytes& file) {
  dynet_model* model = nullptr;
  if (dynet_load_memory(file.data(), file.size(), 1 + below(2), &model) != DYNET_OK) {
    if (!*dynet_last_error()) std::abort();  // it has nothing to say
    return false;
  }
  dynet_description about;
  dynet_describe(model, &about);
  for (int i = 0; i < about.named_classes; i++)
    if (!dynet_class_name(model, i)) std::abort();
  const int height = 1 + below(40), width = 1 + below(40);
  std::vector<uint8_t> pixels(static_cast<size_t>(height) * width * 3, 100);
  int32_t shape[3];
  if (dynet_output_shape(model, height, width, shape) == DYNET_OK) {
    std::vector<float> logits(static_cast<size_t>(shape[2]) * std::max(1, shape[0]) * std::max(1, shape[1]));
    dynet_run(model, pixels.data(), 1, height, width, logits.data(), logits.size());
  }
  if (about.image_height > 0 && about.image_height <= 256 && about.image_width <= 256 && about.resize_to <= 1024) {
    std::vector<uint8_t> image(static_cast<size_t>(about.image_height) * about.image_width * 3);
    dynet_preprocess(model, pixels.data(), height, width, image.data());
  }
  dynet_free(model);
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) return 2;
  std::ifstream stream(arguments[1], std::ios::binary);
  const Bytes whole((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  chance.seed(std::stoull(arguments[3]));
  if (!attempt(whole)) return 1;
  long refused = 0, run = 0;
  for (long i = std::stol(arguments[2]); i; i--) attempt(mutated(whole)) ? run++ : refused++;
  std::printf("%ld %ld\n", refused, run);
}
