// Reads a file's words one after another, and its arrays, and nothing outside of it. docs/native_format.md describes the file.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "network.h"
#include "status.h"

struct Content {
  const char* begin = nullptr;  // at a multiple of 64 bytes
  uint64_t bytes = 0;
};

[[noreturn]] inline void damaged(const std::string& why) {
  throw Failure(DYNET_DAMAGED, "the file is damaged: " + why + "; export it again, or copy it again");
}

class Reader {
 public:
  Reader(Content content, uint64_t from, uint64_t to) : content_(content), at_(from), to_(to), arrays_to_(to) {}

  uint32_t word() {
    if (to_ - at_ < 4) damaged("it ends within an operation");
    uint32_t word;
    std::memcpy(&word, content_.begin + at_, 4);
    at_ += 4;
    return word;
  }

  int32_t number() { return static_cast<int32_t>(word()); }

  int32_t number(int32_t least, int32_t most, const char* what) {
    const int32_t value = number();
    if (value < least || value > most)
      damaged(std::string(what) + " is " + std::to_string(value) + ", not from " + std::to_string(least) + " to " +
              std::to_string(most));
    return value;
  }

  float real() {
    const uint32_t bits = word();
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }

  // Reads how many things follow; each takes at least so many words.
  uint32_t count(uint32_t words_each, const char* what) {
    const uint32_t many = word();
    if (many > (to_ - at_) / 4 / words_each) damaged(std::string("there cannot be so many ") + what);
    return many;
  }

  std::vector<int32_t> numbers(const char* what) {
    std::vector<int32_t> values(count(1, what));
    for (int32_t& value : values) value = number();
    return values;
  }

  // Bytes of UTF-8, filled up with zeros to whole words.
  std::string text() {
    const uint32_t size = word();
    if (size > to_ - at_) damaged("it ends within a text");
    std::string text(content_.begin + at_, size);
    const uint64_t whole = (static_cast<uint64_t>(size) + 3) / 4 * 4;
    at_ = std::min(to_, at_ + whole);
    return text;
  }

  Array array() {
    uint64_t offset = word();
    offset |= static_cast<uint64_t>(word()) << 32;
    uint64_t bytes = word();
    bytes |= static_cast<uint64_t>(word()) << 32;
    if (bytes == 0) return {};
    if (offset % 64 || offset > content_.bytes || bytes > content_.bytes - offset) damaged("an array is outside of it");
    // In order, so that a small file cannot name one large array many times.
    if (offset < arrays_to_) damaged("an array begins within another one");
    arrays_to_ = offset + bytes;
    return {content_.begin + offset, bytes};
  }

  bool at_end() const { return at_ == to_; }

 private:
  const Content content_;
  uint64_t at_;
  const uint64_t to_;
  uint64_t arrays_to_;  // where the last one has ended
};
