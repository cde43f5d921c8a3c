/* How a camera was held: EXIF data say it, and pictures are turned by it. */
#ifndef ORIENTATION_H
#define ORIENTATION_H

#include <stddef.h>
#include <stdint.h>

/* Returns the orientation in the data of a JPEG marker, 1 to 8; 1, as it is, if there is none. */
int orientation_of(const unsigned char* data, size_t size);

/* Returns the picture turned upright, with its new size, and frees `pixels`; or NULL if there is no memory. */
uint8_t* turn_upright(uint8_t* pixels, int* height, int* width, int orientation);

#endif
