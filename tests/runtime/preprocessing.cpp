// The runtime's preprocessing as C functions for the tests, and a program of it.
#include "preprocessing.h"

#include <iostream>
#include <memory>

// Returns 0, 1 for an invalid argument, 2 for what is too large.
extern "C" int preprocess_image(int kind, int height, int width, int resize_to, const uint8_t* pixels, int from_height,
                                int from_width, uint8_t* result) {
  try {
    preprocess({kind, height, width, resize_to}, {pixels, from_height, from_width}, result);
  } catch (const std::invalid_argument&) {
    return 1;
  } catch (const std::length_error&) {
    return 2;
  }
  return 0;
}

// For sanitizers: preprocesses blank images of the sizes that are read, whose memory ends where they end.
int main() {
  int kind, height, width, resize_to, from_height, from_width;
  while (std::cin >> kind >> height >> width >> resize_to >> from_height >> from_width) {
    auto image = std::make_unique<uint8_t[]>(size_t(from_height) * from_width * 3);
    auto result = std::make_unique<uint8_t[]>(size_t(height) * width * 3);
    preprocess({kind, height, width, resize_to}, {image.get(), from_height, from_width}, result.get());
  }
}
