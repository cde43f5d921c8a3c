/* Reads pictures from files. */
#ifndef PICTURE_H
#define PICTURE_H

#include <stdint.h>

/* Returns the pixels [height, width, 3] of a JPEG, PNG or binary PPM file, turned as EXIF data say and without opacity, to be
 * freed by the caller, or NULL with a line in `error`. */
uint8_t* read_picture(const char* path, int* height, int* width, char error[256]);

#endif
