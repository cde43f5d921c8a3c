#include "orientation.h"

#include <stdlib.h>
#include <string.h>

enum { EXIF_HEADER = 6, TIFF_HEADER = 8, ENTRY = 12, ORIENTATION_TAG = 0x0112 };

static uint32_t number(const unsigned char* from, int bytes, int big_endian) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; i++) value = value << 8 | from[big_endian ? i : bytes - 1 - i];
  return value;
}

int orientation_of(const unsigned char* data, size_t size) {
  if (size < EXIF_HEADER + TIFF_HEADER + 2 || memcmp(data, "Exif\0", EXIF_HEADER)) return 1;
  const unsigned char* tiff = data + EXIF_HEADER;
  size -= EXIF_HEADER;
  const int big_endian = tiff[0] == 'M';
  size_t at = number(tiff + 4, 4, big_endian);
  if (at > size - 2) return 1;
  uint32_t entries = number(tiff + at, 2, big_endian);
  for (at += 2; entries > 0 && size - at >= ENTRY; entries--, at += ENTRY) {
    if (number(tiff + at, 2, big_endian) != ORIENTATION_TAG) continue;
    const int value = (int)number(tiff + at + 8, 2, big_endian);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

uint8_t* turn_upright(uint8_t* pixels, int* height, int* width, int orientation) {
  if (orientation == 1) return pixels;
  const int transposes = orientation >= 5, rows = *height, columns = *width;
  const int from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const int from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  *height = transposes ? columns : rows, *width = transposes ? rows : columns;
  uint8_t* turned = malloc((size_t)rows * columns * 3);
  for (int y = 0; turned && y < *height; y++) {
    for (int x = 0; x < *width; x++) {
      const int row = transposes ? x : y, column = transposes ? y : x;
      const size_t from = (size_t)(from_bottom ? rows - 1 - row : row) * columns + (from_right ? columns - 1 - column : column);
      memcpy(turned + ((size_t)y * *width + x) * 3, pixels + from * 3, 3);
    }
  }
  free(pixels);
  return turned;
}
