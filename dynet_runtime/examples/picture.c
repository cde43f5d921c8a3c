#include "picture.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orientation.h"

#ifdef DYNET_JPEG
#include <jpeglib.h>
#include <setjmp.h>
#endif
#ifdef DYNET_PNG
#include <png.h>
#endif

static uint8_t* failed(const char* path, const char* reason, char error[256]) {
  snprintf(error, 256, "%s: %s", path, reason);
  return NULL;
}

static uint8_t* room_for(int height, int width, int channels) {
  if (height < 1 || width < 1 || height > 1 << 15 || width > 1 << 15) return NULL;
  return malloc((size_t)height * width * channels);
}

/* A number of a PPM header, behind space and comments; -1 for none. */
static int ppm_number(FILE* file) {
  int c = fgetc(file), number = 0;
  while (isspace(c) || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = fgetc(file);
    c = fgetc(file);
  }
  if (!isdigit(c)) return -1;
  for (; isdigit(c) && number < 1 << 20; c = fgetc(file)) number = 10 * number + (c - '0');
  return number;
}

static uint8_t* read_ppm(FILE* file, const char* path, int* height, int* width, char error[256]) {
  fseek(file, 2, SEEK_SET);
  *width = ppm_number(file), *height = ppm_number(file);
  if (ppm_number(file) != 255) return failed(path, "not a PPM file of 8 bits", error);
  uint8_t* pixels = room_for(*height, *width, 3);
  if (!pixels) return failed(path, "no size that a picture can have", error);
  size_t bytes = (size_t)*height * *width * 3;
  if (fread(pixels, 1, bytes, file) == bytes) return pixels;
  free(pixels);
  return failed(path, "it ends too early", error);
}

#ifdef DYNET_JPEG
struct jpeg_failure {
  struct jpeg_error_mgr manager;
  jmp_buf back;
  char text[JMSG_LENGTH_MAX];
};

static void jpeg_failed(j_common_ptr info) {
  struct jpeg_failure* failure = (struct jpeg_failure*)info->err;
  info->err->format_message(info, failure->text);
  longjmp(failure->back, 1);
}

static uint8_t* read_jpeg(FILE* file, const char* path, int* height, int* width, char error[256]) {
  struct jpeg_decompress_struct info;
  struct jpeg_failure failure;
  uint8_t* volatile pixels = NULL;
  info.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = jpeg_failed;
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    free(pixels);
    return failed(path, failure.text, error);
  }
  jpeg_create_decompress(&info);
  jpeg_stdio_src(&info, file);
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&info, TRUE);
  int orientation = 1;
  for (jpeg_saved_marker_ptr m = info.marker_list; m && orientation == 1; m = m->next)
    if (m->marker == JPEG_APP0 + 1) orientation = orientation_of(m->data, m->data_length);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  *height = (int)info.output_height, *width = (int)info.output_width;
  pixels = room_for(*height, *width, 3);
  while (pixels && info.output_scanline < info.output_height) {
    JSAMPROW row = pixels + (size_t)info.output_scanline * *width * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  if (!pixels) {
    jpeg_destroy_decompress(&info);
    return failed(path, "no size that a picture can have", error);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  uint8_t* upright = turn_upright(pixels, height, width, orientation);
  return upright ? upright : failed(path, "there is not enough memory", error);
}
#endif

#ifdef DYNET_PNG
/* Without its opacity a picture is what its colours are, as for most programs: libpng would lay it over what is in `pixels`. */
static uint8_t* read_png(FILE* file, const char* path, int* height, int* width, char error[256]) {
  png_image image = {.version = PNG_IMAGE_VERSION};
  rewind(file);
  if (!png_image_begin_read_from_stdio(&image, file)) return failed(path, image.message, error);
  image.format = PNG_FORMAT_RGBA;
  *height = (int)image.height, *width = (int)image.width;
  uint8_t* pixels = room_for(*height, *width, 4);
  if (pixels && png_image_finish_read(&image, NULL, pixels, 0, NULL)) {
    const size_t count = (size_t)*height * *width;
    for (size_t i = 0; i < count; i++) memmove(pixels + 3 * i, pixels + 4 * i, 3);
    return pixels;
  }
  free(pixels);
  failed(path, pixels ? image.message : "no size that a picture can have", error);
  png_image_free(&image);
  return NULL;
}
#endif

uint8_t* read_picture(const char* path, int* height, int* width, char error[256]) {
  FILE* file = fopen(path, "rb");
  if (!file) return failed(path, strerror(errno), error);
  unsigned char begin[2] = {0, 0};
  size_t has = fread(begin, 1, 2, file);
  rewind(file);
  uint8_t* pixels;
  if (has == 2 && begin[0] == 'P' && begin[1] == '6') pixels = read_ppm(file, path, height, width, error);
#ifdef DYNET_JPEG
  else if (begin[0] == 0xff && begin[1] == 0xd8) pixels = read_jpeg(file, path, height, width, error);
#endif
#ifdef DYNET_PNG
  else if (begin[0] == 0x89 && begin[1] == 'P') pixels = read_png(file, path, height, width, error);
#endif
  else pixels = failed(path, "no picture of a kind that this program was built for", error);
  fclose(file);
  return pixels;
}
