/* The program of docs/deploy.md: classifies a picture that is 8 x 8 grey numbers from 0 to 16 on standard input. */
#include <dynet.h>
#include <stdint.h>
#include <stdio.h>

int main(int count, char** arguments) {
  dynet_model* model;
  if (count != 2 || dynet_load(arguments[1], 0, &model) != DYNET_OK) {
    fprintf(stderr, "%s\n", count == 2 ? dynet_last_error() : "usage: classify_digit MODEL < numbers");
    return 1;
  }
  uint8_t picture[8][8][3];
  for (int i = 0; i < 64; i++) {
    int grey;
    if (scanf("%d", &grey) != 1) return fprintf(stderr, "there must be 64 numbers\n"), 1;
    for (int channel = 0; channel < 3; channel++) picture[i / 8][i % 8][channel] = (uint8_t)(grey * 255 / 16.0 + 0.5);
  }
  float probabilities[10];
  if (dynet_classify(model, &picture[0][0][0], 8, 8, probabilities) != DYNET_OK) {
    fprintf(stderr, "%s\n", dynet_last_error());
    return 1;
  }
  int32_t best[10];
  dynet_top_k(probabilities, 10, 10, best);
  for (int i = 0; i < 10; i++) printf("%s %.9g\n", dynet_class_name(model, best[i]), probabilities[best[i]]);
  dynet_free(model);
  return 0;
}
