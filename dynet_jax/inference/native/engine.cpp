// The C interface: a program is built operation by operation, and then run on images of any size. Functions that can
// fail return a Status.
#include "engine.h"
#include "convolution.h"
#include "predictor.h"
#include "quad_convolution.h"
#include "small_operations.h"

namespace {

Geometry geometry(const int32_t* numbers) {
  Geometry g;
  static_assert(sizeof(Geometry) == 15 * sizeof(int32_t));
  std::memcpy(&g, numbers, sizeof(Geometry));
  return g;
}

template <class T> T* add(Engine* engine, const int32_t* inputs, int count, int y) {
  auto operation = std::make_unique<T>();
  operation->inputs.assign(inputs, inputs + count);
  operation->outputs = {y};
  engine->result = y;
  T* pointer = operation.get();
  engine->operations.push_back(std::move(operation));
  return pointer;
}

Predictor* predictor_of(const Engine* engine, int coefficients) {
  for (auto& operation : engine->operations)
    if (auto candidate = dynamic_cast<Predictor*>(operation.get()))
      if (std::count(candidate->outputs.begin(), candidate->outputs.end(), coefficients)) return candidate;
  return nullptr;
}

// Of either kind. The predictor whose value the coefficients are must have been added before.
template <class T, class Arguments> static T* add_convolution(Engine* engine, const Arguments* a) {
  int32_t inputs[3] = {a->x}, used = 1, kernel = -1;
  if (a->residual >= 0) inputs[used++] = a->residual;
  Predictor* predictor = predictor_of(engine, a->coefficients);
  if (predictor) {
    kernel = engine->values++;
    predictor->outputs.push_back(kernel);
    inputs[used++] = kernel;
  }
  auto conv = add<T>(engine, inputs, used, a->y);
  conv->g = geometry(a->geometry);
  conv->x = a->x, conv->y = a->y, conv->coefficients = a->coefficients, conv->residual = a->residual;
  conv->kernel = kernel, conv->shared = a->shared, conv->group_size = a->group_size, conv->storage = a->storage;
  conv->weights = a->weights, conv->scales = a->scales, conv->bias = a->bias;
  if (predictor) predictor->convolutions.push_back(conv);
  return conv;
}

}  // namespace

// Arrays are kept by the caller for as long as the engine lives. Values are numbered from 0, the image; `values` of
// dynet_new is how many there are, and fused kernels get the numbers after them.
extern "C" {

struct LinearArguments {
  int32_t c_in, c_out, storage;
  const void* weights;
  const float *scales, *bias;
};

static Linear linear(const LinearArguments& a) {
  Linear result;
  result.c_in = a.c_in, result.c_out = a.c_out, result.storage = a.storage;
  result.weights = a.weights, result.scales = a.scales, result.bias = a.bias;
  return result;
}

struct ConvolutionArguments {
  int32_t geometry[15];
  int32_t x, y, coefficients, residual;  // values; the last two may be -1: none
  int32_t shared, group_size, storage, mode, count;
  const void* weights;
  const float *scales, *bias;
  const Block* blocks;  // `count` of them
  int64_t panels;
};

// Of bytes: see QuadConvolution.
struct QuadConvolutionArguments {
  int32_t geometry[15];
  int32_t x, y, coefficients, residual;
  int32_t shared, group_size, storage, to_floats, row, quads, unit;
  uint32_t padding;
  const void* weights;
  const float *scales, *bias;
  Requantization requantization;
};

int32_t dynet_new(Engine** engine, int32_t threads, int32_t values, int32_t packed, const float* mean,
                  const float* scale) {
  return status_of([&] {
    *engine = new Engine(threads, values, packed);
    std::copy(mean, mean + 3, (*engine)->pixels.mean);
    std::copy(scale, scale + 3, (*engine)->pixels.scale);
  });
}

void dynet_delete(Engine* engine) { delete engine; }

// Whether the processor has instructions for pairs.
int32_t dynet_has_bfloat16() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

// Words of a panel that hold the weights of a quad, see quads.h.
int32_t dynet_quad_words() { return QUAD_WORDS; }

int32_t dynet_convolution(Engine* engine, const ConvolutionArguments* a) {
  return status_of([&] {
    auto conv = add_convolution<Convolution>(engine, a);
    conv->mode = a->mode, conv->panels = a->panels;
    conv->blocks.assign(a->blocks, a->blocks + a->count);
  });
}

int32_t dynet_quad_convolution(Engine* engine, const QuadConvolutionArguments* a) {
  return status_of([&] {
    auto conv = add_convolution<QuadConvolution>(engine, a);
    conv->to_floats = a->to_floats, conv->row = a->row, conv->quads = a->quads, conv->unit = a->unit;
    conv->padding = a->padding, conv->requantization = a->requantization;
  });
}

// hidden may be null, and so may limits: c_in least means, then c_in greatest.
int32_t dynet_predictor(Engine* engine, int32_t x, const int32_t* ys, const int32_t* features, int32_t count,
                        int32_t group_size, int32_t softmax, const LinearArguments* hidden,
                        const LinearArguments* output, const float* limits) {
  return status_of([&] {
    auto predictor = add<Predictor>(engine, &x, 1, ys[count - 1]);
    predictor->outputs.assign(ys, ys + count);
    predictor->x = x, predictor->group_size = group_size, predictor->softmax = softmax;
    predictor->features.assign(features, features + count);
    if (hidden) predictor->hidden = linear(*hidden);
    predictor->output = linear(*output);
    int c_in = (hidden ? hidden : output)->c_in;
    if (limits) predictor->lower.assign(limits, limits + c_in), predictor->upper.assign(limits + c_in, limits + 2 * c_in);
  });
}

int32_t dynet_dense(Engine* engine, int32_t x, int32_t y, const LinearArguments* arrays, int32_t activation) {
  return status_of([&] {
    auto dense = add<Dense>(engine, &x, 1, y);
    dense->linear = linear(*arrays);
    dense->activation = activation;
  });
}

int32_t dynet_mean(Engine* engine, int32_t x, int32_t y) {
  return status_of([&] { add<Mean>(engine, &x, 1, y); });
}

// quads: whether the result is one of them; step, zero: their scale.
int32_t dynet_elementwise(Engine* engine, const int32_t* inputs, int32_t count, int32_t y, int32_t function,
                          int32_t quads, float step, float zero) {
  return status_of([&] {
    auto operation = add<Elementwise>(engine, inputs, count, y);
    operation->function = function, operation->quads = quads, operation->scale = {step, zero};
  });
}

int32_t dynet_max_pool(Engine* engine, const int32_t* numbers, int32_t x, int32_t y) {
  return status_of([&] { add<MaxPool>(engine, &x, 1, y)->g = geometry(numbers); });
}

// from: for each channel of the result the number of an input and of a channel of it.
int32_t dynet_channels(Engine* engine, const int32_t* inputs, int32_t count, int32_t y, const int32_t* from,
                       int32_t channels) {
  return status_of([&] {
    auto operation = add<Channels>(engine, inputs, count, y);
    for (int i = 0; i < channels; i++) operation->from.emplace_back(from[2 * i], from[2 * i + 1]);
  });
}

// shape: channels, height and width of the result; a vector has neither height nor width.
int32_t dynet_shape(Engine* engine, int32_t height, int32_t width, int32_t* shape) {
  return status_of([&] {
    Value result = engine->shape_of_result(height, width);
    shape[0] = result.channels, shape[1] = result.height, shape[2] = result.width;
  });
}

// See Engine.
int32_t dynet_run(Engine* engine, const void* images, int32_t bytes, int32_t batch, int32_t height, int32_t width,
                  float* y, int64_t outputs) {
  return status_of([&] { engine->run(images, bytes, batch, height, width, y, outputs); });
}

int32_t dynet_profile(Engine* engine, const void* image, int32_t bytes, int32_t height, int32_t width, float* y,
                      double* times) {
  return status_of([&] { engine->profile(image, bytes, height, width, y, times); });
}

}  // extern "C"
