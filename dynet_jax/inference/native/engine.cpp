// The C interface: a program is built operation by operation, and then run on images of any size.
#include <memory>
#include <mutex>

#include "predictor.h"
#include "small_operations.h"

namespace {

struct Plan {  // of one size of images: shapes, and where each value lies in memory that is used again and again
  std::vector<Value> shapes;
  std::vector<int64_t> offsets;
  int64_t floats = 0;
};

struct Memory {
  std::vector<float> content;
  float* begin = nullptr;

  void reserve(int64_t floats) {
    if (static_cast<int64_t>(content.size()) < floats + 16) content.assign(floats + 16, 0.0f);
    begin = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(content.data()) + 63) / 64 * 64);
  }
};

struct Worker {
  explicit Worker(int threads) : context(threads) {}
  Context context;
  Memory memory;
};

struct Engine {
  Engine(int threads, int values, bool paired) : values(values), paired(paired), together(threads) {
    for (int thread = 0; thread < threads; thread++) apart.emplace_back(std::make_unique<Worker>(1));
  }

  std::vector<std::unique_ptr<Operation>> operations;
  int values, result = 0;
  bool paired;  // whether maps are of pairs of channels in bfloat16
  float mean[3] = {0, 0, 0}, scale[3] = {1, 1, 1};
  Worker together;                             // all threads on one image
  std::vector<std::unique_ptr<Worker>> apart;  // one thread on each
  std::map<std::pair<int, int>, Plan> plans;
  std::mutex mutex;

  Plan make_plan(int height, int width) const {
    Plan plan;
    plan.floats = 4096;  // a tap may point before the first plane; masks drop what it finds there
    plan.shapes.resize(values);
    plan.offsets.resize(values);
    for (auto& value : plan.shapes) value.paired = paired;
    plan.shapes[0].shape(paired ? 4 : 3, height, width);
    std::vector<size_t> last(values, 0);
    for (size_t i = 0; i < operations.size(); i++)
      for (int input : operations[i]->inputs) last[input] = i;
    last[result] = operations.size();
    std::multimap<int64_t, int64_t> free;  // size -> offset
    auto take = [&](int value) {
      int64_t size = plan.shapes[value].floats();
      auto found = free.lower_bound(size);
      if (found != free.end() && found->first <= 2 * size) {
        plan.offsets[value] = found->second;
        free.erase(found);
      } else {
        plan.offsets[value] = plan.floats;
        plan.floats += size;
      }
    };
    std::vector<bool> made(values, false);
    take(0), made[0] = true;
    for (size_t i = 0; i < operations.size(); i++) {
      if (!operations[i]->shape(plan.shapes)) return Plan();
      for (int output : operations[i]->outputs) take(output), made[output] = true;
      for (int value = 0; value < values; value++)
        if (made[value] && last[value] == i) {
          free.emplace(plan.shapes[value].floats(), plan.offsets[value]);
          made[value] = false;
        }
    }
    return plan;
  }

  const Plan& plan(int height, int width) {
    auto found = plans.find({height, width});
    if (found == plans.end()) found = plans.emplace(std::make_pair(height, width), make_plan(height, width)).first;
    return found->second;
  }

  template <class Pixel>
  void split(const Pixel* __restrict from, int count, float* __restrict red, float* __restrict green,
             float* __restrict blue) const {
    const float m0 = mean[0], m1 = mean[1], m2 = mean[2], s0 = scale[0], s1 = scale[1], s2 = scale[2];
    for (int x = 0; x < count; x++) {
      red[x] = (from[3 * x] - m0) * s0;
      green[x] = (from[3 * x + 1] - m1) * s1;
      blue[x] = (from[3 * x + 2] - m2) * s2;
    }
  }

  template <class Pixel> void read(Worker& worker, const Pixel* image) const {
    const Value& to = worker.context.values[0];
    worker.context.pool.run(to.height, [&](int row, int) {
      int64_t first = static_cast<int64_t>(row) * to.width;
      const Pixel* __restrict from = image + first * 3;
      float *__restrict red = to.data + first, *__restrict green = red + to.plane, *__restrict blue = green + to.plane;
      alignas(64) float lines[3][256];
      for (int begin = 0; begin < to.width; begin += 256) {
        int count = std::min(256, to.width - begin);
        float *r = paired ? lines[0] : red + begin, *g = paired ? lines[1] : green + begin;
        float* b = paired ? lines[2] : blue + begin;
        split(from + 3 * begin, count, r, g, b);
        for (int i = 0; paired && i < count; i += LANES) {
          int part = std::min(LANES, count - i);
          store_part(red + begin + i, pair(load(r + i), load(g + i)), part);
          store_part(green + begin + i, pair(load(b + i), Vec{}), part);
        }
      }
    });
  }

  void run(Worker& worker, const Plan& plan, const void* image, bool bytes, float* y, double* times = nullptr) const {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
#endif
    flush_denormals();
    worker.memory.reserve(plan.floats);
    worker.context.values = plan.shapes;
    for (int value = 0; value < values; value++)
      worker.context.values[value].data = worker.memory.begin + plan.offsets[value];
    if (bytes) read(worker, static_cast<const uint8_t*>(image));
    else read(worker, static_cast<const float*>(image));
    worker.context.fusion = 0;
    for (size_t i = 0; i < operations.size(); i++) {
      double start = times ? seconds() : 0;
      operations[i]->run(worker.context);
      if (times) times[i] += seconds() - start;
    }
    if (times) times[operations.size()] += worker.context.fusion;
    const Value& last = worker.context.values[result];
    std::copy(last.data, last.data + last.channels, y);
#if defined(__x86_64__)
    _mm_setcsr(before);
#endif
  }
};

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

}  // namespace

// Arrays are kept by the caller for as long as the engine lives. Values are numbered from 0, the image; `values` of
// dynet_new is how many there are, and fused kernels get the numbers after them.
extern "C" {

struct LinearArrays {
  int32_t c_in, c_out, storage;
  const void* weights;
  const float *scales, *bias;
};

static Linear linear(const LinearArrays& a) {
  Linear result;
  result.c_in = a.c_in, result.c_out = a.c_out, result.storage = a.storage;
  result.weights = a.weights, result.scales = a.scales, result.bias = a.bias;
  return result;
}

Engine* dynet_new(int32_t threads, int32_t values, int32_t paired, const float* mean, const float* scale) {
  auto engine = new Engine(threads, values, paired);
  std::copy(mean, mean + 3, engine->mean);
  std::copy(scale, scale + 3, engine->scale);
  return engine;
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

// The predictor whose value the coefficients are must have been added before.
void dynet_convolution(Engine* engine, const int32_t* numbers, int32_t x, int32_t y, int32_t coefficients,
                       int32_t residual, int32_t shared, int32_t group_size, int32_t storage, int32_t mode,
                       const void* weights, const float* scales, const float* bias, const Block* blocks, int32_t count, int64_t panels) {
  int32_t inputs[3] = {x}, used = 1;
  if (residual >= 0) inputs[used++] = residual;
  Predictor* predictor = nullptr;
  for (auto& operation : engine->operations)
    if (auto candidate = dynamic_cast<Predictor*>(operation.get()))
      if (std::count(candidate->outputs.begin(), candidate->outputs.end(), coefficients)) predictor = candidate;
  int kernel = -1;
  if (predictor) {
    kernel = engine->values++;
    predictor->outputs.push_back(kernel);
    inputs[used++] = kernel;
  }
  auto conv = add<Convolution>(engine, inputs, used, y);
  conv->g = geometry(numbers);
  conv->x = x, conv->y = y, conv->coefficients = coefficients, conv->residual = residual, conv->kernel = kernel;
  conv->shared = shared, conv->group_size = group_size, conv->storage = storage, conv->mode = mode;
  conv->weights = weights, conv->scales = scales, conv->bias = bias, conv->panels = panels;
  conv->blocks.assign(blocks, blocks + count);
  if (predictor) predictor->convolutions.push_back(conv);
}

void dynet_predictor(Engine* engine, int32_t x, const int32_t* ys, const int32_t* features, int32_t count,
                     int32_t group_size, int32_t softmax, const LinearArrays* hidden, const LinearArrays* output) {
  auto predictor = add<Predictor>(engine, &x, 1, ys[count - 1]);
  predictor->outputs.assign(ys, ys + count);
  predictor->x = x, predictor->group_size = group_size, predictor->softmax = softmax;
  predictor->features.assign(features, features + count);
  if (hidden) predictor->hidden = linear(*hidden);
  predictor->output = linear(*output);
}

void dynet_dense(Engine* engine, int32_t x, int32_t y, const LinearArrays* arrays, int32_t activation) {
  auto dense = add<Dense>(engine, &x, 1, y);
  dense->linear = linear(*arrays);
  dense->activation = activation;
}

void dynet_mean(Engine* engine, int32_t x, int32_t y) { add<Mean>(engine, &x, 1, y); }

void dynet_elementwise(Engine* engine, const int32_t* inputs, int32_t count, int32_t y, int32_t function) {
  add<Elementwise>(engine, inputs, count, y)->function = function;
}

void dynet_max_pool(Engine* engine, const int32_t* numbers, int32_t x, int32_t y) {
  add<MaxPool>(engine, &x, 1, y)->g = geometry(numbers);
}

void dynet_channels(Engine* engine, const int32_t* inputs, int32_t count, int32_t y, const int32_t* from,
                    int32_t channels) {
  auto operation = add<Channels>(engine, inputs, count, y);
  for (int i = 0; i < channels; i++) operation->from.emplace_back(from[2 * i], from[2 * i + 1]);
}

// images: [batch, height, width, 3], of bytes or floats. y: [batch, outputs]. Returns 1 if they are too small.
int32_t dynet_run(Engine* engine, const void* images, int32_t bytes, int32_t batch, int32_t height, int32_t width,
                  float* y, int32_t outputs) {
  std::lock_guard<std::mutex> lock(engine->mutex);
  const Plan& plan = engine->plan(height, width);
  if (!plan.floats) return 1;
  auto image = [&](int i) {
    return static_cast<const char*>(images) + static_cast<int64_t>(i) * height * width * 3 * (bytes ? 1 : 4);
  };
  Pool& pool = engine->together.context.pool;
  if (batch < 2 * pool.threads()) {
    for (int i = 0; i < batch; i++) engine->run(engine->together, plan, image(i), bytes, y + i * outputs);
  } else {
    pool.run(batch, [&](int i, int thread) {
      engine->run(*engine->apart[thread], plan, image(i), bytes, y + i * outputs);
    });
  }
  return 0;
}

// Runs one image, and adds the seconds of every operation to `times`, and after them those of all fusions together,
// which are a part of the predictors'.
int32_t dynet_profile(Engine* engine, const void* image, int32_t bytes, int32_t height, int32_t width, float* y,
                      double* times) {
  std::lock_guard<std::mutex> lock(engine->mutex);
  const Plan& plan = engine->plan(height, width);
  if (!plan.floats) return 1;
  engine->run(engine->together, plan, image, bytes, y, times);
  return 0;
}

}  // extern "C"
