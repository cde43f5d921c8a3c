/* logits MODEL HEIGHT WIDTH < pixels > floats: the logits of a batch of images, of any number, from standard input. */
#include <stdio.h>
#include <stdlib.h>

#include "dynet.h"

int main(int count, char** arguments) {
  dynet_model* model;
  if (count < 4 || dynet_load(arguments[1], 2, &model) != DYNET_OK) return fprintf(stderr, "%s\n", dynet_last_error()), 1;
  int height = atoi(arguments[2]), width = atoi(arguments[3]);
  size_t image = (size_t)height * width * 3, room = 0, bytes = 0;
  unsigned char* pixels = NULL;
  do {
    room += image;
    pixels = realloc(pixels, room);
    bytes += fread(pixels + bytes, 1, image, stdin);
  } while (bytes == room);
  int32_t shape[3], batch = (int32_t)(bytes / image);
  if (dynet_output_shape(model, height, width, shape)) return fprintf(stderr, "%s\n", dynet_last_error()), 1;
  size_t each = (size_t)shape[2] * (shape[0] ? (size_t)shape[0] * shape[1] : 1);
  float* logits = malloc(batch * each * sizeof *logits);
  if (dynet_run(model, pixels, batch, height, width, logits, batch * each)) return fprintf(stderr, "%s\n", dynet_last_error()), 1;
  dynet_description about;
  dynet_describe(model, &about);
  fprintf(stderr, "%s\n", about.processor);
  fwrite(logits, sizeof *logits, batch * each, stdout);
  dynet_free(model);
  free(logits), free(pixels);
  return 0;
}
