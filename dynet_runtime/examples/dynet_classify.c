/* dynet_classify MODEL IMAGE...: the most probable classes of pictures, a line of JSON for each. */
#include <stdio.h>
#include <stdlib.h>

#include "dynet.h"
#include "picture.h"

enum { SHOWN = 5 };

static void print_text(const char* text) {
  putchar('"');
  for (const unsigned char* c = (const unsigned char*)text; *c; c++) {
    if (*c == '"' || *c == '\\') printf("\\%c", *c);
    else if (*c < 0x20) printf("\\u%04x", *c);
    else putchar(*c);
  }
  putchar('"');
}

static void print_classes(const dynet_model* model, const float* probabilities, int classes) {
  int32_t best[SHOWN];
  int count = dynet_top_k(probabilities, classes, SHOWN, best);
  printf(", \"classes\": [");
  for (int i = 0; i < count; i++) {
    const char* name = dynet_class_name(model, best[i]);
    char number[16];
    snprintf(number, sizeof number, "%d", best[i]);
    printf(i ? ", {\"class\": " : "{\"class\": ");
    print_text(name ? name : number);
    printf(", \"probability\": %.6f}", probabilities[best[i]]);
  }
  printf("]}\n");
}

/* Returns whether it was possible. */
static int classify(dynet_model* model, const char* path, float* probabilities, int classes) {
  char error[256];
  int height, width;
  uint8_t* picture = read_picture(path, &height, &width, error);
  const char* problem = picture ? NULL : error;
  if (picture && dynet_classify(model, picture, height, width, probabilities) != DYNET_OK) problem = dynet_last_error();
  free(picture);
  printf("{\"image\": ");
  print_text(path);
  if (!problem) {
    print_classes(model, probabilities, classes);
    return 1;
  }
  printf(", \"error\": ");
  print_text(problem);
  printf("}\n");
  return 0;
}

int main(int count, char** arguments) {
  if (count < 3) return fprintf(stderr, "usage: %s MODEL IMAGE...\n", arguments[0]), 2;
  dynet_model* model;
  if (dynet_load(arguments[1], 0, &model) != DYNET_OK) return fprintf(stderr, "%s\n", dynet_last_error()), 2;
  dynet_description about;
  dynet_describe(model, &about);
  int classes = about.named_classes ? about.named_classes : about.classes, good = 1;
  float* probabilities = malloc(about.classes * sizeof *probabilities);
  for (int i = 2; i < count && probabilities; i++) good &= classify(model, arguments[i], probabilities, classes);
  good &= probabilities != NULL;
  free(probabilities);
  dynet_free(model);
  return good ? 0 : 1;
}
