/* Runs networks that `dynet export --format=native` has written, without Python or any other library.
 *
 *   dynet_model* model;
 *   if (dynet_load("dy_mobile.dynet", 0, &model)) return fprintf(stderr, "%s\n", dynet_last_error()), 1;
 *   dynet_classify(model, rgb, height, width, probabilities);
 *
 * Images are uint8 [height, width, 3], in RGB, row after row. Functions that can fail return a dynet_status, and
 * dynet_last_error() says in a line what was wrong. Threads may call functions with the same model at once; those that run
 * it wait for each other. After a fork, a model can be used in both processes. Functions that return no status must not be
 * given a null model.
 */
#ifndef DYNET_H
#define DYNET_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DYNET_API __attribute__((visibility("default")))
#else
#define DYNET_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DYNET_VERSION "0.2.0"
#define DYNET_FORMAT 1 /* the version of files that this library reads */

typedef enum dynet_status {
  DYNET_OK = 0,
  DYNET_TOO_SMALL = 1,   /* the images are too small for this network */
  DYNET_OTHER_SIZES = 2, /* for this size of images, the network would take maps of different sizes together */
  DYNET_NO_MEMORY = 3,
  DYNET_NO_THREADS = 4,
  DYNET_INTERNAL = 5,    /* a fault of this library: please report it */
  DYNET_NO_FILE = 6,     /* the file cannot be read */
  DYNET_DAMAGED = 7,     /* it is no such file, or has been cut short or changed */
  DYNET_NEWER = 8,       /* it has a version that this library does not read */
  DYNET_ARGUMENT = 9     /* an argument is out of range */
} dynet_status;

typedef struct dynet_model dynet_model;

typedef struct dynet_description {
  const char* name;       /* of the network; texts live as long as the model */
  const char* arithmetic; /* float32, bfloat16 or int8 */
  const char* storage;    /* of banks of kernels: float32, bfloat16 or int8 */
  const char* processor;  /* the level of the processor's instructions that is used, such as "avx512vnni" */
  int32_t threads;
  int32_t classes;        /* how many outputs a position has, or an image */
  int32_t named_classes;  /* how many of the first of them have names */
  int32_t is_segmentation; /* whether the outputs have positions */
  int32_t image_height, image_width; /* of the images that dynet_preprocess makes; 0 if the file does not say it */
  int32_t resize_to;      /* to which their shorter side is resized before a square is cut out; 0 for no such cut */
  float mean[3], std[3];  /* of pixels, 0 to 255; dynet_run normalises images by them */
} dynet_description;

/* Returns the version of the library. */
DYNET_API const char* dynet_version(void);

/* Returns what the last call of this thread that failed had to say. */
DYNET_API const char* dynet_last_error(void);

/* Opens a model. The file is mapped into memory and must not be changed while the model is used. threads: 0 for all
 * cores that this process may use. */
DYNET_API dynet_status dynet_load(const char* path, int32_t threads, dynet_model** model);

/* Opens a model whose file is in memory; it is copied. */
DYNET_API dynet_status dynet_load_memory(const void* content, size_t bytes, int32_t threads, dynet_model** model);

/* Frees a model; NULL is none. */
DYNET_API void dynet_free(dynet_model* model);

DYNET_API void dynet_describe(const dynet_model* model, dynet_description* description);

/* Returns the name of a class, or NULL if it has none. */
DYNET_API const char* dynet_class_name(const dynet_model* model, int32_t index);

/* Says what dynet_run gives for an image of this size: shape[0] rows and shape[1] columns, both 0 for a classifier, and
 * shape[2] classes. */
DYNET_API dynet_status dynet_output_shape(dynet_model* model, int32_t height, int32_t width, int32_t shape[3]);

/* Computes the logits [batch, rows, columns, classes] of images [batch, height, width, 3] of any size. `count` is how many
 * numbers `logits` has room for. */
DYNET_API dynet_status dynet_run(dynet_model* model, const uint8_t* images, int32_t batch, int32_t height,
                                 int32_t width, float* logits, size_t count);

/* The same for images of floats, from 0 to 255. */
DYNET_API dynet_status dynet_run_floats(dynet_model* model, const float* images, int32_t batch, int32_t height,
                                        int32_t width, float* logits, size_t count);

/* Makes of a picture of any size what the network was evaluated with, bit for bit: [image_height, image_width, 3]. */
DYNET_API dynet_status dynet_preprocess(const dynet_model* model, const uint8_t* picture, int32_t height,
                                        int32_t width, uint8_t* image);

/* Preprocesses a picture, runs a classifier, and gives the probabilities of its classes. */
DYNET_API dynet_status dynet_classify(dynet_model* model, const uint8_t* picture, int32_t height, int32_t width,
                                      float* probabilities);

/* Turns logits into probabilities, in place: `rows` times `classes` numbers. */
DYNET_API void dynet_softmax(float* logits, size_t rows, int32_t classes);

/* Gives the indices of the k largest of some numbers, the largest first; k is at most `count`. Of equal ones the first is
 * larger. Returns how many have been given. */
DYNET_API int32_t dynet_top_k(const float* numbers, int32_t count, int32_t k, int32_t* indices);

/* Returns how many operations a model has. */
DYNET_API int32_t dynet_operations(const dynet_model* model);

/* Runs one image by all threads and adds the seconds of each operation to `seconds`, and behind them those of all fusions of
 * kernels, which are a part of their predictors'. */
DYNET_API dynet_status dynet_profile(dynet_model* model, const uint8_t* image, int32_t height, int32_t width,
                                     double* seconds);

/* Returns a level of instructions that this processor has and this library was compiled for, from the best (0) on; NULL
 * behind the last. The environment variable DYNET_LEVEL names the one to be used. */
DYNET_API const char* dynet_level(int32_t index);

/* Returns whether the level that is used has instructions for bfloat16 arithmetic, which is the faster one then. */
DYNET_API int32_t dynet_has_bfloat16(void);

#ifdef __cplusplus
}
#endif
#endif
